"""What the page and the HTTP API ask of a recogniser: answers, timelines and explanations within limits.

A forward pass changes nothing in a model, so several may run at the same time. What does change one, other class names
and looking inside, happens to a copy that shares its tensors. So no request changes another's answer.
"""

from __future__ import annotations

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from muybridge.engine.evaluate import view_scores
from muybridge.errors import BadInput, MuybridgeError, VideoError
from muybridge.explain import Explanation
from muybridge.methods.base import Method, text_head
from muybridge.predicting.asking import best_of, question_to
from muybridge.predicting.results import Predictions, prediction_dict
from muybridge.predicting.timeline import Timeline
from muybridge.recogniser import Recogniser
from muybridge.video.decode import open_video
from muybridge.video.opened import Video
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_video
from muybridge.web.limits import MOST_TOP, MOST_WINDOWS, ServeLimits

NAME = "this video"  # what it is called: its file has a name of the visitor's
KEPT_NAMES = 16  # sets of class names


class Busy(MuybridgeError):
    """More requests than may wait."""


@dataclass(frozen=True)
class Answer:
    """What is said of one video.

    Attributes:
        predictions: the best classes, best first.
        duration: in seconds.
        size: (height, width) in pixels.
        frame_count: of the whole video.
        indices: of the frames of the view in the middle, from 0.
        seconds: when these are shown; None: the file does not tell.
        pictures: uint8 [T, H, W, 3], these frames.
        views: from how many views the answer is the mean.
    """

    predictions: Predictions
    duration: float
    size: tuple[int, int]
    frame_count: int
    indices: tuple[int, ...]
    seconds: tuple[float, ...] | None
    pictures: npt.NDArray[np.uint8]
    views: int

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels."""
        height, width = self.size
        return {
            "predictions": [prediction_dict(one) for one in self.predictions],
            "video": {
                "duration": round(self.duration, 3),
                "frames": self.frame_count,
                "width": width,
                "height": height,
            },
            "sampled": [
                {"frame": index, "seconds": None if self.seconds is None else round(self.seconds[t], 3)}
                for t, index in enumerate(self.indices)
            ],
            "views": self.views,
        }


class Service:
    """A recogniser for several people at the same time.

    Args:
        recogniser: from `muybridge.load`; never changed.
        limits: what a request may cost.
        weights: file with the text tower, for other class names, where the model was saved without it.

    Attributes:
        can_name: whether other class names are possible: there is a text head, and its text tower could be had.
        notes: what the one who serves should know, sentences.
    """

    def __init__(self, recogniser: Recogniser, limits: ServeLimits | None = None, weights: Path | None = None) -> None:
        question_to(recogniser)  # refuses a text head without class names
        self.recogniser, self.limits = recogniser, limits or ServeLimits()
        self.notes: tuple[str, ...] = ()
        self.can_name = False
        self._weights = weights
        self._named: OrderedDict[tuple[str, ...], Recogniser] = OrderedDict()
        self._naming = threading.Lock()
        # One short and one long request are computed at a time, so that a prediction never waits for a timeline.
        self._short, self._long = threading.Lock(), threading.Lock()
        self._places = threading.BoundedSemaphore(self.limits.requests)
        if text_head(recogniser.method) is not None:
            try:
                self.named(("one thing", "another thing"))
                self.can_name = True
            except MuybridgeError as error:
                self.notes = (f"Visitors cannot give class names of their own: {error}",)

    def named(self, labels: Sequence[str]) -> Recogniser:
        """The recogniser for other class names; none: as it is. What it shares with the others is never written to.

        Raises:
            BadInput: this model has a linear head, or the text tower is nowhere.
        """
        names = tuple(labels)
        if not names:
            return self.recogniser
        with self._naming:
            if names not in self._named:
                other = apart(self.recogniser)
                other.relabel(names, self._weights)
                self._named[names] = other
                while len(self._named) > KEPT_NAMES:
                    self._named.popitem(last=False)
            self._named.move_to_end(names)
            return self._named[names]

    def answer(self, path: str | Path, labels: Sequence[str] = (), top: int = 5, name: str = "") -> Answer:
        """The best classes of a video, and the frames that they come from.

        Args:
            path: the file.
            labels: other class names, for a model with a text head.
            top: how many classes.
            name: what messages call the file; by default its name.

        Raises:
            VideoError: the file cannot be read, or goes beyond the limits.
            BadInput: a number or name cannot be used.
            Busy: too many requests wait.
        """
        if not 1 <= top <= MOST_TOP:
            raise BadInput(f"top is {top}; expected 1 to {MOST_TOP}.")
        with self._place():
            model = self.named(labels)
            sampling, transform = model.sampling, model.spec.transform
            with self._open(path, name) as video:
                views = test_indices(video.frame_count, sampling)
                read = video.read([index for view in views for index in view])
                try:
                    seconds = video.seconds()
                except VideoError:
                    seconds = None
                facts = (video.duration, video.size, video.frame_count)
            frames = read.reshape(len(views), sampling.frames, *read.shape[1:])
            single = sampling.views * sampling.crops == 1
            inputs = torch.cat([test_video(view, transform, sampling.crops, single) for view in frames])
            with self._short:
                scores = view_scores(model.method, inputs[None], model.device)[0]
            middle = sampling.views // 2
            return Answer(
                Predictions(best_of(scores, model.labels, top), name or Path(path).name),
                *facts,
                indices=tuple(views[middle]),
                seconds=None if seconds is None else tuple(float(seconds[index]) for index in views[middle]),
                pictures=frames[middle],
                views=len(inputs),
            )

    def timeline(
        self,
        path: str | Path,
        window: float,
        labels: Sequence[str] = (),
        top: int = 5,
        min_score: float = 0.0,
        name: str = "",
    ) -> Timeline:
        """What happens when; windows lie further apart where there would be more than `MOST_WINDOWS`.

        Args:
            path, labels, top, name: as `answer`.
            window: in seconds.
            min_score: see `Recogniser.timeline`.

        Raises:
            VideoError, BadInput, Busy: as `answer`.
        """
        if not 1 <= top <= MOST_TOP:
            raise BadInput(f"top is {top}; expected 1 to {MOST_TOP}.")
        if not 0 < window < float("inf"):
            raise BadInput(f"window is {window:g}; expected a positive number of seconds.")
        with self._place():
            model = self.named(labels)
            with self._open(path, name) as video:
                step = max(window / 2, video.duration / MOST_WINDOWS)
            try:
                with self._long:
                    line = model.timeline(path, window, step, top, min_score, source=self.limits.source)
            except VideoError as error:
                raise VideoError(name or Path(path).name, error.reason) from None
            return replace(line, video=name or Path(path).name)

    def explain(
        self, path: str | Path, labels: Sequence[str] = (), label: str | None = None, name: str = ""
    ) -> Explanation:
        """Where the model looks, and how much each frame matters.

        Args:
            path, labels, name: as `answer`.
            label: the class that is explained; None: the one that is recognised.

        Raises:
            VideoError, BadInput, Busy: as `answer`.
            UnknownName: no such class.
        """
        with self._place():
            # Looking inside hangs something on the model while it runs.
            model = apart(self.named(labels))
            self._open(path, name).close()
            try:
                with self._long:
                    return model.explain(path, label, source=self.limits.source)
            except VideoError as error:
                raise VideoError(name or Path(path).name, error.reason) from None

    def _open(self, path: str | Path, name: str) -> Video:
        called = name or Path(path).name
        video = open_video(path, self.limits.source, called)
        if video.duration > self.limits.duration:
            video.close()
            raise VideoError(
                called,
                f"it lasts {video.duration:.0f} s; at most {self.limits.duration:g} s are possible here: cut it",
            )
        return video

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Busy(f"{self.limits.requests} requests are being worked on; try again in a minute.")
        try:
            yield
        finally:
            self._places.release()


def apart(recogniser: Recogniser) -> Recogniser:
    """A copy whose modules are its own and whose tensors are shared: relabelling it leaves the other as it is."""
    other = copy.copy(recogniser)
    other.method = other.trained = _shared(recogniser.method)
    return other


def _shared(method: Method) -> Method:
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(method.parameters(), method.buffers())}
    return copy.deepcopy(method, memo)


def told(error: MuybridgeError) -> str:
    """The sentence for a visitor, who cannot set options: without the names of these, and without paths."""
    if isinstance(error, VideoError):
        return f"This video cannot be used: {re.sub(r' [(]--source[.][^)]*[)]', '', error.reason)}."
    return str(error)
