"""Train every method on the demo's films: within-twin accuracy, seeds, time. Writes a CSV.

    python benchmarks/train_methods.py --out benchmarks/results/train_methods.csv
    python benchmarks/train_methods.py --methods ila --seeds 1 --out /tmp/ila.csv

Six of the demo's ten classes are three pairs of twins: the same films, played backwards. A recogniser that does not
know the order of the frames is right about half the time within a pair. Every seed has films, weights and draws of its
own. Films of 40 training and 20 validation videos a class, 8 frames of 84 px, backbone vits14_imgfocus.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from muybridge.backbones.weights import load_backbone
from muybridge.demo.films import CLASSES, PAIRS, write_films
from muybridge.demo.run import within_twins
from muybridge.engine.progress import Progress
from muybridge.engine.train import train
from muybridge.measure.machine import processor
from muybridge.measure.table import append_row
from muybridge.recipes import fit_to_backbone
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.video.dataset import read_source

SIX = tuple(name for name in CLASSES if any(name in pair for pair in list(PAIRS.values())[:3]))

# Of the six heads of 64 channels: one looks back, one ahead, one two frames back, one two ahead.
SHIFTS = "-1:64,+1:64,-2:64,+2:64"
# Far fewer steps than published: alignments before the last four blocks only, nothing that slows them down.
ILA = {"layers": 4, "dropout": 0.0, "auxiliary_weight": 0.1}
# Four late blocks tapped; 16 dense frames, so that 8 are sparse; temporal embeddings that can be seen from the start.
DIST = {"layers": (7, 8, 9, 10), "pooling_layers": 2, "temporal_embedding_std": 1.0}
FRAMES = {"dist": 16}
# DiST reads pixels with what it trains, and learns 240 videos by heart if they never move.
CROPS = {"dist": Transform(size=(84, 84), crop="random", resize=98)}
# Method -> its options and how it is trained; what depends on frozen weights only is computed once. `full` is EVL whose
# backbone is trained too, from end to end: the baseline that parameter-efficient methods are compared with.
SETTINGS = {
    "probe": ({}, TrainArgs(epochs=20, batch_size=20, lr=1e-3, warmup=2, fixed_views=1, cache="memory")),
    "evl": ({"layers": 4}, TrainArgs(epochs=20, batch_size=20, lr=1e-3, warmup=2, fixed_views=1, cache="memory")),
    "dist": (
        DIST,
        TrainArgs(epochs=28, batch_size=8, lr=3e-4, warmup=1, precision="bf16", evaluate_every=4),
    ),
    "zeroi2v": (
        {"shifts": SHIFTS},
        TrainArgs(epochs=15, batch_size=8, lr=1.5e-3, warmup=2, precision="bf16", evaluate_every=5),
    ),
    "ila": (
        ILA,
        TrainArgs(epochs=12, batch_size=8, lr=5e-4, warmup=1, precision="bf16", evaluate_every=4),
    ),
    "full": (
        {"layers": 4},
        TrainArgs(
            epochs=20,
            batch_size=20,
            lr=1e-3,
            warmup=2,
            precision="bf16",
            evaluate_every=4,
            unfreeze="all",
            backbone_lr=1e-5,
        ),
    ),
}


class Lines(Progress):
    """Every line is printed with its time."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"  {time.perf_counter() - self.begun:6.0f} s  {text}", flush=True)


def recipe_of(name: str, args: TrainArgs, videos: Path) -> Recipe:
    """How a setting is trained on the films."""
    return Recipe(
        method="evl" if name == "full" else name,
        options=SETTINGS[name][0],
        data=str(videos),
        sampling=Sampling(frames=FRAMES.get(name, 8)),
        transform=CROPS.get(name, Transform(size=(84, 84), crop="center")),
        train=args,
    )


def run(method: str, seed: int, folder: Path, videos: Path, changes: dict[str, object]) -> dict[str, object]:
    """Train one method with one seed."""
    options, args = SETTINGS[method]
    args = replace(args, seed=seed, workers=0, **changes)
    vit, info = load_backbone("vits14_imgfocus")
    recipe = recipe_of(method, args, videos)
    source = read_source(videos)
    begun = time.perf_counter()
    result = train(fit_to_backbone(recipe, info), folder / f"{method}-{seed}", source, vit, Lines())
    return {
        "method": method,
        "seed": seed,
        "classes": len(source.labels),
        "train_videos": len(source.train),
        "val_videos": len(source.val),
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "precision": args.precision,
        "top1": round(result.evaluation.top1, 4),
        "within_twins": round(within_twins(result.evaluation, source.labels), 4),
        "trainable": result.trainable,
        "training_seconds": round(result.seconds, 1),
        "total_seconds": round(time.perf_counter() - begun, 1),
        "machine": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "options": " ".join(f"{name}={value}" for name, value in options.items()),
    }


def main() -> None:
    """Train what is asked for and append a line for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    changes = {name: value for name in ("epochs", "lr") if (value := getattr(asked, name)) is not None}
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            videos = write_films(Path(folder) / "videos", SIX, train=40, val=20, seed=seed, workers=2)
            for method in asked.methods:
                row = run(method, seed, Path(folder), videos, changes)
                print(row, flush=True)
                append_row(asked.out, row)


if __name__ == "__main__":
    main()
