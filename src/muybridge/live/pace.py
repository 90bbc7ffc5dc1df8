"""Which frames of a stream are looked at: T of them, a fixed time apart, up to the newest."""

from __future__ import annotations

from dataclasses import dataclass

from muybridge.errors import BadInput
from muybridge.structures import Sampling

SPAN = 2.0  # seconds that a window shows where training looks at whole videos, whose length says nothing of a stream
USUAL_RATE = 30.0  # frames a second of a camera that does not tell
IN_STEPS = ("stride", "dense")  # rules of sampling that count frames


@dataclass(frozen=True)
class Pace:
    """How far apart the frames of a window are.

    Attributes:
        period: seconds from one frame of the window to the next; 0: every frame counts.
        slack: seconds by which a frame may come early and still be the one that was due.
        note: the same as a sentence.
    """

    period: float
    slack: float
    note: str


def choose_pace(sampling: Sampling, fps: float = 0.0, rate: float | None = None) -> Pace:
    """The pace of a window.

    Args:
        sampling: how the model was trained. The rules `stride` and `dense` count frames: so does the window. Of the
            others, which spread T frames over a video, the window shows `SPAN` seconds.
        fps: frames a second that come; 0: not known.
        rate: frames a second that are wanted; None: as above.

    Raises:
        BadInput: a rate or number of frames a second that is not above 0.
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise BadInput(f"rate is {rate:g}; expected frames a second, above 0.")
    if not 0 <= fps < float("inf"):
        raise BadInput(f"fps is {fps:g}; expected frames a second, above 0.")
    frames, known = sampling.frames, fps or USUAL_RATE
    why = ""
    if rate is not None:
        period = 1 / rate
    elif sampling.rule in IN_STEPS:
        period, why = sampling.stride / known, f", every {ordinal(sampling.stride)} as in training"
    else:
        period = SPAN / frames
    if fps and period < 1 / fps:
        period, why = 1 / fps, ", all that come"
    return Pace(
        period,
        min(period, 1 / known) / 4,
        f"A window is {frames} frames, {period:.3g} s apart{why}: {frames * period:.3g} s.",
    )


def count_pace(sampling: Sampling) -> Pace:
    """The pace where frames come without a time: the period is a number of frames."""
    if sampling.rule in IN_STEPS:
        step = sampling.stride
        return Pace(step, 0.0, f"A window is {sampling.frames} frames, every {ordinal(step)} of those given.")
    return Pace(
        1,
        0.0,
        f"A window is {sampling.frames} frames, all of those given; say with fps= how many a second they are, and "
        f"it shows {SPAN:g} s.",
    )


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, `11th`."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


class Sampler:
    """Says of each frame whether it is the next one of the window.

    Args:
        pace: how far apart they are.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._due: float | None = None

    def wants(self, seconds: float) -> bool:
        """Whether the frame at this time, at or after that of the last call, is wanted."""
        if self._due is None:
            self._due = seconds
        if seconds < self._due - self.pace.slack:
            return False
        self._due += self.pace.period
        if self._due <= seconds:  # frames come more slowly than they are wanted
            self._due = seconds + self.pace.period
        return True

    def restart(self) -> None:
        """What comes next is wanted, whenever it comes."""
        self._due = None
