"""What was written is run and compared with the model it was made of, before anybody relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muybridge.demo.films import CLASSES, film
from muybridge.errors import MuybridgeError, VideoError
from muybridge.export.standalone import Floats, Run, scores
from muybridge.recipes import read_recipe
from muybridge.recogniser import Recogniser
from muybridge.structures import Sampling
from muybridge.video.opened import Frames
from muybridge.video.opening import open_item
from muybridge.video.sampling import test_indices
from muybridge.video.sources import read_split
from muybridge.video.transforms import test_video

# Largest difference of a probability in each precision; int8 is judged by what it answers.
LARGEST = {"full": 1e-3, "half": 2e-2, "int8": 1.0}
# Of the best classes, below which int8 is no longer the same model.
LEAST_AGREEMENT = 0.5
# Frames that lose their fractions on the way to the file may answer so much otherwise.
LARGEST_ROUNDED = 5e-2
VIDEOS = 16


class NotTheSame(MuybridgeError):
    """What was written answers otherwise than the model it was made of; it was removed."""


@dataclass(frozen=True)
class Footage:
    """What models are compared on.

    Attributes:
        views: of each video its temporal views, uint8 [T, H, W, 3].
        source: what they are, in words.
    """

    views: list[list[Frames]] = field(repr=False)
    source: str


@dataclass(frozen=True)
class Check:
    """How an exported model compares with the one it was made of.

    Attributes:
        videos: how many were compared.
        source: what they were.
        difference: the largest of any probability, from decoded frames on.
        agreement: share of videos whose best class is the same.
        runtime: the largest difference from the same graph run by torch on the same bytes, in fp32.
        together: the largest difference when videos are run as one batch rather than one by one.
    """

    videos: int
    source: str
    difference: float
    agreement: float
    runtime: float
    together: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.videos} {self.source}: probabilities differ by at most {self.difference:.1e}, "
            f"the best class is the same in {self.agreement:.0%}"
        )


def footage(run: str | Path | None, sampling: Sampling, size: tuple[int, int], most: int = VIDEOS) -> Footage:
    """Videos to compare on: the run's own validation videos, evenly spread, where they are there; else synthetic films.

    Args:
        run: its folder, or any other; None: none.
        sampling: which frames are read.
        size: (height, width) of what the model reads, in pixels; synthetic films are a third larger.
        most: how many videos.
    """
    views = list(_of_run(Path(run), sampling, most)) if run is not None else []
    if views:
        return Footage(views, "validation videos of the run" if len(views) > 1 else "validation video of the run")
    side = max(32, max(size) * 4 // 3 // 2 * 2)
    frames = max(24, sampling.frames + sampling.views)
    for number in range(most):
        whole = film(CLASSES[number % len(CLASSES)], "val", number, size=side, frames=frames)
        whole = whole[:, side // 8 : side - side // 8] if number % 2 else whole[:, :, side // 8 : side - side // 8]
        views.append([np.ascontiguousarray(whole[view]) for view in test_indices(frames, sampling)])
    return Footage(views, "synthetic films")


def _of_run(run: Path, sampling: Sampling, most: int) -> Sequence[list[Frames]]:
    """The views of validation videos that are there and can be read."""
    if not (run / "split.csv").is_file() or not (run / "recipe.json").is_file():
        return []
    recipe = read_recipe(run / "recipe.json")
    items = read_split(run / "split.csv", recipe.data).val
    found: list[list[Frames]] = []
    for number in range(min(most, len(items))):
        try:
            with open_item(items[number * len(items) // min(most, len(items))], recipe.source) as video:
                chosen = test_indices(video.frame_count, sampling)
                frames = video.read([index for view in chosen for index in view])
        except (VideoError, OSError):
            continue
        found.append(list(frames.reshape(len(chosen), sampling.frames, *frames.shape[1:])))
    return found


@torch.inference_mode()
def eager(recogniser: Recogniser, views: Sequence[Frames]) -> Floats:
    """Probabilities [K] of a video by its views, as the recogniser computes them."""
    crops = recogniser.sampling.crops
    single = recogniser.sampling.views * crops == 1
    videos = torch.cat([test_video(view, recogniser.spec.transform, crops, single) for view in views])
    logits = recogniser.method(videos.to(recogniser.device)).logits
    return logits.float().softmax(dim=-1).mean(dim=0).cpu().numpy()


def compare(recogniser: Recogniser, run: Run, plain: Run, told: dict[str, Any], videos: Footage) -> Check:
    """Compare what was written with what it was made of.

    Args:
        recogniser: the model.
        run: what was written, opened again.
        plain: the same graph in fp32, run by torch.
        told: the metadata of what was written.
        videos: to compare on.
    """
    wanted = np.stack([eager(recogniser, views) for views in videos.views])
    got = np.stack([scores(run, told, views) for views in videos.views])
    same = np.stack([scores(plain, told, views) for views in videos.views])
    # Several at a time: the videos of the first one's size. The mean over their views is the mean of their answers.
    first = videos.views[0][0].shape
    alike = [place for place, views in enumerate(videos.views) if views[0].shape == first][:4]
    joined = scores(run, told, [view for place in alike for view in videos.views[place]])
    return Check(
        videos=len(got),
        source=videos.source,
        difference=float(np.abs(got - wanted).max()),
        agreement=float((got.argmax(1) == wanted.argmax(1)).mean()),
        runtime=float(np.abs(got - same).max()),
        together=float(np.abs(joined - got[alike].mean(0)).max()),
    )


def fault(check: Check, precision: str, rounded: bool) -> str:
    """What is wrong with an export, in words; empty: nothing.

    Args:
        check: of the export.
        precision: `full`, `half` or `int8`.
        rounded: the model was trained on frames with fractions of levels and is now given bytes.
    """
    limit = LARGEST[precision]
    for what, found, most in (
        ("probabilities differ", check.difference, max(limit, LARGEST_ROUNDED) if rounded else limit),
        ("probabilities differ from the same graph's in torch", check.runtime, limit),
        ("probabilities of several videos at a time differ", check.together, limit),
    ):
        if not found <= most:  # also where it is no number
            return f"{what} by {found:.1e}; expected at most {most:.0e} in {precision} precision"
    if precision == "int8" and check.agreement < LEAST_AGREEMENT:
        return f"the best class is the same in only {check.agreement:.0%} of {check.videos} videos"
    return ""
