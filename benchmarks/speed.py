"""The methods at the price of their backbone, on a CPU: inference, training step, memory. Writes a CSV.

    python benchmarks/speed.py --out benchmarks/results/speed.csv                      # all four, about 15 minutes
    python benchmarks/speed.py --methods evl --rounds 3 --out /tmp/speed.csv
    python benchmarks/speed.py --table               # the committed CSV into docs/performance.md, table and pictures

CLIP ViT-B/16 with random weights, 8 frames of 224 px (DiST: 16, of which the backbone reads 8), 400 classes, batches of
2 videos, fp32, features of the class names given. Times are ratios to the bare backbone's forward pass without
gradients on the same frames, medians over interleaved rounds. Memory is the largest resident memory of a new process
that takes two training steps: libraries, weights, gradients, moments and all.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace

import torch

from counted import step_multiply_adds
from draw import bars
from muybridge.engine.freed import freed_memory
from muybridge.info.counting import multiply_adds
from muybridge.measure.machine import machine_facts, matrix_rate
from muybridge.measure.memory import peak_of
from muybridge.measure.speed import BARE, forward
from muybridge.measure.table import append_row
from muybridge.measure.timing import Times, interleaved
from muybridge.measure.workload import Workload, bare_backbone, prepare_step, random_video, training_step
from muybridge.plain import plain_twin
from pages import ROOT, latest, markdown, parse, put

METHODS = ("evl", "dist", "ila", "zeroi2v")
PAGE = "docs/performance.md"
PICTURES = {"inference": "Inference", "training": "Training step"}  # docs/images/speed-<name>.svg
# What the authors' codes took in the same setting on 2 cores, torch 2.13, as measured before this library was begun.
PUBLISHED = {
    "evl": (1.34, 1.65, 2.7),
    "dist": (1.17, 1.42, 3.3),
    "ila": (1.60, 3.45, 6.0),
    "zeroi2v": (1.17, 2.7, 5.0),
}
TARGETS = {
    "evl": (1.08, 1.15, 1.6),
    "dist": (1.12, 1.35, 1.9),
    "ila": (1.35, 3.1, 4.0),
    "zeroi2v": (1.00, 2.5, 3.3),
}


def measure(workload: Workload, rounds: int) -> dict[str, float]:
    """Ratios and gigabytes of one method."""
    model = workload.build()
    video = random_video(model, workload.batch)
    bare, merged, twin = bare_backbone(model, video), model.merged(), plain_twin(workload.method, model)
    floor = multiply_adds(model.backbone, video[:, :: video.shape[1] // model.backbone_frames].flatten(0, 1))
    calls = {BARE: bare, "ours": forward(merged, video), "plain": forward(twin, video)}
    times = interleaved(calls, rounds)
    figures = {
        "backbone_ms": round(1e3 * times.median(BARE), 1),
        "inference": times.ratio("ours", BARE),
        "inference_plain": times.ratio("plain", BARE),
        "inference_counted": multiply_adds(merged, video) / floor,
    }
    del merged, calls
    figures["training_counted"] = step_multiply_adds(training_step(model, video)) / floor
    figures["training"] = _step_ratio(bare, training_step(model, video), rounds)
    figures["training_plain"] = _step_ratio(bare, training_step(twin, video), rounds)
    model.checkpoint_activations = True
    figures["training_checkpoint"] = _step_ratio(bare, training_step(model, video), max(rounds // 2, 1), saving=True)
    del model, twin, bare, video
    gc.collect()
    threads = torch.get_num_threads()
    for name, change in (
        ("memory_gb", {}),
        ("memory_plain_gb", {"plain": True}),
        ("memory_checkpoint_gb", {"checkpoint_activations": True}),
    ):
        figures[name] = peak_of(prepare_step, replace(workload, **change), threads) / 1e9
    return {name: round(value, 3) for name, value in figures.items()}


def _step_ratio(bare: object, step: object, rounds: int, saving: bool = False) -> float:
    with freed_memory(saving):  # as the training loop does
        times: Times = interleaved({BARE: bare, "step": step}, rounds)  # type: ignore[dict-item]
    return times.ratio("step", BARE)


def rows() -> list[dict[str, str]]:
    """The committed figures, in the order of `METHODS`."""
    return sorted(latest("speed", "method"), key=lambda row: METHODS.index(row["method"]))


def table() -> str:
    """The committed CSV in Markdown: ours, what is wanted, our plain twin, the published code."""
    beside = ("wanted", "plain twin", "published")
    head = [
        "",
        "inference: ours",
        "counted",
        *beside,
        "step: ours",
        "counted",
        *beside,
        "memory: ours",
        "wanted",
        "checkpointed",
        *beside[1:],
    ]
    lines = [head]
    for row in rows():
        columns = [f"`{row['method']}`"]
        for what in ("inference", "training"):
            columns += [f"**{float(row[what]):.2f}**", f"{float(row[f'{what}_counted']):.2f}", row[f"{what}_target"]]
            columns += [f"{float(row[f'{what}_plain']):.2f}", row[f"{what}_published"]]
        columns += [f"**{float(row['memory_gb']):.2f}**", row["memory_gb_target"]]
        columns.append(f"{float(row['memory_checkpoint_gb']):.2f}")
        columns += [f"{float(row['memory_plain_gb']):.1f}", row["memory_gb_published"]]
        lines.append(columns)
    return markdown(lines)


def usual() -> str:
    """The same in forward passes of transformers' CLIPVisionModel, by the ratio of `benchmarks/backbone.py`."""
    (ratio,) = (
        float(row["ratio"])
        for row in latest("backbone", "images", "threads")
        if (row["images"], row["threads"]) == ("16", "1")
    )
    lines = [["", "inference", "wanted", "step", "wanted"]]
    for row in rows():
        figures = [(f"**{ratio * float(row[what]):.2f}**", row[f"{what}_target"]) for what in PICTURES]
        lines.append([f"`{row['method']}`", *figures[0], *figures[1]])
    return markdown(lines)


def draw(what: str) -> str:
    """The same as a picture."""
    groups = {
        row["method"]: {
            "ours": float(row[what]),
            "our plain twin": float(row[f"{what}_plain"]),
            "published code": float(row[f"{what}_published"]),
        }
        for row in rows()
    }
    return bars(f"{PICTURES[what]}, in times of the bare backbone's forward pass", groups)


def write() -> None:
    """Table and pictures into the documentation."""
    put(ROOT / PAGE, "speed", table())
    put(ROOT / PAGE, "usual", usual())
    for what in PICTURES:
        (ROOT / f"docs/images/speed-{what}.svg").write_text(draw(what), encoding="utf-8")


def main() -> None:
    """One line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    asked = parse(parser, PAGE, write)
    rate = matrix_rate("cpu", torch.float32)
    for name in asked.methods:
        workload = Workload(name, frames=16 if name == "dist" else 8, batch=asked.batch)
        row: dict[str, object] = {"method": name, "batch": asked.batch, **measure(workload, asked.rounds)}
        for column, known in (("published", PUBLISHED), ("target", TARGETS)):
            for what, value in zip(("inference", "training", "memory_gb"), known[name], strict=True):
                row[f"{what}_{column}"] = value
        row |= {"matrix_gflops": round(rate / 1e9, 1), **machine_facts()}
        print(row, flush=True)
        append_row(asked.out, row)


if __name__ == "__main__":
    main()
