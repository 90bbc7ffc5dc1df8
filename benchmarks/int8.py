"""What smaller files cost in accuracy: the demo's trained EVL on its 200 test videos. Writes a CSV.

    muybridge demo --out muybridge-demo
    python benchmarks/int8.py --demo muybridge-demo --out benchmarks/results/int8.csv    # about five minutes
    python benchmarks/int8.py --table                # the committed CSV into docs/deploy.md

Every runtime is given the same decoded frames and compared with fp32 eager PyTorch. A runtime that is not installed is
left out and named.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import muybridge
from muybridge.errors import BadInput
from muybridge.export import TARGETS, Footage, export_model, footage
from muybridge.export.check import eager
from muybridge.export.standalone import Floats, open_model, scores
from muybridge.measure.machine import machine_facts
from muybridge.measure.table import append_row, read_rows
from muybridge.recipes import read_recipe
from muybridge.recogniser import Recogniser
from muybridge.video.sources import read_split
from pages import RESULTS, ROOT, markdown, put

Precision = Literal["full", "half", "int8"]
EAGER = "eager PyTorch"
TITLES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
OPTIONS = {"full": "", "half": ", `--half`", "int8": ", `--int8`"}
WAYS: tuple[tuple[str, Precision], ...] = (
    ("onnx", "full"),
    ("onnx", "half"),
    ("onnx", "int8"),
    ("openvino", "full"),
    ("openvino", "int8"),
)


def exported(recogniser: Recogniser, to: str, precision: Precision, videos: Footage) -> tuple[Floats, float]:
    """Probabilities [N, K] of the exported model, and the size of its weights in MB."""
    with tempfile.TemporaryDirectory() as work:
        few = Footage(videos.views[:2], videos.source)  # its own comparison; ours is below, on all
        made = export_model(recogniser, Path(work) / "made", to, precision, videos=few)
        run, told = open_model(made.folder / TARGETS[to], 1)
        found = np.stack([scores(run, told, views) for views in videos.views])
        del run
        return found, sum(size for name, size in made.files.items() if name.startswith("model.")) / 1e6


def compared(found: Floats, wanted: Floats, labels: Floats) -> dict[str, object]:
    """Accuracy, and how far probabilities [N, K] are from `wanted`; `labels` [N]."""
    best, theirs = found.argmax(1), wanted.argmax(1)
    return {
        "videos": len(found),
        "top1": f"{(best == labels).mean():.4f}",
        "agreement": f"{(best == theirs).mean():.4f}",
        "largest_difference": f"{np.abs(found - wanted).max():.1e}",
        "mean_difference": f"{np.abs(found - wanted).mean():.1e}",
    }


def table() -> str:
    """The committed CSV in Markdown; of rows that were measured twice, the latest."""
    lines = [["runtime", "top-1", "same best class", "largest difference", "mean difference", "file"]]
    rows = {(row["runtime"], row["precision"]): row for row in read_rows(RESULTS / "int8.csv")}
    for (runtime, precision), row in rows.items():
        if runtime == EAGER:
            lines.append([EAGER, _percent(row["top1"]), "", "", "", ""])
            continue
        differences = [f"{float(row[name]):.2g}" for name in ("largest_difference", "mean_difference")]
        cells = [_percent(row["top1"]), _percent(row["agreement"]), *differences, f"{float(row['megabytes']):.0f} MB"]
        lines.append([TITLES[runtime] + OPTIONS[precision], *cells])
    return markdown(lines)


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f} %"


def measure(folder: Path, out: Path, runtimes: list[str]) -> None:
    """A row for eager PyTorch, if that is asked for, and for each runtime in each precision."""
    recogniser = muybridge.load(folder, "cpu")
    items = read_split(folder / "split.csv", read_recipe(folder / "recipe.json").data).val
    videos = footage(folder, recogniser.sampling, recogniser.spec.transform.size, len(items))
    if len(videos.views) != len(items):
        raise BadInput(f"{len(items)} validation videos are named in {folder / 'split.csv'}, not all can be read.")
    labels = np.array([item.label for item in items])
    wanted = np.stack([eager(recogniser, views) for views in videos.views])

    def write(runtime: str, precision: str, found: Floats, megabytes: float | None) -> None:
        row: dict[str, Any] = {"runtime": runtime, "precision": precision} | compared(found, wanted, labels)
        row |= {"megabytes": None if megabytes is None else f"{megabytes:.1f}"}
        append_row(out, row | machine_facts())
        print(*row.values(), sep="  ", flush=True)

    if "eager" in runtimes:
        write(EAGER, "full", wanted, None)
    for to, precision in (way for way in WAYS if way[0] in runtimes):
        try:
            found, megabytes = exported(recogniser, to, precision, videos)
        except BadInput as error:
            print(f"left out: {to}, {precision}: {error}", flush=True)
            continue
        write(to, precision, found, megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("muybridge-demo"), help="what `muybridge demo` wrote")
    every = ["eager", *TITLES]
    parser.add_argument("--runtimes", nargs="+", choices=every, default=every)
    parser.add_argument("--out", type=Path, help="CSV to append to")
    parser.add_argument("--table", action="store_true", help="put the committed CSV into docs/deploy.md")
    asked = parser.parse_args()
    if asked.table:
        put(ROOT / "docs/deploy.md", "int8", table())
        return
    if asked.out is None:
        parser.error("give --out FILE or --table")
    if not (asked.demo / "evl").is_dir():
        parser.error(f"there is no {asked.demo / 'evl'}; make it: muybridge demo --out {asked.demo}")
    torch.set_num_threads(1)
    measure(asked.demo / "evl", asked.out, asked.runtimes)


if __name__ == "__main__":
    main()
