"""What happens when in a long video: the answers to sliding windows, and the segments that follow from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

from muybridge.errors import BadInput
from muybridge.predicting.results import html_row, prediction_dict, text_bar
from muybridge.structures import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

TOUCH = 1e-6  # seconds
MOST_WINDOWS = 1_000_000


@dataclass(frozen=True)
class Window:
    """A part of a video that was answered by itself.

    Attributes:
        start: in seconds after the first frame.
        end: likewise.
        predictions: the best classes, best first.
    """

    start: float
    end: float
    predictions: tuple[Prediction, ...]

    @property
    def best(self) -> Prediction:
        """The best class."""
        return self.predictions[0]


@dataclass(frozen=True)
class Segment:
    """A stretch of a video in which the same class is the best.

    Attributes:
        start: in seconds after the first frame.
        end: likewise.
        label: class name.
        index: of the class.
        score: mean probability over its windows, in [0, 1].
    """

    start: float
    end: float
    label: str
    index: int
    score: float

    def __str__(self) -> str:
        return f"{clock(self.start)} - {clock(self.end)}  {self.label} {self.score:.1%}"

    def to_dict(self) -> dict[str, Any]:
        """`{"start", "end", "label", "index", "score"}`."""
        return {"start": round(self.start, 3), "end": round(self.end, 3), **prediction_dict(self.prediction)}

    @property
    def prediction(self) -> Prediction:
        """Class and score alone."""
        return Prediction(self.label, self.index, self.score)


@dataclass(frozen=True, repr=False)
class Timeline(Sequence[Segment]):
    """The segments of one video in order; they do not overlap, and where nothing is likely enough there is none.

    Attributes:
        video: the path.
        duration: in seconds.
        window: length of a window in seconds.
        step: from the start of one to that of the next.
        min_score: a window whose best class is below counts as nothing.
        windows: all of them, in order.
        segments: what follows from them.
        error: why the video could not be read; empty: it could.
    """

    video: str
    duration: float
    window: float
    step: float
    min_score: float = 0.0
    windows: tuple[Window, ...] = ()
    segments: tuple[Segment, ...] = ()
    error: str = ""

    def __len__(self) -> int:
        return len(self.segments)

    @overload
    def __getitem__(self, place: int) -> Segment: ...

    @overload
    def __getitem__(self, place: slice) -> list[Segment]: ...

    def __getitem__(self, place: int | slice) -> Segment | list[Segment]:
        return list(self.segments[place]) if isinstance(place, slice) else self.segments[place]

    def at(self, second: float) -> Window | None:
        """The window that answers for a moment; None where nothing is likely enough, or between windows."""
        place = max(bisect_right(self._spans, (second, float("inf"))) - 1, 0)
        if not self.windows or not self._spans[place][0] <= second <= self._spans[place][1]:
            return None
        window = self.windows[place]
        return window if window.best.score >= self.min_score else None

    @cached_property
    def _spans(self) -> list[tuple[float, float]]:
        return spans([(window.start, window.end) for window in self.windows])

    def __repr__(self) -> str:
        what = f"cannot be read: {self.error}" if self.error else f"{len(self)} segments in {clock(self.duration)}"
        return f"<Timeline{f' of {self.video}' if self.video else ''}: {what}>"

    def __str__(self) -> str:
        """A line a segment, with a bar; the video stands above."""
        return "\n".join([*([self.video] if self.video else []), *self.lines(bars=True)])

    def lines(self, bars: bool = False) -> list[str]:
        """A line a segment, or one with the reason that there is none."""
        if self.error:
            return [f"  cannot be read: {self.error}"]
        if not self.segments:
            return [f"  nothing with a score of at least {self.min_score:.0%} in {clock(self.duration)}"]
        long = self.duration >= 3600
        return [
            f"  {clock(segment.start, long)} - {clock(segment.end, long)}  {segment.score:6.1%}  "
            f"{text_bar(segment.score, 10) + '  ' if bars else ''}{segment.label}"
            for segment in self
        ]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict a segment: `start`, `end` (seconds), `label`, `index`, `score`."""
        return [segment.to_dict() for segment in self]

    def to_dict(self) -> dict[str, Any]:
        """Everything: the video, how it was cut, `segments` as `to_dicts`, and `windows` with their predictions."""
        if self.error:
            return {"video": self.video, "error": self.error}
        return {
            "video": self.video,
            "duration": round(self.duration, 3),
            "window": self.window,
            "step": self.step,
            "min_score": self.min_score,
            "segments": self.to_dicts(),
            "windows": [
                {
                    "start": round(window.start, 3),
                    "end": round(window.end, 3),
                    "predictions": [prediction_dict(answer) for answer in window.predictions],
                }
                for window in self.windows
            ],
        }

    def plot(self, width: int = 960) -> Image:
        """A picture, `width` pixels wide (Pillow): a row a class, its segments along the time."""
        from muybridge.predicting.draw import draw_timeline

        return draw_timeline(self, width)

    def _repr_html_(self) -> str:
        title = f"<caption style='text-align:left'>{escape(self.video)}</caption>" if self.video else ""
        if self.error or not self.segments:
            return f"<table>{title}<tr><td>{escape(self.lines()[0].strip())}</td></tr></table>"
        rows = (
            html_row(segment.prediction, f"<td>{clock(segment.start)} - {clock(segment.end)}</td>") for segment in self
        )
        return f"<table>{title}{''.join(rows)}</table>"


