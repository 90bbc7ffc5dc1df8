"""What becomes of memory that a training on a CPU frees: kept for the next step, or given back at once.

By default glibc's allocator gives large blocks back to the system and asks for them anew in every step; the system
fills each page with zeros first. What is between goes into a heap that never shrinks and gets holes.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # names of mallopt(3), by their numbers in glibc
MB = 1 << 20
# Fast: a step of ZeroI2V on ViT-B/16 faults in no page in place of 230,000: 0.92 of its time; ILA 0.98, DiST 0.97.
KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 * MB}
# Large blocks come from the system and go back to it: a checkpointed step of ZeroI2V peaks at 1.28 GB, not at 2.36.
GIVE_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: MB, TRIM_THRESHOLD: 2 * MB, TOP_PAD: 0}
# What glibc comes to by itself once blocks of 32 MB were freed.
AS_USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * MB, TRIM_THRESHOLD: 64 * MB, TOP_PAD: MB // 8}

_within: list[int] = []  # this process, once for each `freed_memory` that it is in


@contextmanager
def freed_memory(saving: bool) -> Iterator[None]:
    """Within: this process keeps what it frees for what it needs next or, `saving`, gives large blocks back at once.

    Afterwards all that is free goes back to the system. It changes nothing where torch computes on a GPU, the C library
    is not glibc or the user has settings of his own for its allocator (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    if not may_set_allocator():
        yield
        return
    set_allocator(GIVE_BACK if saving else KEEP)
    _within.append(os.getpid())
    try:
        yield
    finally:
        _within.pop()
        set_allocator(AS_USUAL)
        ctypes.CDLL(None).malloc_trim(0)


def usual_in_fork() -> None:
    """A process that was forked within `freed_memory`, to decode videos, treats its memory as usual again."""
    if _within and _within[-1] != os.getpid():
        _within.clear()
        set_allocator(AS_USUAL)


def may_set_allocator() -> bool:
    """Whether memory is glibc's, matters and was not settled by the user."""
    if torch.cuda.is_available() or platform.libc_ver()[0] != "glibc":
        return False
    own = any(name.startswith("MALLOC_") for name in os.environ)
    return not own and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", "")


def set_allocator(options: Mapping[int, int]) -> None:
    """`mallopt` of each, for the whole process."""
    libc = ctypes.CDLL(None)
    for option, value in options.items():
        libc.mallopt(option, value)
