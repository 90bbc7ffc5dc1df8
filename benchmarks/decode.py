"""8 frames out of a video by index against decoding everything, and against torchcodec where that is installed.

python benchmarks/decode.py --out benchmarks/results/decode.csv

The videos are made first: 10 s of 340 x 256 and 60 s of 1920 x 1080, 30 frames a second, H.264 as x264 makes it by
default (groups of up to 250 pictures, 3 B-frames). Every way is taken in turn, a repetition each, in one process on one
thread; CPU seconds, so that other work on the machine counts little. `again` is the second opening of a file whose
index is still known, as in parts of one long video.

A second table says what scaling in the decoder would bring: FFmpeg's scaler (bilinear, bicubic or area) on the decoded
picture against its conversion to RGB and torch's antialiased bilinear resize to a short side of 256 pixels. It is not
used: of 1080p it saves 2 of 4 ms a frame, 17 ms of 0.3 to 1.4 s for 8 frames, and grey levels differ by 1.6 on average
and by up to 17, so that accuracies would no longer be those of the published pipelines.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation, VideoReformatter

from muybridge.errors import MuybridgeError
from muybridge.measure.table import append_row
from muybridge.structures import Item, Sampling, SourceArgs
from muybridge.video import container
from muybridge.video.decode import decode_in_order, open_video
from muybridge.video.draws import generator
from muybridge.video.opening import open_item
from muybridge.video.sampling import TRAIN_RULES, train_indices

VIDEOS = {"10 s 340x256": (10, 256, 340), "60 s 1080p": (60, 1080, 1920)}


def make(path: Path, seconds: int, height: int, width: int) -> None:
    """A video of drifting clouds and squares, with the noise of a camera."""
    draws = np.random.default_rng(0)
    clouds = np.kron(draws.integers(40, 200, (height // 16 + 40, width // 16 + 40, 3)), np.ones((16, 16, 1)))
    clouds = (clouds + np.roll(clouds, 7, 0) + np.roll(clouds, 9, 1)) / 3
    noise = draws.normal(0, 3, (8, height, width, 1))
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(seconds * 30):
            top, left = int(200 + 180 * np.sin(number / 50)), number % 300
            picture = clouds[top : top + height, left : left + width] + noise[number % 8]
            row = number * 5 % (height - height // 5)
            picture[row : row + height // 5, width // 3 : width // 2] = 30 + number % 200
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


def everything(path: Path, indices: list[int]) -> None:
    """Decode all frames in order and turn the wanted ones into RGB."""
    wanted, reformatter = set(indices), VideoReformatter()
    for index, frame in enumerate(decode_in_order(str(path))):
        if index in wanted:
            reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def by_index(path: Path, indices: list[int], decoder: str, again: bool = False) -> None:
    """Open the file and read the wanted frames."""
    if not again:
        container._scanned.clear()
    with open_item(Item(str(path), 0, path.name), SourceArgs(decoder=decoder)) as video:  # type: ignore[arg-type]
        video.read(indices)


def cpu(run: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def ways(path: Path) -> dict[str, Callable[[list[int]], None]]:
    """The decoders that work here, by name."""
    found: dict[str, Callable[[list[int]], None]] = {
        "everything": lambda indices: everything(path, indices),
        "pyav": lambda indices: by_index(path, indices, "pyav"),
        "pyav, again": lambda indices: by_index(path, indices, "pyav", again=True),
    }
    try:
        by_index(path, [0], "torchcodec")
        found["torchcodec"] = lambda indices: by_index(path, indices, "torchcodec")
    except MuybridgeError as error:
        print(f"without torchcodec: {error}")
    return found


def machine() -> str:
    """What the figures were measured with, in one cell."""
    import importlib.metadata

    names = ("av", "torch", "torchcodec")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "; ".join(
        [f"{platform.machine()}, {os.cpu_count()} cores", f"Python {platform.python_version()}", *versions]
    )


def compare(path: Path, title: str, repeats: int, out: Path) -> None:
    """Rows of CPU seconds for every rule and decoder."""
    with open_video(path) as video:
        count = video.frame_count
    samplings = {rule: Sampling(frames=8, rule=rule, stride=8) for rule in TRAIN_RULES}  # type: ignore[arg-type]
    indices = {rule: train_indices(count, samplings[rule], generator(0, 0, 0, 0)) for rule in samplings}
    times: dict[tuple[str, str], list[float]] = {}
    found = ways(path)
    for _ in range(repeats):
        for rule, chosen in indices.items():
            for way, read in found.items():
                if way != "everything" or rule == "segments":
                    times.setdefault((rule, way), []).append(cpu(lambda read=read, chosen=chosen: read(chosen)))  # type: ignore[misc]
    whole = median(times["segments", "everything"])
    for (rule, way), taken in times.items():
        seconds = median(taken)
        row = {"video": title, "rule": "any" if way == "everything" else rule, "decoder": way}
        row |= {"cpu_s": f"{seconds:.4f}", "share": f"{seconds / whole:.3f}", "videos_per_s": f"{1 / seconds:.1f}"}
        print(*row.values(), sep="\t", flush=True)
        append_row(out, {**row, "repeats": repeats, "machine": machine()})


def scaling(path: Path, title: str, repeats: int, out: Path) -> None:
    """Rows of milliseconds a frame, and how far the grey levels differ."""
    frames = [frame for frame, _ in zip(decode_in_order(str(path)), range(40), strict=False)][::5]
    height, width = frames[0].height, frames[0].width
    size = (256, round(width * 256 / height))

    def full() -> torch.Tensor:
        reformatter = VideoReformatter()
        pictures = [reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray() for frame in frames]
        video = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return F.interpolate(video, size, mode="bilinear", antialias=True)

    def scaled(kind: Interpolation) -> torch.Tensor:
        reformatter = VideoReformatter()
        options = {"width": size[1], "height": size[0], "format": "rgb24", "threads": 1, "interpolation": kind}
        pictures = [reformatter.reformat(frame, **options).to_ndarray() for frame in frames]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    kinds = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC, "area": Interpolation.AREA}
    runs: dict[str, Callable[[], torch.Tensor]] = {"RGB, then torch": full}
    runs |= {f"in the decoder, {name}": (lambda kind=kind: scaled(kind)) for name, kind in kinds.items()}  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(cpu(run))  # type: ignore[misc]
    reference = full().float()
    for name, run in runs.items():
        away = (run().float() - reference).abs()
        row = {
            "video": title,
            "how": name,
            "ms_per_frame": f"{median(times[name]) / len(frames) * 1000:.2f}",
            "mean_difference": f"{away.mean():.2f}",
            "largest_difference": f"{away.max():.0f}",
        }
        print(*row.values(), sep="\t", flush=True)
        append_row(out, {**row, "repeats": repeats, "machine": machine()})


def main() -> None:
    """Make the videos, measure, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to; a second one beside it")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--videos", type=Path, default=Path("runs/decode"), help="folder where the videos are kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.videos.mkdir(parents=True, exist_ok=True)
    paths = {}
    for title, sizes in VIDEOS.items():
        paths[title] = given.videos / f"{title.replace(' ', '_')}.mp4"
        if not paths[title].exists():
            make(paths[title], *sizes)
    for title, path in paths.items():
        compare(path, title, given.repeats, given.out)
    for title, path in paths.items():
        scaling(path, title, given.repeats, given.out.with_name(f"{given.out.stem}_scaling.csv"))


if __name__ == "__main__":
    main()
