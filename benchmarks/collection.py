"""How many videos a second `predict --out` answers: in one process, and by one and two workers of Ray. Writes a CSV.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/collection.py --out benchmarks/results/collection.csv

EVL on ViT-B/16 with random weights, 8 frames of 224 px, one view; the demo's films of 24 frames and 112 px, so that
decoding is a small part. Every way has all cores: one process and one worker have a thread for each, two workers share
them.

`videos_per_second` is that of the whole job, with the start of Ray, sending the model and starting the workers in
`start_seconds`: until the first block is there. `steady` counts from the first block of every worker on: what a long
job comes to. On a busy machine two threads that wait for each other cost more than two workers with one.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import torch

from muybridge.backbones.weights import backbone_info, backbone_sha256
from muybridge.demo.films import CLASSES, write_films
from muybridge.engine.answers import Answer, Question
from muybridge.engine.collected import Block, CollectionArgs
from muybridge.engine.collection import Engine, in_this_process, predict_collection
from muybridge.engine.progress import Progress
from muybridge.engine.ray_jobs import through_ray
from muybridge.measure.table import append_row
from muybridge.methods import build_method
from muybridge.recipes.fields import to_dict
from muybridge.recogniser import Recogniser
from muybridge.structures import CLIP_MEAN, CLIP_STD, ModelSpec, Sampling, Transform
from muybridge.testing.tiny import random_backbone

BLOCK = 4


def main() -> None:
    """Measure each way once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    info = backbone_info("clip_vitb16")
    backbone = random_backbone(info.config)
    method = build_method("evl", backbone, len(CLASSES), 8, (224, 224), {})
    transform = Transform(mean=CLIP_MEAN, std=CLIP_STD)
    about = to_dict(backbone.config), backbone_sha256(backbone)
    spec = ModelSpec("evl", {}, "custom", *about, tuple(CLASSES), Sampling(frames=8), transform)
    with tempfile.TemporaryDirectory() as name:
        each = -(-asked.videos // len(CLASSES))
        films = sorted(write_films(Path(name) / "films", CLASSES, train=each, val=1, workers=1).rglob("*.mp4"))
        films = films[: asked.videos]
        ways = [("local", 0, in_this_process(torch.device("cpu"), 1))]
        ways += [("ray", workers, through_ray(workers=workers)) for workers in (1, 2)]
        for engine, workers, compute in ways:
            clock = _Clock(compute)
            model = Recogniser(method, spec)
            begun = time.monotonic()
            args = CollectionArgs(block=BLOCK)
            predict_collection(model, films, Path(name) / f"{engine}-{workers}", args, clock)
            seconds = time.monotonic() - begun
            begin = max(workers, 1)  # blocks that are done together at the start
            first, last = clock.times[begin - 1], clock.times[-1]
            row = {
                "engine": engine,
                "workers": workers,
                "videos": len(films),
                "seconds": round(seconds, 1),
                "videos_per_second": round(len(films) / seconds, 3),
                "start_seconds": round(clock.times[0] - begun, 1),
                "steady": round((len(films) - BLOCK * begin) / (last - first), 3),
                "cores": cores,
                "machine": platform.machine(),
                "torch": torch.__version__,
                "ray": import_module("ray").__version__,
                "python": platform.python_version(),
            }
            print(row, flush=True)
            append_row(asked.out, row)


class _Clock:
    """An engine, and when each of its blocks was there."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.times = engine, list[float]()

    def __call__(
        self, question: Question, blocks: Sequence[Block], progress: Progress
    ) -> Iterator[tuple[int, list[Answer]]]:
        for done in self.engine(question, blocks, progress):
            self.times.append(time.monotonic())
            yield done


if __name__ == "__main__":
    main()
