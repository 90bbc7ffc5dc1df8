"""A stream of predictions: one for every new frame of the window."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from muybridge.errors import BadInput
from muybridge.live.feed import Shot, Source
from muybridge.live.ring import Ring
from muybridge.methods.base import Method
from muybridge.predicting.asking import best_of
from muybridge.structures import Prediction, Transform
from muybridge.video.transforms import test_video


@dataclass(frozen=True)
class Moment:
    """What a window shows.

    Attributes:
        seconds: when its newest frame is shown, after the first frame of the stream; where frames were given without
            their rate: the number of that frame.
        frame: the number of its newest frame in the stream, from 0.
        predictions: the best classes, best first.
        scores: [K], probabilities, on the CPU.
        milliseconds: what it took: transforming and encoding what is new, and reading the window.
    """

    seconds: float
    frame: int
    predictions: tuple[Prediction, ...]
    scores: Tensor
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s: {', '.join(map(str, self.predictions))}"

    def to_dict(self) -> dict[str, Any]:
        """Numbers and words, for JSON; without the scores of all classes."""
        return {
            "seconds": round(self.seconds, 3),
            "frame": self.frame,
            "milliseconds": round(self.milliseconds, 2),
            "predictions": [vars(prediction) for prediction in self.predictions],
        }


class Stream(Iterator[Moment]):
    """Predictions of windows that move on with a stream; an iterator, and a context manager that closes the source.

    Made by `Recogniser.stream`.

    Args:
        method: in evaluation mode, on `device`.
        transform: of the frames.
        labels: K class names.
        source: of the frames.
        every: a prediction for every so-many-th new frame of the window.
        top: classes a prediction names.
        crops: 1: the centre; 3: the mean of three places.
        device: where the method is.
        notes: sentences on how the window is made.

    Attributes:
        encodes_once: each frame goes through the image transformer once; else every window is computed anew.
        notes: what one should know, sentences.
        used: frames of the windows so far.
        predictions: how many there were.
        milliseconds: of all predictions together.

    Raises:
        BadInput: `every` or `top` is below 1, or `crops` neither 1 nor 3.
    """

    def __init__(
        self,
        method: Method,
        transform: Transform,
        labels: Sequence[str],
        source: Source,
        every: int = 1,
        top: int = 5,
        crops: int = 1,
        device: torch.device | str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        check_options(every, top, crops)
        self._ring, self._transform, self._labels, self._source = Ring(method), transform, tuple(labels), source
        self._every, self._top, self._crops, self._device = every, top, crops, device
        self._order: int | None = None
        self._fresh = every  # frames since the last prediction; the first window has one at once
        self.encodes_once = self._ring.once
        name = type(method).__name__
        how = (
            f"{name} encodes each frame once and keeps what it found."
            if self.encodes_once
            else f"{name} mixes frames inside the image transformer, so every window is computed anew: "
            f"{method.frames} frames a prediction, not one."
        )
        self.notes = (*notes, how)
        self.used = self.predictions = 0
        self.milliseconds = 0.0
        # A stream that is dropped without being closed must not leave a thread that reads on, nor a camera open.
        weakref.finalize(self, source.stop)

    @property
    def seen(self) -> int:
        """Frames that have come."""
        return self._source.seen

    @property
    def dropped(self) -> int:
        """Frames that the window asked for and that were let go, because newer ones had come."""
        return self._source.dropped

    def __next__(self) -> Moment:
        """The next prediction.

        Raises:
            VideoError: the source is lost, or goes beyond the limits.
            BadInput: something is given that is no frame, or the model's answer is no number.
        """
        while True:
            shots = self._source.take()
            if not shots:
                self.close()
                raise StopIteration
            begun = time.perf_counter()
            for shot in shots:
                self._add(shot)
            if self._ring.full and self._fresh >= self._every:
                self._fresh = 0
                scores = self._ring.logits().float().softmax(dim=-1).mean(dim=0).cpu()
                return self._moment(shots[-1], scores, 1e3 * (time.perf_counter() - begun))

    def stop(self) -> None:
        """End soon: there will be no further prediction; from any thread."""
        self._source.stop()

    def close(self) -> None:
        """Let the source go; closing it again does no harm."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def summary(self) -> str:
        """How many frames came, what became of them, and what a prediction took."""
        took = f", {self.milliseconds / self.predictions:.0f} ms each" if self.predictions else ""
        return (
            f"{self.seen} frames seen, {self.used} used, {self.dropped} dropped; "
            f"{self.predictions} prediction{'' if self.predictions == 1 else 's'}{took}."
        )

    def _add(self, shot: Shot) -> None:
        if self._order is not None and shot.order != self._order + 1:
            self._ring.clear()
        self._order = shot.order
        images = test_video(shot.picture[None], self._transform, self._crops, self._crops == 1)  # [crops, 1, 3, h, w]
        self._ring.push(images[:, 0].to(self._device))
        self.used += 1
        self._fresh += 1

    def _moment(self, shot: Shot, scores: Tensor, milliseconds: float) -> Moment:
        answers = best_of(scores, self._labels, self._top, f"the window up to frame {shot.number}")
        self.predictions += 1
        self.milliseconds += milliseconds
        return Moment(shot.seconds, shot.number, answers, scores, milliseconds)


def check_options(every: int, top: int, crops: int) -> None:
    """Raise BadInput unless these can be used, before a source is opened."""
    for name, value in (("every", every), ("top", top)):
        if value < 1:
            raise BadInput(f"{name} is {value}; expected at least 1.")
    if crops not in (1, 3):
        raise BadInput(f"crops is {crops}; expected 1 (the centre) or 3 (along the long side).")
