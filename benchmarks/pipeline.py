"""From files to gradients: where the time of a training goes. Writes a CSV.

    python benchmarks/pipeline.py --out benchmarks/results/pipeline.csv          # about 5 minutes on two cores

EVL on CLIP ViT-B/16 with random weights, 8 frames of 224 px, trains on videos that are made first: 10 s of 340 x 256
and 4 s of 1920 x 1080, 30 frames a second, H.264 as x264 makes it by default. Every stage is timed by itself, then the
loader with 0, 1 and 2 workers, then the whole training. A line of the CSV is one figure: of which source, of what, and
its unit. `cores for N views/s` is what a device that trains N videos a second needs, on this machine's cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decode import make
from muybridge.engine.device import pick_device
from muybridge.measure.machine import machine_facts
from muybridge.measure.pipeline import WORD, cores_needed, loader_rate, stages, stepper_for, training_rate
from muybridge.measure.table import append_row
from muybridge.measure.workload import Workload
from muybridge.structures import Item, Sampling, Transform
from muybridge.video.dataset import VideoDataset

SOURCES = {"10 s 340x256": (10, 256, 340), "4 s 1080p": (4, 1080, 1920)}
TINY = {"1 s 64x48": (1, 48, 64)}
VIEWS = (25, 100, 400)
NAMES = 24  # files of a source: one that is made, under so many names


@dataclass
class Lines:
    """Figures of one source."""

    source: str
    facts: dict[str, Any]
    out: Path

    def add(self, what: str, value: float, unit: str) -> None:
        """One more, printed and written."""
        print(f"{self.source:14} {what:42} {value:10.3f} {unit}", flush=True)
        row = {"source": self.source, "what": what, "value": round(value, 4), "unit": unit, **self.facts}
        append_row(self.out, row)


def videos(folder: Path, shape: tuple[int, int, int]) -> list[Item]:
    """One file under many names, so that its index is not known from before."""
    first = folder / "0.mp4"
    make(first, *shape)
    for number in range(1, NAMES):
        os.link(first, folder / f"{number}.mp4")
    return [Item(str(folder / f"{number}.mp4"), number % 4, f"{number}.mp4") for number in range(NAMES)]


def main() -> None:
    """A line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3, help="of the whole training, for each number of workers")
    parser.add_argument("--device", default=None)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it works")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    size = (28, 28) if asked.tiny else (224, 224)
    backbone = "dinov2_vits14" if asked.tiny else "clip_vitb16"
    workload = Workload("evl", backbone=backbone, frames=2 if asked.tiny else 8, image_size=size)
    stepper = stepper_for(workload.build(device))
    for source, shape in (TINY if asked.tiny else SOURCES).items():
        lines = Lines(source, machine_facts(device), asked.out)
        with tempfile.TemporaryDirectory() as folder:
            items = videos(Path(folder), shape)
            data = VideoDataset(items, Sampling(workload.frames), Transform(size), True, 0)
            raw = VideoDataset(items, Sampling(workload.frames), Transform(size), True, 0, raw=True)
            costs = stages(data, stepper, asked.batch, asked.rounds)
            for name, value in costs.milliseconds().items():
                lines.add(name.replace("_", " "), value, "ms/video")
            for views in VIEWS:
                for on, seconds in (("workers", costs.worker), ("device", costs.decode)):
                    what = f"cores for {views} views/s, transforms {WORD[on]}"
                    lines.add(what, cores_needed(views, seconds), "cores")
            for workers in asked.workers:
                for on, dataset in (("workers", data), ("device", raw)):
                    rate = loader_rate(dataset, asked.batch, workers)
                    lines.add(f"loader, {workers} workers, transforms {WORD[on]}", rate, "videos/s")
            for workers in asked.workers:
                rate, share = training_rate(data, stepper, asked.batch, workers, asked.steps)
                lines.add(f"training, {workers} workers", rate, "videos/s")
                lines.add(f"training, {workers} workers, waits", share, "of the time")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    main()
