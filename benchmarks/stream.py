"""What a new frame of a live stream costs beside computing its window anew, on a CPU. Writes a CSV.

    python benchmarks/stream.py --out benchmarks/results/stream.csv                 # about 10 minutes on one thread
    python benchmarks/stream.py --methods evl --rounds 3 --out /tmp/stream.csv

CLIP ViT-B/16 with random weights, windows of 8 frames of 224 px (DiST: 16, of which the backbone reads 8), 400 classes,
one stream, fp32. `window_ms`: the method on the T frames; `frame_ms`: encoding the new frame and reading the window
with what is kept of the others; `bare_frame_ms`: the bare backbone on one frame, the least that a frame can cost.
Ratios are medians over rounds, within a round. Methods that mix frames inside the image transformer compute the window
anew; their ratio shows how far such figures can be trusted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from muybridge.live.ring import Ring, encodes_once
from muybridge.measure.machine import machine_facts
from muybridge.measure.speed import compare, forward, live
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from muybridge.measure.workload import Workload, random_video

METHODS = ("evl", "dist", "probe", "ila", "zeroi2v", "st_adapter", "aim")
TARGETS = {"evl": 5.0}  # at least so many times less


def measure(workload: Workload, rounds: int) -> dict[str, object]:
    """Milliseconds and ratios of one method."""
    model = workload.build().merged().eval()
    video = random_video(model, 1)
    window, step = forward(model, video), live(model, video)
    frame = video[:, 0].contiguous()
    difference, _ = compare(step(), window())
    times = interleaved({"window": window, "frame": step, "bare": lambda: _bare(model, frame)}, rounds)
    return {
        "encodes_once": encodes_once(model),
        "window_ms": round(1e3 * times.median("window"), 1),
        "frame_ms": round(1e3 * times.median("frame"), 1),
        "bare_frame_ms": round(1e3 * times.median("bare"), 1),
        "times_less": round(times.ratio("window", "frame"), 2),
        "target": TARGETS.get(workload.method, ""),
        "bare_frames": round(times.ratio("frame", "bare"), 2),
        "difference": f"{difference:.1e}",
        "kept_mb": round(_kept_bytes(model, video) / 1e6, 1),
    }


@torch.inference_mode()
def _bare(model: torch.nn.Module, frame: torch.Tensor) -> None:
    model.backbone(frame)  # type: ignore[operator]


def _kept_bytes(model: torch.nn.Module, video: torch.Tensor) -> int:
    """What a full ring holds."""
    ring = Ring(model)  # type: ignore[arg-type]
    for frame in [*video.unbind(1)] * 2:
        ring.push(frame)
        if ring.full and ring.once:
            ring.logits()
    return ring.bytes


def main() -> None:
    """One line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--backbone", default="clip_vitb16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.methods:
        frames = 16 if name == "dist" else 8
        workload = Workload(name, backbone=asked.backbone, frames=frames, image_size=(asked.size, asked.size))
        setting = {"method": name, "backbone": asked.backbone, "frames": frames, "size": asked.size}
        row = {**setting, **measure(workload, asked.rounds), "rounds": asked.rounds, **machine_facts()}
        print(row, flush=True)
        append_row(asked.out, row)


if __name__ == "__main__":
    main()
