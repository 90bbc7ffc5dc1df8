"""What cached features save: seconds per epoch from files, from disk, and from memory. Writes a CSV.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/cache.py --out benchmarks/results/cache.csv
    OMP_WAIT_POLICY=PASSIVE python benchmarks/cache.py --parts probe,accuracy

The policy is needed for a fair comparison. Without it torch's idle threads spin, which on a busy machine made every way
without a second thread, memory too, three times as slow as features from disk: a `reached` of 2.6, which cannot be.

An epoch from files decodes, runs the frozen backbone and trains. With features the training alone is left, and no cache
can be quicker than with all features in memory: `ceiling` is how many times quicker that is, `ratio` how many times
quicker features from disk are, and `reached` the one over the other; `reached_cpu` is the same of CPU time, which
others on the machine hardly change and which counts what is read while the step before is computed.

Backbone of ViT-B/16's shape with random weights, 8 frames of 224 px (DiST: 16, of which 8 are sparse), films of 10 s
and 336 x 256 px, batches of 4. Disk means files that were just written, so mostly the system's memory: how quick a
slower disk must be is `megabytes` a video over the seconds that a video takes.

`accuracy` trains EVL on the demo's films from disk in both precisions, and says how far fp16 and bf16 move features and
scores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from muybridge.backbones.weights import backbone_info, load_backbone
from muybridge.demo.films import CLASSES, PAIRS, write_films
from muybridge.engine.batches import Batches, FeatureBatches, VideoBatches
from muybridge.engine.features import StoredBatches, compute_features, megabytes, store_features
from muybridge.engine.progress import Progress
from muybridge.engine.train import train
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row
from muybridge.methods import build_method
from muybridge.methods.base import Features, Method
from muybridge.recipes import fit_to_backbone
from muybridge.structures import Item, Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone
from muybridge.video.dataset import VideoDataset, read_source

VIDEOS, BATCH, CPU = 8, 4, torch.device("cpu")
METHODS: dict[str, tuple[dict[str, Any], int]] = {"evl": ({}, 8), "dist": ({"ratio": 2}, 16), "probe": ({}, 8)}
PARTS = (*METHODS, "accuracy")
FIELDS = (  # noqa: SIM905 - shorter so
    "part,method,precision,videos,batch,megabytes,"
    "uncached_s,disk_s,memory_s,uncached_cpu_s,disk_cpu_s,memory_cpu_s,compute_s,ratio,ceiling,reached,reached_cpu,"
    "top1,feature_error,score_error,wait_policy,machine,cores,threads,torch,python,muybridge,commit"
).split(",")


def write_film(path: Path, seed: int, seconds: int = 10, rate: int = 30, height: int = 256, width: int = 336) -> None:
    """A film of soft moving noise, H.264."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 256, (height // 8, 2 * width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(seconds * rate):
            picture = np.ascontiguousarray(ground[:, t : t + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def epoch_seconds(method: Method, batches: Batches, epoch: int = 0) -> tuple[float, float]:
    """Seconds of an epoch, and seconds of CPU time: forward, backward and a step of AdamW for every batch."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)
    method.train()
    begun, cpu = time.perf_counter(), time.process_time()
    for batch in batches.epoch(epoch):
        output = method.readout(batch.inputs) if isinstance(batch.inputs, dict) else method(batch.inputs)
        loss = torch.nn.functional.cross_entropy(output.logits, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begun, time.process_time() - cpu


def replace_batch(batches: StoredBatches, batch_size: int) -> StoredBatches:
    """The same with other batches."""
    return StoredBatches(batches.store, batches.transform, batches.count, batch_size, batches.seed, batches.views)


def measure(name: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Seconds per epoch of a method from files, disk and memory; the medians of interleaved epochs."""
    options, frames = METHODS[name]
    vit = random_backbone(backbone_info("clip_vitb16").config)
    torch.manual_seed(0)
    method = build_method(name, vit, 10, frames, (224, 224), options)
    items = []
    for i in range(VIDEOS):
        path = folder / f"{i}.mp4"
        if not path.exists():
            write_film(path, i)
        items.append(Item(str(path), i % 10, path.name))
    dataset = VideoDataset(items, Sampling(frames=frames), Transform(), True, 0)
    files = VideoBatches(dataset, BATCH, 0, 1)
    begun = time.perf_counter()
    disk = store_features(method, files, CPU, folder / "features", 1, "half")
    compute = time.perf_counter() - begun
    (whole,) = replace_batch(disk, VIDEOS).epoch(0)
    order = whole.indices.argsort()
    assert isinstance(whole.inputs, dict)
    features = {name: tensor[order] for name, tensor in whole.inputs.items()}
    memory = FeatureBatches(features, whole.labels[order], {}, BATCH, 0, 1)
    for batches in (disk, memory):
        epoch_seconds(method, batches)  # whatever is slow for the first time only
    uncached, uncached_cpu = epoch_seconds(method, files)
    taken: dict[str, list[tuple[float, float]]] = {"disk": [], "memory": []}
    for turn in range(epochs):
        # Neither is always the first.
        for where in ("disk", "memory")[:: 1 if turn % 2 else -1]:
            taken[where].append(epoch_seconds(method, disk if where == "disk" else memory))
    (from_disk, disk_cpu), (from_memory, memory_cpu) = (
        map(statistics.median, zip(*taken[where], strict=True)) for where in ("disk", "memory")
    )
    return {
        "part": name,
        "method": name,
        "precision": "half",
        "videos": VIDEOS,
        "batch": BATCH,
        "megabytes": round(disk.store.bytes / 1e6 / VIDEOS, 3),
        "uncached_s": round(uncached, 4),
        "disk_s": round(from_disk, 4),
        "memory_s": round(from_memory, 4),
        "uncached_cpu_s": round(uncached_cpu, 4),
        "disk_cpu_s": round(disk_cpu, 4),
        "memory_cpu_s": round(memory_cpu, 4),
        "compute_s": round(compute, 3),
        "ratio": round(uncached / from_disk, 2),
        "ceiling": round(uncached / from_memory, 2),
        "reached": round(from_memory / from_disk, 3),
        "reached_cpu": round(memory_cpu / disk_cpu, 3),
    }


def rounded(features: Features, dtype: torch.dtype) -> Features:
    """Features after they were kept in another precision."""
    return {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in features.items()}


class Quiet(Progress):
    """Says what stays, with the time."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"  {time.perf_counter() - self.begun:5.0f} s  {text}", flush=True)


def accuracy(folder: Path) -> Iterator[dict[str, Any]]:
    """EVL on three pairs of twins of the demo's films: top-1 with features in full, fp16 and bf16 precision."""
    six = tuple(name for name in CLASSES if any(name in pair for pair in list(PAIRS.values())[:3]))
    write_films(folder / "films", six, train=16, val=10)
    vit, info = load_backbone("vits14_imgfocus")
    args = TrainArgs(
        epochs=12, batch_size=12, lr=1e-3, warmup=2, workers=0, fixed_views=1, cache="disk",
        cache_folder=str(folder / "demo"), evaluate_every=12,
    )  # fmt: skip
    recipe = Recipe(
        method="evl", backbone="vits14_imgfocus", data=str(folder / "films"), train=args, transform=Transform((84, 84))
    )
    recipe = fit_to_backbone(recipe, info)
    source = read_source(folder / "films")
    for precision in ("full", "half"):
        setting = replace(recipe, train=replace(recipe.train, cache_precision=precision))
        result = train(setting, folder / f"run_{precision}", source, vit, Quiet())
        evaluation = result.evaluation
        row = {"part": "accuracy", "method": "evl", "precision": precision, "videos": len(source.train)}
        row |= {"top1": round(evaluation.top1, 4), "batch": 12}
        if precision == "full":
            method, exact = result.method, evaluation
        else:
            row["score_error"] = f"{(evaluation.scores - exact.scores).abs().max().item():.2e}"
        yield row
    yield from rounding(method, recipe, source.val)


def rounding(method: Method, recipe: Recipe, items: tuple[Item, ...]) -> Iterator[dict[str, Any]]:
    """How far fp16 and bf16 move the features, root mean square over root mean square, and a trained model's scores."""
    dataset = VideoDataset(items[:24], recipe.sampling, recipe.transform, False, 0)
    features = compute_features(method, VideoBatches(dataset, 12), CPU).features
    flat = {name: tensor.flatten(0, 1) for name, tensor in features.items()}
    with torch.no_grad():
        scores = method.readout(flat).logits.softmax(-1)
        for dtype in (torch.float16, torch.bfloat16):
            moved = rounded(flat, dtype)
            error = max(((moved[name] - flat[name]).norm() / flat[name].norm()).item() for name in flat)
            change = (method.readout(moved).logits.softmax(-1) - scores).abs().max().item()
            yield {
                "part": "rounding",
                "method": "evl",
                "precision": str(dtype).removeprefix("torch."),
                "videos": len(dataset),
                "megabytes": round(megabytes(moved) / len(dataset) / 2, 3),
                "feature_error": f"{error:.2e}",
                "score_error": f"{change:.2e}",
            }


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cache.csv"), help="CSV to append to")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    facts = {"wait_policy": os.environ.get("OMP_WAIT_POLICY", ""), **machine_facts()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in args.parts.split(","):
            print(part, flush=True)
            for row in accuracy(folder) if part == "accuracy" else [measure(part, folder, args.epochs)]:
                print({key: value for key, value in row.items() if value != ""}, flush=True)
                append_row(args.out, {**dict.fromkeys(FIELDS), **row, **facts})


if __name__ == "__main__":
    main()
