"""Times that can be compared on a noisy machine: all candidates in turn, in one process, ratios within a round."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

SHORT = 0.02  # seconds; what is shorter is repeated within a measurement


@dataclass(frozen=True)
class Times:
    """Seconds of each candidate in each round.

    Attributes:
        seconds: name -> one figure a round; rounds are the same for all candidates.
    """

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median over the rounds, in seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Median over the rounds of the ratio within a round: what slows the machine down for a while cancels out."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return median(mine / theirs for mine, theirs in pairs)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warmups: int = 1,
    device: torch.device | str = "cpu",
) -> Times:
    """Call every candidate once a round, in turns that go forward and backward.

    Args:
        candidates: name -> what is timed; what it returns is thrown away.
        rounds: how many times each is measured.
        warmups: calls before that, not timed.
        device: a GPU is waited for before and after each call.
    """
    device = torch.device(device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def clock(call: Callable[[], object], times: int) -> float:
        wait()
        begun = time.perf_counter()
        for _ in range(times):
            call()
        wait()
        return (time.perf_counter() - begun) / times

    repeats = {}
    for name, call in candidates.items():
        for _ in range(warmups):
            last = clock(call, 1)
        repeats[name] = max(1, math.ceil(SHORT / max(last, 1e-6))) if warmups else 1
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    for turn in range(rounds):
        order = list(candidates) if turn % 2 == 0 else list(candidates)[::-1]
        for name in order:
            seconds[name].append(clock(candidates[name], repeats[name]))
    return Times(seconds)
