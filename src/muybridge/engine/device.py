"""Where to compute, and in which arithmetic."""

from __future__ import annotations

import os

import torch

from muybridge.errors import BadInput


def pick_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name; None: CUDA if there is one, else the CPU.

    TF32 is switched off: fp32 means fp32, and a model answers on a GPU what it answers on a CPU.
    """
    device = torch.device(name) if name else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def cores_allowed() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mixed_precision(precision: str) -> str:
    """accelerate's name for a recipe's precision: `no`, `bf16` or `fp16`.

    Raises:
        BadInput: fp16 without a CUDA device.
    """
    if precision == "auto":
        if not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and not torch.cuda.is_available():
        raise BadInput("train.precision fp16 needs a CUDA device; give fp32 or bf16.")
    return {"fp32": "no"}.get(precision, precision)
