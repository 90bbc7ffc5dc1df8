"""Peak memory of one piece of work: of a process of its own on a CPU, of the allocator on a GPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from muybridge.errors import BadInput


def peak_of(work: Callable[..., Callable[[], object]], *arguments: Any, times: int = 2) -> int:
    """Largest resident memory, in bytes, of a new process that calls what `work(*arguments)` returns.

    The libraries and the model are in it; what was needed for a moment to build the model is not.

    Args:
        work: a function at a module's top level that prepares and returns the step.
        arguments: for `work`; they are pickled.
        times: how often the step is called; the second finds gradients and moments in place.

    Raises:
        BadInput: the system does not tell (it is not Linux).
    """
    if not Path("/proc/self/clear_refs").exists():
        raise BadInput("Peak memory of a process is read from /proc, which this system does not have.")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, times, work, arguments).result()


def _peak(times: int, work: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> int:
    step = work(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(times):
        step()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def peak_on_gpu(step: Callable[[], object], device: torch.device, times: int = 2) -> int:
    """Largest allocated memory of a GPU, in bytes, while `step` is called; weights and all else alive are in it."""
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(times):
        step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)
