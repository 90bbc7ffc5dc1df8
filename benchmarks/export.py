"""What other runtimes take beside eager PyTorch, on a CPU. Writes a CSV.

    python benchmarks/export.py --out benchmarks/results/export.csv            # EVL and ZeroI2V, about 10 minutes
    python benchmarks/export.py --methods probe --rounds 2 --out /tmp/export.csv

CLIP ViT-B/16 with random weights, merged, 8 frames of 224 px, 400 classes, one video at a time, one thread. All
runtimes are called in turn in one process; a ratio is the median over the rounds of the ratio to eager within a round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from muybridge.export.timing import RUNTIMES, is_installed, runtime_call
from muybridge.measure.machine import machine_facts
from muybridge.measure.speed import compare, forward
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from muybridge.measure.workload import Workload, random_video

EAGER = "eager"


def measure(method: str, backbone: str, rounds: int) -> list[dict[str, object]]:
    """A line for each runtime that is installed."""
    model = Workload(method, backbone=backbone, batch=1).build().merged().eval()
    video = random_video(model, 1)
    calls = {EAGER: forward(model, video)}
    calls |= {way: runtime_call(way, model, video) for way in RUNTIMES if is_installed(way)}
    wanted = calls[EAGER]()
    times = interleaved(calls, rounds)
    rows = []
    for way, call in calls.items():
        difference, same = compare(call(), wanted)
        row = {"method": method, "backbone": backbone, "runtime": way}
        row |= {"ms": round(1e3 * times.median(way), 1), "ratio_to_eager": round(times.ratio(way, EAGER), 3)}
        rows.append(row | {"difference_of_largest_logit": f"{difference:.1e}", "same_top5": same})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["evl", "zeroi2v"])
    parser.add_argument("--backbone", default="clip_vitb16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for method in asked.methods:
        for row in measure(method, asked.backbone, asked.rounds):
            print(*list(row.values()), sep="  ", flush=True)
            append_row(asked.out, {**row, **machine_facts()})


if __name__ == "__main__":
    main()
