"""The table of docs/methods.md: costs counted, reference cases run, accuracies read from the trainings' CSV.

    python benchmarks/methods_table.py            # prints the table; a few minutes, full-size cases included
    python benchmarks/methods_table.py --write    # and puts it into docs/methods.md

Setting of the costs: CLIP ViT-B/16, 8 frames of 224 px (DiST: 8 of 16), 400 classes, the features of class names given.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import mean

from muybridge.backbones.weights import BACKBONES
from muybridge.info import model_info
from muybridge.measure.table import read_rows
from muybridge.methods import METHODS
from muybridge.testing.parity import run_case
from pages import RESULTS, ROOT, markdown, put

TRAINS = {
    "probe": "linear head",
    "evl": "decoder with one query token, head",
    "ila": "alignment before every block, transformer over frames, prompts or head",
    "dist": "temporal encoder, integration branch, pooling",
    "zeroi2v": "linear adapters, frame vectors, last norm, head",
    "st_adapter": "bottlenecks with a 3-D convolution, head",
    "aim": "adapters of time, space and both, head",
}
FRAMES = {"dist": 16}


def cost(method: str) -> tuple[str, str]:
    """Trainable parameters, and multiply-adds over those of the bare backbone on the frames that it reads."""
    entry = BACKBONES["clip_vitb16"]
    frames = FRAMES.get(method, 8)
    options = {"head": "text"} if METHODS[method].takes_labels else {}
    info = model_info(method, entry.config, 400, frames, (224, 224), options, text=entry.text)
    bare = model_info("probe", entry.config, 400, 8, (224, 224), {}).multiply_adds_ours
    return f"{info.trainable / 1e6:.2f} M", f"{info.multiply_adds_ours / bare:.3f}"


def accuracy(method: str) -> str:
    """Mean within-twin accuracy over the seeds, and each."""
    rows = defaultdict(list)
    for row in read_rows(RESULTS / "train_methods.csv"):
        rows[row["method"]].append(100 * float(row["within_twins"]))
    if method not in rows:
        return "-"
    return f"{mean(rows[method]):.1f} ({', '.join(f'{value:.1f}' for value in rows[method])})"


def cases(method: str) -> str:
    """How many cases pass, and the largest difference of a value from the published code, of its tensor's scale."""
    paths = sorted((ROOT / "tests/parity" / method).glob("*.json"))
    if not paths:
        return "-"
    passed, tensors, worst = 0, 0, 0.0
    for path in paths:
        lines = list(run_case(path))
        passed += all(line.passed for line in lines)
        tensors += len(lines)
        values = [line for line in lines if not line.name.startswith(("gradient", "state dict"))]
        worst = max([worst, *(line.difference / line.scale for line in values if line.scale)])
    return f"{passed} of {len(paths)} ({tensors} tensors), {worst:.1e}"


def table() -> str:
    """The table in Markdown."""
    head = ["method", "trains", "trainable parameters", "multiply-adds over the bare backbone", "within twins, %"]
    lines = [[*head, "cases, largest difference"]]
    for method, trains in TRAINS.items():
        trainable, times = cost(method)
        lines.append([f"`{method}`", trains, trainable, times, accuracy(method), cases(method)])
    return markdown(lines, words=6)


def main() -> None:
    """Print the table, or put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    text = table()
    print(text)
    if write:
        put(ROOT / "docs/methods.md", "table", text)


if __name__ == "__main__":
    main()
