"""How many settings fit into the time of one training from files, if they share cached features. Writes a CSV.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/sweep.py --out benchmarks/results/sweep.csv
    OMP_WAIT_POLICY=PASSIVE python benchmarks/sweep.py --videos 1 --epochs 2 --settings 2 --out sweep.csv

`files` is one EVL trained from the demo's films: decoding, backbone and decoder in every step. `sweep` is
`muybridge sweep` over learning rates and dropouts with the same videos, epochs and batches, the computing of the
features included; `features` and `settings` are its two parts. `fit` is how many settings the time of `files` has room
for: (files - features) / (settings / number of settings); `fit_cpu` says the same of CPU seconds, which others on the
machine hardly change. Both train on the same fixed draws. Of what a setting takes, about 1.5 s are its checkpoint after
every epoch (400 MB), which weighs less the more videos there are.

Backbone of ViT-B/16's shape with random weights, 8 frames of 224 px, films of the demo (2 classes).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import backbone_info
from muybridge.demo.films import PAIRS, write_films
from muybridge.engine.progress import Progress
from muybridge.engine.search import search
from muybridge.engine.train import train
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row
from muybridge.recipes import fit_to_backbone
from muybridge.structures import Recipe, TrainArgs
from muybridge.testing.tiny import random_backbone
from muybridge.video.sources import Source, read_source

TWO = next(iter(PAIRS.values()))
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
DROPOUTS = (0.0, 0.25, 0.5, 0.75)
FIELDS = (  # noqa: SIM905 - shorter so
    "part,settings,halving,videos,val_videos,epochs,batch,wall_s,cpu_s,fit,fit_cpu,"
    "machine,cores,threads,wait_policy,commit,muybridge,torch,python"
).split(",")


class Clock(Progress):
    """Says what stays, with the time, and remembers when the first training began."""

    def __init__(self) -> None:
        self.begun, self.cpu = time.perf_counter(), time.process_time()
        self.first: tuple[float, float] | None = None

    def now(self) -> tuple[float, float]:
        """Seconds and CPU seconds so far."""
        return time.perf_counter() - self.begun, time.process_time() - self.cpu

    def start(self, title: str, total: float) -> None:
        if self.first is None and "epoch " in title:
            self.first = self.now()

    def say(self, text: str) -> None:
        print(f"  {self.now()[0]:5.0f} s  {text}", flush=True)


def measure(
    recipe: Recipe,
    source: Source,
    vit: ViT,
    folder: Path,
    rates: tuple[float, ...],
    dropouts: tuple[float, ...],
    halving: int,
) -> list[dict[str, Any]]:
    """One training from files against the sweep; rows of the CSV."""
    count = len(rates) * len(dropouts)
    clock = Clock()
    train(replace(recipe, train=replace(recipe.train, fixed_views=1)), folder / "files", source, vit, clock)
    files = clock.now()
    tried = [
        f"train.lr={','.join(f'{rate:g}' for rate in rates)}",
        f"evl.dropout={','.join(f'{dropout:g}' for dropout in dropouts)}",
    ]
    clock = Clock()
    search(recipe, tried, folder / "sweep", halving=halving, source=source, backbone=vit, progress=clock)
    whole, features = clock.now(), clock.first or (0.0, 0.0)
    settings = tuple(a - b for a, b in zip(whole, features, strict=True))
    fit, fit_cpu = ((files[i] - features[i]) / (settings[i] / count) for i in (0, 1))
    told = {"videos": len(source.train), "val_videos": len(source.val)}
    told |= {"epochs": recipe.train.epochs, "batch": recipe.train.batch_size}
    rows: list[dict[str, Any]] = []
    for part, number, spent in (
        ("files", 1, files),
        ("sweep", count, whole),
        ("features", count, features),
        ("settings", count, settings),
    ):
        rows.append(
            {
                "part": part,
                "settings": number,
                "halving": halving,
                **told,
                "wall_s": f"{spent[0]:.2f}",
                "cpu_s": f"{spent[1]:.2f}",
            }
        )
    rows[1] |= {"fit": f"{fit:.1f}", "fit_cpu": f"{fit_cpu:.1f}"}
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sweep.csv"), help="CSV to append to")
    parser.add_argument("--videos", type=int, default=8, help="of each of two classes; a quarter for validation")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--settings", type=int, default=4, help="at most 24")
    parser.add_argument("--halving", type=int, default=0, help="as of `muybridge sweep`; evaluates every epoch")
    args = parser.parse_args()
    columns = max(number for number in range(1, len(DROPOUTS) + 1) if args.settings % number == 0)
    rates, dropouts = RATES[: args.settings // columns], DROPOUTS[:columns]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = write_films(folder / "films", TWO, train=args.videos, val=max(args.videos // 4, 1), workers=1)
        info = backbone_info("clip_vitb16")
        vit = random_backbone(info.config)
        # Evaluated at the end alone, so that it is the trainings that are compared.
        settings = TrainArgs(
            epochs=args.epochs,
            batch_size=args.batch,
            workers=0,
            evaluate_every=1 if args.halving else args.epochs,
            slim=True,
            cache_folder=str(folder / "features"),
        )
        recipe = fit_to_backbone(Recipe(method="evl", backbone="clip_vitb16", data=str(films), train=settings), info)
        rows = measure(recipe, read_source(films), vit, folder, rates, dropouts, args.halving)
    measured = {"wait_policy": os.environ.get("OMP_WAIT_POLICY", ""), **machine_facts()}
    for row in rows:
        print(json.dumps(row))
        append_row(args.out, {**dict.fromkeys(FIELDS), **row, **measured})
    print(
        f"{rows[1]['fit']} settings on one cache, its computing included, in the time of one training from files "
        f"({rows[1]['fit_cpu']} by CPU seconds)."
    )


if __name__ == "__main__":
    main()
