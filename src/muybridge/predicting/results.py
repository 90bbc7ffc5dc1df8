"""The answer to one video: a sequence of `Prediction`s that prints, draws and turns into a dict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

from muybridge.structures import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

BAR = 20  # characters
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Sequence[Prediction]):
    """The best classes of one video, best first; empty if it could not be read.

    Equal to any sequence of the same predictions, whatever the video.

    Attributes:
        predictions: the classes.
        video: the path; empty: frames in memory.
        error: why the video could not be read; empty: it could.
    """

    predictions: tuple[Prediction, ...]
    video: str = ""
    error: str = ""

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> list[Prediction]: ...

    def __getitem__(self, place: int | slice) -> Prediction | list[Prediction]:
        return list(self.predictions[place]) if isinstance(place, slice) else self.predictions[place]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Predictions):
            return (self.predictions, self.error) == (other.predictions, other.error)
        if isinstance(other, list | tuple):
            return self.predictions == tuple(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __repr__(self) -> str:
        what = f"cannot be read: {self.error}" if self.error else ", ".join(map(str, self))
        return f"<Predictions{f' of {self.video}' if self.video else ''}: {what}>"

    def __str__(self) -> str:
        """A line a class, with a bar; the video stands above."""
        return "\n".join([*([self.video] if self.video else []), *self.lines(bars=True)])

    def lines(self, bars: bool = False) -> list[str]:
        """A line a class, or one with the reason; with a bar of block characters if `bars`."""
        if self.error:
            return [f"  cannot be read: {self.error}"]
        return [
            f"  {answer.score:6.1%}  {text_bar(answer.score) + '  ' if bars else ''}{answer.label}" for answer in self
        ]

    def to_dict(self) -> dict[str, Any]:
        """`{"video": ..., "predictions": [{"label", "index", "score"}, ...]}`; with `error` in their place."""
        if self.error:
            return {"video": self.video, "error": self.error}
        return {"video": self.video, "predictions": [prediction_dict(answer) for answer in self]}

    def plot(self, width: int = 640) -> Image:
        """A picture of the bars, `width` pixels wide (Pillow): `.save("answers.png")`, and notebooks show it."""
        from muybridge.predicting.draw import draw_bars

        return draw_bars(self.predictions, width, self.video, self.error)

    def _repr_html_(self) -> str:
        title = f"<caption style='text-align:left'>{escape(self.video)}</caption>" if self.video else ""
        if self.error:
            return f"<table>{title}<tr><td>cannot be read: {escape(self.error)}</td></tr></table>"
        return f"<table>{title}{''.join(html_row(answer) for answer in self)}</table>"


def prediction_dict(answer: Prediction) -> dict[str, Any]:
    """`{"label", "index", "score"}`."""
    return {"label": answer.label, "index": answer.index, "score": answer.score}


def html_row(answer: Prediction, before: str = "") -> str:
    """A row of a table: what stands `before` (HTML), label, bar and score."""
    bar = (
        "<div style='width:160px;background:#e6e9ee;border-radius:3px'>"
        f"<div style='width:{answer.score:.1%};background:#2f6fde;height:10px;border-radius:3px'></div></div>"
    )
    return (
        f"<tr>{before}<td style='text-align:left'>{escape(answer.label)}</td><td>{bar}</td>"
        f"<td style='text-align:right'>{answer.score:.1%}</td></tr>"
    )


def text_bar(share: float, width: int = BAR) -> str:
    """A bar of block characters, `width` characters long with the blanks after it, for a share in [0, 1]."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return bar.ljust(width)
