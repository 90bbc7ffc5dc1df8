"""The demo's data set: short films of toys, drawn by rule, whose classes are twins in time.

`write_films` writes real H.264 files, `folder/train/<class>/*.mp4` and `folder/val/<class>/*.mp4`, of ten things that
can be done to a toy. The ten are five pairs of twins (`TWINS`), and a twin's film *is* the other's film backwards: both
are planned from one distribution, drawn by one renderer, and the second of a pair is turned round afterwards, with the
camera's shake, the light and the sensor's noise. So no single frame and no unordered bag of frames tells twins apart;
only the order does. Two more doors are shut:

* *Compression.* H.264 predicts a frame from earlier ones, so its blur would follow the arrow of time. Every frame is
  therefore coded by itself with one fixed quantiser; the decoded twin is the decoded film backwards, bit for bit.
* *Sampling.* With 24 frames the middle frames of 8 equal segments (1, 4, ..., 22) are the same set backwards.

Nor does one place in the film tell: an action has a random start, length and easing, and three films in five show it
twice, in two takes with a cut between them, another toy at another place, and so a fresh beginning in the middle.

A film belongs to a split, and splits share no texture, outline or hue (`textures.SPLITS`): all three come from disjoint
lists, and every other draw from a generator of the film's own. `FilmPlan` says what is in a film; it is drawn from
SHA-256 of (seed, split, class, index), so a film depends neither on the number of worker processes nor on the films
around it.

Letters: T frames, S side of the (square) picture in pixels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from muybridge import errors
from muybridge.demo.scenes import SCENES, Take, bystander, drift, paste, progress, wall
from muybridge.demo.textures import SPLITS, Skin, Thing, draw_skin, draw_thing

Film = NDArray[np.uint8]  # [T, S, S, 3], RGB

# action: (class, its twin). The first is drawn forwards; the second is the same kind of film, turned round in time.
PAIRS = {
    "across": ("moving something from left to right", "moving something from right to left"),
    "lift": ("lifting something up", "lowering something down"),
    "near": ("moving something towards the camera", "moving something away from the camera"),
    "open": ("opening something", "closing something"),
    "uncover": ("uncovering something", "covering something"),
}
TWINS = {a: b for pair in PAIRS.values() for a, b in (pair, pair[::-1])}
CLASSES = tuple(sorted(TWINS))

RATE = 12  # frames a second: 24 frames are a film of two seconds
QUANTISER = "26"  # about 33 dB and 40 kB a film of 24 frames at 112 px; the noise is most of both
NOISE = 3.0  # standard deviation of the sensor's noise, of 255


@dataclass(frozen=True)
class FilmPlan:
    """All that is in a film; `render` adds no chance of its own.

    Attributes:
        label: the class.
        split: `train` or `val`.
        size: side of the picture in pixels.
        frames: how many.
        seed: of camera, light and noise.
        background: the wall behind the scene.
        cloth: the skin of doors, cloths and shelves.
        bystanders: smaller toys that have nothing to do with the action, at rest or wandering.
        takes: one or two, in order; each shows the action.
    """

    label: str
    split: str
    size: int
    frames: int
    seed: int
    background: Skin
    cloth: Skin
    bystanders: tuple[Thing, ...]
    takes: tuple[Take, ...]

    @property
    def action(self) -> str:
        """The key in `PAIRS`; twins have the same."""
        return next(action for action, pair in PAIRS.items() if self.label in pair)

    @property
    def backwards(self) -> bool:
        """Whether the film is turned round after it was drawn."""
        return PAIRS[self.action][1] == self.label

    @property
    def things(self) -> tuple[Thing, ...]:
        """Every toy in the film."""
        return tuple(take.thing for take in self.takes) + self.bystanders

    @property
    def skins(self) -> tuple[Skin, ...]:
        """Every texture in the film: the identity that splits must not share."""
        return (self.background, self.cloth, *(thing.skin for thing in self.things))


def plan_film(label: str, split: str, index: int, seed: int = 0, size: int = 112, frames: int = 24) -> FilmPlan:
    """What the film `index` of this class and split shows."""
    if label not in TWINS:
        raise errors.unknown("class", label, CLASSES)
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)
    if size < 32 or size % 2 or frames < 8:
        raise errors.BadInput(
            f"size is {size} and frames is {frames}; a film needs an even size of at least 32 pixels and 8 frames."
        )
    return draw_plan(_generator(seed, split, label, index), label, split, size, frames)


def draw_plan(rng: Generator, label: str, split: str, size: int, frames: int) -> FilmPlan:
    """A plan at random. It does not look at `label`: that twins are planned alike rests on this."""
    material = SPLITS[split]
    # Dealt out, so that a toy differs in colour from what is around it.
    hues = tuple(int(hue) for hue in rng.permutation(material.hues))
    cut = [round(rng.uniform(0.35, 0.65) * frames)] if rng.random() < 0.6 else []
    takes = []
    for begin, end in pairwise([0, *cut, frames]):
        # Of two takes each may begin or end in the middle of things, but shows four fifths of the action.
        length, hidden = (rng.uniform(0.7, 1.2), 0.2) if cut else (rng.uniform(0.5, 0.9), 0.0)
        start = rng.uniform(-hidden * length, 1 - (1 - hidden) * length)
        ease = float(2 ** rng.uniform(-0.6, 0.6))
        thing = draw_thing(rng, split, hues[:2])
        takes.append(Take(begin, end, start, start + length, ease, thing, tuple(rng.random(8).tolist())))
    bystanders = tuple(draw_thing(rng, split, hues[2:4]) for _ in range(rng.integers(2)))
    back, drape = draw_skin(rng, material.backgrounds, hues[4:]), draw_skin(rng, material.backgrounds, hues[2:4])
    return FilmPlan(label, split, size, frames, int(rng.integers(2**48)), back, drape, bystanders, tuple(takes))


def film(label: str, split: str = "train", index: int = 0, seed: int = 0, size: int = 112, frames: int = 24) -> Film:
    """One film of the data set as frames, uint8 [T, S, S, 3], before it is compressed."""
    return render(plan_film(label, split, index, seed, size, frames))


def render(plan: FilmPlan) -> Film:
    """Draws a film: wall, bystanders, the scenes of its takes; then light, noise and the direction of time."""
    rng = _generator(plan.seed, "camera")
    size, count = plan.size, plan.frames
    shake = [0.012 * drift(rng, count, 8) + 0.06 * drift(rng, count, 1.2) for _ in range(2)]
    camera_x, camera_y = (np.clip(curve, -0.18, 0.18) for curve in shake)
    light = 1 + 0.1 * drift(rng, count, 1.5)
    scene = [(0, bystander(rng, thing, count)) for thing in plan.bystanders]
    for take in plan.takes:
        scene += [(take.begin, layer) for layer in SCENES[plan.action](take, plan.cloth, progress(take))]
    frames = wall(plan.background, size, camera_x, camera_y)
    for begin, layer in scene:
        # A border of one clear pixel lets `paste` clamp what lies outside to "nothing there".
        sprite = np.pad(layer.sprite, ((1, 1), (1, 1), (0, 0)))
        for t, (x, y, width, height, angle) in enumerate(layer.path, begin):
            paste(frames[t], sprite, x + camera_x[t], y + camera_y[t], width, height, angle)
    frames *= 255 * light[:, None, None, None]
    frames += NOISE * rng.standard_normal((count, size, size, 1), dtype=np.float32)
    frames += rng.random((count, size, size, 1), dtype=np.float32)  # rounds without bands
    video = np.clip(frames, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(video[::-1]) if plan.backwards else video


def encode(frames: Film, path: str | Path, rate: int = RATE) -> None:
    """Writes frames [T, H, W, 3] as H.264 in mp4 (yuv420p), every frame by itself (see the top of this file)."""
    options = {"qp": QUANTISER, "preset": "veryfast", "g": "1", "bf": "0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1  # the processes are the parallelism
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_film(path: str | Path, label: str, split: str = "val", index: int = 0, seed: int = 0) -> Path:
    """Writes one film of the data set and returns its path; indices beyond the data set's give films not in it."""
    _make(plan_film(label, split, index, seed), str(path))
    return Path(path)


