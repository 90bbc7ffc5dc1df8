"""How many steps few videos need: EVL on the demo's films. Prints a line a training and appends it to a CSV.

    python benchmarks/small_data.py --videos 10 --steps 120 400 800 --out benchmarks/results/small_data.csv

Six of the demo's classes, three pairs of twins; 20 validation videos of each. Frozen features of several fixed random
crops are computed once and shared by the trainings, which stand for fresh crops in every epoch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from muybridge.backbones.weights import load_backbone
from muybridge.demo.films import CLASSES, PAIRS, write_films
from muybridge.demo.run import within_twins
from muybridge.engine.batches import VideoBatches
from muybridge.engine.features import compute_features
from muybridge.engine.train import train
from muybridge.measure.table import append_row
from muybridge.methods import build_method
from muybridge.recipes import fit_to_backbone
from muybridge.structures import Recipe, TrainArgs, Transform
from muybridge.video.dataset import VideoDataset, read_source

SIX = tuple(name for name in CLASSES if any(name in pair for pair in list(PAIRS.values())[:3]))


def main() -> None:
    """Train once for every number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10, help="of a class")
    parser.add_argument("--views", type=int, default=6, help="fixed random crops of a video")
    parser.add_argument("--steps", type=int, nargs="+", default=[120, 400, 800])
    parser.add_argument("--lr", type=float, default=TrainArgs().lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", help="file of vits14_imgfocus")
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = write_films(folder / "videos", SIX, train=asked.videos, val=20, seed=asked.seed, workers=1)
        vit, info = load_backbone(None if asked.weights else "vits14_imgfocus", asked.weights)
        args = TrainArgs(lr=asked.lr, fixed_views=asked.views, cache="memory", workers=0, seed=asked.seed)
        recipe = Recipe(data=str(videos), transform=Transform(size=(84, 84)), train=args)
        recipe = fit_to_backbone(replace(recipe, backbone=info.name), info)
        source = read_source(videos)
        method = build_method("evl", vit, len(SIX), recipe.sampling.frames, (84, 84), recipe.options)
        halves = []
        for items, training in ((source.train, True), (source.val, False)):
            dataset = VideoDataset(items, recipe.sampling, recipe.transform, training, asked.seed)
            batches = VideoBatches(dataset, args.batch_size, asked.seed if training else None, asked.views)
            halves.append(compute_features(method, batches, torch.device("cpu"), asked.views if training else 1))
        for steps in asked.steps:
            epochs = max(1, round(steps / -(-len(source.train) // args.batch_size)))
            setting = replace(recipe, train=replace(args, epochs=epochs, evaluate_every=max(epochs // 10, 1)))
            begun = time.perf_counter()
            result = train(setting, folder / f"{steps}", source, vit, None, (halves[0], halves[1]))
            lines = [json.loads(line) for line in (folder / f"{steps}/metrics.jsonl").read_text().splitlines()]
            curve = [f"{line['val_top1']:.3f}" for line in lines if "val_top1" in line]
            twins = within_twins(result.evaluation, source.labels)
            row = {
                "videos_a_class": asked.videos,
                "views": asked.views,
                "steps": steps,
                "epochs": epochs,
                "lr": asked.lr,
                "seed": asked.seed,
                "top1": f"{result.evaluation.top1:.3f}",
                "within_twins": f"{twins:.3f}",
                "seconds": round(time.perf_counter() - begun),
                "curve": " ".join(curve),
            }
            print(row, flush=True)
            append_row(asked.out, row)


if __name__ == "__main__":
    main()
