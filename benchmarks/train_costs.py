"""What a training costs on the demo's films: seconds an epoch and peak memory, cached and not. Writes a CSV.

    python benchmarks/train_costs.py --out benchmarks/results/train_costs.csv          # about 20 minutes on two cores
    python benchmarks/train_costs.py --table                                           # into docs/training.md

The settings are those of `train_methods.py`, whose CSV has the accuracies: six classes, 40 videos each, 8 frames of
84 px, backbone vits14_imgfocus. Every training is a process of its own. Seconds are those of the last of a few epochs
on all 240 videos, without the evaluation; of a cached one, that of an epoch on features; computing them stands beside.
Memory is the largest resident memory of the process, libraries and all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean

from muybridge.backbones.weights import load_backbone
from muybridge.demo.films import write_films
from muybridge.engine.train import train
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row, read_rows
from muybridge.recipes import fit_to_backbone
from muybridge.video.dataset import read_source
from pages import RESULTS, ROOT, markdown, parse, put
from train_methods import SETTINGS, SIX, recipe_of

PAGE = "docs/training.md"
CACHES = dict.fromkeys(("probe", "evl", "dist"), ("none", "memory"))
WORDS = {
    "probe": "`probe`",
    "evl": "`evl`",
    "ila": "`ila`, last 4 blocks",
    "dist": "`dist`, 16 frames",
    "zeroi2v": "`zeroi2v`",
    "full": "`evl --unfreeze all`: full fine-tuning",
}


def cost(name: str, cache: str, epochs: int, videos: Path, folder: Path) -> dict[str, object]:
    """One training, in this process."""
    _, args = SETTINGS[name]
    views = {"fixed_views": 1, "cache": cache} if cache != "none" else {"fixed_views": 0, "cache": "none"}
    args = replace(args, epochs=epochs, workers=0, evaluate_every=epochs, warmup=0, **views)
    vit, info = load_backbone("vits14_imgfocus")
    recipe = recipe_of(name, args, videos)
    source = read_source(videos)
    begun = time.perf_counter()
    result = train(fit_to_backbone(recipe, info), folder / f"{name}-{cache}", source, vit)
    whole = time.perf_counter() - begun
    lines = [json.loads(line) for line in (folder / f"{name}-{cache}/metrics.jsonl").read_text().splitlines()]
    return {
        "setting": name,
        "cache": cache,
        "trainable": result.trainable,
        "seconds_an_epoch": round(len(source.train) / lines[-1]["videos_per_second"], 3),
        "seconds_before": round(whole - result.seconds, 1) if cache != "none" else 0,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "batch_size": args.batch_size,
        "precision": args.precision,
        **machine_facts(),
    }


def table() -> str:
    """Costs beside accuracies, in Markdown."""
    accuracies = defaultdict(list)
    for row in read_rows(RESULTS / "train_methods.csv"):
        accuracies[row["method"]].append((100 * float(row["top1"]), 100 * float(row["within_twins"])))
    rows: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in read_rows(RESULTS / "train_costs.csv"):
        rows[row["setting"]][row["cache"]] = row
    head = ["", "top-1", "within twins", "trainable", "seconds an epoch", "with a cache", "peak memory", "with a cache"]
    lines = [head]
    for name, ways in rows.items():
        seen = accuracies[name]
        top, twins = (f"{mean(values):.1f} %" for values in zip(*seen, strict=True)) if seen else ("-", "-")
        plain, cached = ways["none"], ways.get("memory")
        quick = f"{float(cached['seconds_an_epoch']):.2f}" if cached else "-"
        costs = [f"{int(plain['trainable']) / 1e6:.2f} M", f"{float(plain['seconds_an_epoch']):.1f}", quick]
        memory = [f"{plain['peak_gb']} GB", f"{cached['peak_gb']} GB" if cached else "-"]
        lines.append([WORDS[name], top, twins, *costs, *memory])
    return markdown(lines)


def main() -> None:
    """Train every setting for a few epochs, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(WORDS), choices=list(WORDS))
    parser.add_argument("--epochs", type=int, default=2)
    asked = parse(parser, PAGE, lambda: put(ROOT / PAGE, "costs", table()))
    with tempfile.TemporaryDirectory() as folder:
        videos = write_films(Path(folder) / "videos", SIX, train=40, val=20, seed=0, workers=2)
        for name in asked.settings:
            for cache in CACHES.get(name, ("none",)):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    row = pool.submit(cost, name, cache, asked.epochs, videos, Path(folder)).result()
                print(row, flush=True)
                append_row(asked.out, row)


if __name__ == "__main__":
    main()