def plan_windows(duration: float, window: float, step: float | None = None) -> list[tuple[float, float]]:
    """Where windows lie, in seconds: the last ends with the video, whose every moment is in one if they overlap.

    Args:
        duration: of the video, in seconds.
        window: length of a window.
        step: from the start of one to that of the next; None: half a window.

    Returns:
        (start, end) of each, ascending. A video that is shorter than a window is one.

    Raises:
        BadInput: a length that is no positive number, or more than a million windows.
    """
    step = window / 2 if step is None else step
    for name, value in (("window", window), ("step", step)):
        if not 0 < value < float("inf"):
            raise BadInput(f"{name} is {value:g}; expected a positive number of seconds.")
    if duration / step > MOST_WINDOWS:
        raise BadInput(
            f"A step of {step:g} s makes more than {MOST_WINDOWS} windows of {duration:g} s; give a longer one."
        )
    if duration <= window + TOUCH:
        return [(0.0, duration)]
    starts = [step * number for number in range(int((duration - window + TOUCH) / step) + 1)]
    if starts[-1] + window < duration - TOUCH and starts[-1] + step < duration:
        starts.append(duration - window)
    return [(start, min(start + window, duration)) for start in starts]


def check_score(min_score: float) -> None:
    """Raise BadInput unless a window's score can be compared with this."""
    if not 0 <= min_score <= 1:
        raise BadInput(f"min_score is {min_score:g}; expected a probability, 0 to 1.")


def spans(windows: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The time for which each window answers: where two overlap, the middle of what they share parts them.

    Args:
        windows: (start, end) of each, ascending.

    Returns:
        (start, end) of each, without overlap.
    """
    pairs = list(pairwise(windows))
    # Where two do not overlap, each keeps its own time.
    begins = [max((before[1] + after[0]) / 2, after[0]) for before, after in pairs]
    ends = [min((before[1] + after[0]) / 2, before[1]) for before, after in pairs]
    return list(zip([windows[0][0], *begins], [*ends, windows[-1][1]], strict=True)) if windows else []


def merge(windows: Iterable[Window], min_score: float = 0.0) -> tuple[Segment, ...]:
    """Neighbouring windows of the same best class become one segment; its score is their mean.

    Args:
        windows: in order.
        min_score: a window whose best score is below counts as nothing: no segment covers the time it answers for.
    """
    windows = tuple(windows)
    segments: list[Segment] = []
    scores: list[float] = []
    for window, (start, end) in zip(windows, spans([(w.start, w.end) for w in windows]), strict=True):
        best = window.best
        if best.score < min_score:
            continue
        if segments and segments[-1].index == best.index and start - segments[-1].end < TOUCH:
            start = segments.pop().start
            scores.append(best.score)
        else:
            scores = [best.score]
        segments.append(Segment(start, end, best.label, best.index, sum(scores) / len(scores)))
    return tuple(segments)


def clock(seconds: float, hours: bool = False) -> str:
    """A time on the clock to a tenth of a second: `1:02.5`; `0:01:02.5` from an hour on, or if `hours`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    if hours or minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{rest / 10:04.1f}"
    return f"{minutes}:{rest / 10:04.1f}"
