"""Telling a person how far the work is."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


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
