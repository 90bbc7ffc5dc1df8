"""On what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

import muybridge


def machine_facts(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """What belongs beside every figure: chip, cores, threads, versions, commit.

    Args:
        device: where it was measured; a GPU is named in place of the processor.
    """
    device = torch.device(device)
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "muybridge": muybridge.__version__,
        "commit": commit(),
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The commit of the sources, `+` behind it if they were changed since; empty outside a repository."""
    folder = Path(__file__).parent
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=9"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def matrix_rate(device: torch.device | str, dtype: torch.dtype, size: int = 0) -> float:
    """Floating-point operations a second of a large matrix product: the physical ceiling of the machine.

    Args:
        device: where.
        dtype: of its elements.
        size: rows and columns; 0: 8192 on a GPU, 2048 on a CPU.
    """
    from muybridge.measure.timing import interleaved

    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    with torch.inference_mode():
        times = interleaved({"product": lambda: a @ b}, rounds=5, device=device)
    return 2 * size**3 / min(times.seconds["product"])