def write_films(
    folder: str | Path,
    classes: Sequence[str] | None = None,
    train: int = 40,
    val: int = 20,
    seed: int = 0,
    size: int = 112,
    frames: int = 24,
    workers: int = 2,
    progress: Callable[[], None] | None = None,
) -> Path:
    """Writes the data set, `folder/<split>/<class>/<number>.mp4`, and returns the folder.

    The films are made beside the folder and take its name when all are there, so a folder is never half full.

    Args:
        folder: must not exist yet, or be empty.
        classes: names from `CLASSES`; all of them if None.
        train: films per class to train with.
        val: films per class to validate with.
        seed: other seeds give other films.
        size: side of the picture in pixels, even.
        frames: frames per film.
        workers: processes; 1 or less: this one. Processes are spawned, so a script that asks for several must keep
            its own calls under `if __name__ == "__main__":`.
        progress: called after each film.

    Raises:
        UnknownName: a class that is not in `CLASSES`.
        BadInput: the folder holds something already, or sizes and counts cannot be.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.BadInput(f"{folder} is there already and not empty; give a new folder or delete it first.")
    names = CLASSES if classes is None else tuple(dict.fromkeys(classes))
    if not names or train < 1 or val < 0:
        raise errors.BadInput(f"{len(names)} classes, train {train}, val {val}: nothing to train with; raise them.")
    counts = {split: count for split, count in (("train", train), ("val", val)) if count}
    # Planned here, all of them: an unknown name or an impossible size is an error before anything is written.
    plans = {
        Path(split, name, f"{index:04d}.mp4"): plan_film(name, split, index, seed, size, frames)
        for split, count in counts.items()
        for name in names
        for index in range(count)
    }
    workshop = folder.absolute().with_name(f".{folder.name}.{os.getpid()}")
    try:
        for home in {path.parent for path in plans}:
            (workshop / home).mkdir(parents=True)
        jobs = [(plan, str(workshop / path)) for path, plan in plans.items()]
        _make_all(jobs, workers, progress or (lambda: None))
        if folder.exists():
            folder.rmdir()
        workshop.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return folder


def _make_all(jobs: list[tuple[FilmPlan, str]], workers: int, progress: Callable[[], None]) -> None:
    if workers <= 1:
        for plan, path in jobs:
            _make(plan, path)
            progress()
        return
    # Spawned, not forked: a process that has run torch holds threads, and a fork of it may hang.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_make, plan, path) for plan, path in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                progress()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make(plan: FilmPlan, path: str) -> None:
    encode(render(plan), path)


def _generator(*words: object) -> Generator:
    """A generator for these words and no others."""
    digest = hashlib.sha256("\0".join(str(word) for word in words).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
