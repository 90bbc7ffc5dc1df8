"""Telling a person how far the work is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in GB; of the GPU if it computes on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def duration(seconds: float) -> str:
    """A time in one unit, in words of two digits: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, float("inf"))):
        if seconds / size < most:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return "for ever"


@dataclass
class Meter:
    """Running sums of an epoch."""

    loss: float = 0.0
    right: int = 0
    videos: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def figures(self) -> dict[str, float]:
        """Mean loss, accuracy, videos per second and the share of the time spent waiting for data, so far."""
        videos = max(self.videos, 1)
        return {
            "loss": self.loss / videos,
            "accuracy": self.right / videos,
            "videos_per_second": self.videos / max(self.seconds, 1e-9),
            "data_wait": self.waited / max(self.seconds, 1e-9),
        }


class Progress:
    """Says nothing; the base of what does."""

    def start(self, title: str, total: float) -> None:
        """A piece of work with `total` videos begins."""

    def advance(self, amount: float, **figures: float | str) -> None:
        """`amount` videos more are done; `figures` are shown beside the bar."""

    def finish(self) -> None:
        """The piece of work is done."""

    def say(self, text: str) -> None:
        """One line that stays."""


class ProgressBar(Progress):
    """A bar in the terminal, with figures and the time left; lines that stay are printed above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: Any = None

    def start(self, title: str, total: float) -> None:
        self.finish()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # in a log, bars are noise; the lines that stay are enough
        )
        self._task = self._bar.add_task(title, total=total, figures="")
        self._bar.start()

    def advance(self, amount: float, **figures: float | str) -> None:
        if self._bar is not None:
            text = "  ".join(
                f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in figures.items()
            )
            self._bar.update(self._task, advance=amount, figures=text)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
