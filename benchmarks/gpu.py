"""The methods on a GPU, in bf16: views a second, memory, share of the matrix rate; eager, compiled, cached.

    python benchmarks/gpu.py --out benchmarks/results/gpu.csv             # on a GPU, about 8 minutes
    python benchmarks/gpu.py --tiny --out /tmp/tiny.csv                   # anywhere, seconds: does it run?

CLIP ViT-B/16 and ViT-L/14 with random weights, 8 and 32 frames of 224 px (DiST: twice as many, of which the backbone
reads half), 400 classes. Inference: weights and activations in bf16. Training step: bf16 by autocast, AdamW, on one
batch again and again. `share`: multiply-adds of the method (counted; a training step counts what autograd runs too)
over what a large bf16 matrix product reaches in the same run. `of_bound`: the bare backbone's forward pass without
gradients over this time. `synchronises`: whether a step makes the processor wait for the GPU.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from counted import OWN
from muybridge.engine.device import pick_device
from muybridge.errors import BadInput
from muybridge.info.counting import multiply_adds
from muybridge.measure.machine import machine_facts, matrix_rate
from muybridge.measure.memory import peak_on_gpu
from muybridge.measure.speed import BARE, compare, compiled, forward
from muybridge.measure.table import append_row
from muybridge.measure.timing import interleaved
from muybridge.measure.workload import Workload, bare_backbone, random_video, training_step
from muybridge.methods.base import Method, check_cacheable

METHODS = ("evl", "dist", "ila", "zeroi2v")
# Backbone, frames that it reads, videos at a time in inference and in training.
SETTINGS = (
    ("clip_vitb16", 8, 64, 16),
    ("clip_vitb16", 32, 16, 4),
    ("clip_vitl14", 8, 32, 8),
    ("clip_vitl14", 32, 8, 2),
)
COMPILED = {("clip_vitb16", 8), ("clip_vitl14", 32)}  # a compilation takes longer than all measurements of a setting
MODES = (None, "reduce-overhead")  # the second runs as CUDA graphs
Call = Callable[[], Any]


def synchronises(call: Call, device: torch.device) -> bool | None:
    """Whether a call waits for the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def step_operations(step: Call) -> int:
    """Floating-point operations of a training step, backward pass and all."""
    with FlopCounterMode(display=False, custom_mapping=OWN) as counter:
        step()
    return int(counter.get_total_flops())


def is_cacheable(model: Method) -> bool:
    """Whether there is a cached way."""
    try:
        check_cacheable(type(model))
    except BadInput:
        return False
    return True


def inference_ways(model: Method, video: torch.Tensor, compile_too: bool) -> Iterator[tuple[str, Call]]:
    """Every way of a forward pass, by name."""
    merged = model.merged()
    yield "eager", forward(merged, video)
    if compile_too:
        for mode in MODES:
            yield f"compiled {mode or 'default'}", forward(compiled(merged, mode), video)
    if is_cacheable(model):
        with torch.inference_mode():
            features = model.frozen(video)
        assert features is not None

        def cached() -> torch.Tensor:
            with torch.inference_mode():
                return model.readout(features).logits

        yield "cached", cached


def training_ways(model: Method, video: torch.Tensor, compile_too: bool) -> Iterator[tuple[str, Call]]:
    """Every way of a training step, by name."""
    yield "train", training_step(copy.deepcopy(model), video, "bf16")
    if compile_too:
        own = copy.deepcopy(model)
        own.compile(fullgraph=True)
        yield "train compiled", training_step(own, video, "bf16")
    if is_cacheable(model):
        yield "train cached", training_step(copy.deepcopy(model), video, "bf16", cached=True)


def rows(workload: Workload, train_batch: int, compile_too: bool, rounds: int, rate: float) -> Iterator[dict[str, Any]]:
    """The figures of one method in one setting."""
    device = pick_device()
    model = workload.build(device)
    video = random_video(model, workload.batch)
    reference = forward(model.merged(), video)()
    half = copy.deepcopy(model).to(torch.bfloat16)
    images = video.to(torch.bfloat16)
    begun = time.perf_counter()
    bare = bare_backbone(half, images)
    frames = images[:1, :: images.shape[1] // half.backbone_frames].flatten(0, 1)
    forward_flops = {
        BARE: 2 * multiply_adds(half.backbone, frames),
        "eager": 2 * multiply_adds(half.merged(), images[:1]),
    }
    flops = 0
    for kind, ways, batch in (
        ("inference", inference_ways(half, images, compile_too), workload.batch),
        ("training", training_ways(model, video[:train_batch], compile_too), train_batch),
    ):
        if kind == "training":
            bare = bare_backbone(half, images[:train_batch])
        for name, call in [(BARE, bare), *ways]:
            logits = call()
            times = interleaved({BARE: bare, name: call}, rounds, warmups=3, device=device)
            if name in (BARE, "eager", "train"):  # compiled ones do what the one before does
                flops = step_operations(call) if name == "train" else batch * forward_flops[name]
            if name.endswith("cached"):
                flops = 0
            difference, same = compare(logits, reference) if kind == "inference" and name != BARE else (None, None)
            yield {
                "method": workload.method,
                "backbone": workload.backbone,
                "frames": model.backbone_frames,
                "kind": kind,
                "way": name,
                "batch": batch,
                "views_per_second": round(batch / times.median(name), 2),
                "ms": round(1e3 * times.median(name), 3),
                "of_bound": round(1 / times.ratio(name, BARE), 3),
                "tflops": round(flops / times.median(name) / 1e12, 2) if flops else None,
                "share": round(flops / times.median(name) / rate, 3) if flops else None,
                "peak_gb": round(peak_on_gpu(call, device) / 1e9, 2) if device.type == "cuda" else None,
                "difference": None if difference is None else round(difference, 5),
                "same_top5": same,
                "synchronises": synchronises(call, device),
                "seconds_so_far": round(time.perf_counter() - begun, 1),
            }


def main() -> None:
    """All settings, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--settings", nargs="+", type=int, default=list(range(len(SETTINGS))), help="0 to 3")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--tiny", action="store_true", help="a backbone of 4 x 4 patches and two videos, on any machine"
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    asked = parser.parse_args()
    device = pick_device()
    if device.type != "cuda" and not asked.tiny:
        parser.error("there is no GPU here; --tiny runs anywhere")
    rate = matrix_rate(device, torch.bfloat16, 256 if asked.tiny else 0)
    print(f"matrix product in bf16: {rate / 1e12:.1f} TFLOP/s", flush=True)
    for number in asked.settings:
        backbone, frames, batch, train_batch = SETTINGS[number]
        compile_too = (backbone, frames) in COMPILED and not asked.no_compile
        for method in asked.methods:
            read = 2 * frames if method == "dist" else frames
            workload = Workload(method, backbone=backbone, frames=read, batch=batch)
            if asked.tiny:
                workload = Workload(method, backbone="dinov2_vits14", image_size=(56, 56), frames=4, classes=9, batch=2)
                train_batch = 2
            for row in rows(workload, train_batch, compile_too, asked.rounds, rate):
                row |= {"matrix_tflops": round(rate / 1e12, 1), **machine_facts(device)}
                print({name: row[name] for name in list(row)[:15]}, flush=True)
                append_row(asked.out, row)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
