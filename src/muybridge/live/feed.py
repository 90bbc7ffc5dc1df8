"""From a source that does not wait to a recogniser that may be slow: which frames are kept, and which are let go.

A thread reads the source as fast as it comes. Of the frames that the window asks for, the newest T that nobody has
looked at yet are kept, and no more: when another comes, the oldest is let go, and counted. So memory is bounded, what
is looked at is never older than one window, and frames stay as far apart as they are meant to be, however slow the
recogniser is: predictions become rarer, not wrong.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from muybridge.errors import BadInput, VideoError, shape_text
from muybridge.live.camera import Camera, Picture
from muybridge.live.pace import Sampler

LAST_WAIT = 3.0  # seconds that closing waits for a source which is in the middle of something


@dataclass(frozen=True)
class Shot:
    """A frame that the window asked for.

    Attributes:
        seconds: when it is shown, after the first frame; without a known rate: its number.
        number: of the frame in the stream, from 0.
        order: one more than that of the frame before it in the window; a larger step is a gap.
        picture: uint8 [H, W, 3], RGB.
    """

    seconds: float
    number: int
    order: int
    picture: Picture


class Source(Protocol):
    """What gives shots."""

    seen: int
    dropped: int

    def take(self) -> list[Shot]:
        """The shots that have come since, at least one; none: there will be no more."""

    def stop(self) -> None:
        """Nothing more is wanted: `take` returns nothing; from any thread."""

    def close(self) -> None:
        """Let go of everything."""


class Given:
    """Frames of an iterable, one at a time; none is let go.

    Args:
        frames: each uint8 [H, W, 3], RGB.
        sampler: which of them are wanted.
        fps: how many a second they are; 0: not known, and their numbers are their times.

    Attributes:
        seen: how many frames have come.
        dropped: 0.
    """

    def __init__(self, frames: Iterable[Any], sampler: Sampler, fps: float = 0.0) -> None:
        self._frames: Iterator[Any] = iter(frames)
        self._sampler, self._fps = sampler, fps
        self._order = 0
        self._stopped = False
        self.seen = self.dropped = 0

    def take(self) -> list[Shot]:
        """The next wanted frame; raises BadInput for what is no frame."""
        while not self._stopped:
            frame = next(self._frames, None)
            if frame is None:
                break
            number, self.seen = self.seen, self.seen + 1
            picture = _checked(frame)
            seconds = number / (self._fps or 1.0)
            if self._sampler.wants(seconds):
                self._order += 1
                return [Shot(seconds, number, self._order, picture)]
        return []

    def stop(self) -> None:
        """No further frame is asked for."""
        self._stopped = True

    def close(self) -> None:
        """There is nothing to close, but nothing more is asked for."""
        self._stopped = True


def _checked(frame: Any) -> Picture:
    picture = np.asarray(frame)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise BadInput(f"a frame is {picture.dtype} {shape_text(picture.shape)}; expected uint8 [H, W, 3], RGB.")
    return picture


class Feed:
    """Frames of a camera, read on a thread of its own by the rule at the top of this file.

    Args:
        camera: is closed at the end.
        sampler: which frames are wanted.
        room: how many of them are kept for `take`, T.

    Attributes:
        seen: how many frames have come.
        dropped: how many wanted frames were let go.
    """

    def __init__(self, camera: Camera, sampler: Sampler, room: int) -> None:
        self._camera, self._sampler, self._room = camera, sampler, room
        self._kept: deque[Shot] = deque()
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.seen = self.dropped = 0
        self._thread = threading.Thread(target=self._read, name="muybridge-camera", daemon=True)
        self._thread.start()

    def take(self) -> list[Shot]:
        """All that is kept; waits until there is something.

        Raises:
            VideoError: the source is lost, hangs, or goes beyond the limits; after what came before was taken.
        """
        with self._news:
            while not self._news.wait_for(lambda: self._kept or self._ended or self._stop.is_set(), timeout=1.0):
                # A network read ends by itself when its time is up; a camera's driver may hang for ever.
                if self._camera.silent() > 2 * self._camera.timeout:
                    raise VideoError(self._camera.name, f"it hangs: nothing came for {self._camera.silent():.0f} s")
            shots = [] if self._stop.is_set() else list(self._kept)
            self._kept.clear()
        if not shots and self._error is not None:
            raise self._error
        return shots

    def stop(self) -> None:
        """Nothing more is read, and `take` returns at once; from any thread."""
        with self._news:
            self._stop.set()
            self._news.notify_all()

    def close(self) -> None:
        """Stop reading. A thread that hangs in a driver is left behind and does not keep the process alive."""
        self.stop()
        self._thread.join(LAST_WAIT)
        if not self._thread.is_alive():
            self._camera.close()

    def _read(self) -> None:
        try:
            self._sort()
        except BaseException as error:
            self._error = error
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()
            self._camera.close()

    def _sort(self) -> None:
        order, part = 0, 0
        for raw in self._camera.frames(self._stop):
            number, self.seen = self.seen, self.seen + 1
            if raw.part != part:  # what comes now does not follow what came before
                part, order = raw.part, order + 1
                self._sampler.restart()
            if not self._sampler.wants(raw.seconds):
                continue
            order += 1
            self._camera.limits.frames(self._room, raw.frame.height, raw.frame.width)
            shot = Shot(raw.seconds, number, order, self._camera.picture(raw.frame))
            with self._news:
                if len(self._kept) == self._room:
                    self._kept.popleft()
                    self.dropped += 1
                self._kept.append(shot)
                self._news.notify_all()
