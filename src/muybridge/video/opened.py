"""An open video: frames by index, wherever they come from."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from muybridge.errors import BadInput, VideoError
from muybridge.video.limits import Limits

Frames = npt.NDArray[np.uint8]
Seconds = npt.NDArray[np.float64]


class Video(ABC):
    """An open video: a context manager, or call `close`.

    Attributes:
        path: the file, or what messages call it.
        frame_count: how many frames the video shows; if it is cut off and its container tells: how many it should.
        frame_rate: frames per second on average; 0 if the file does not tell.
        size: (height, width) of the upright picture, in pixels.
        duration: in seconds; 0 if the file does not tell.
        decoded: how many frames have been decoded so far.
    """

    path: str
    frame_count: int
    frame_rate: float
    size: tuple[int, int]
    duration: float
    decoded: int
    _limits: Limits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing it again does no harm."""
        return

    def read(self, indices: Sequence[int]) -> Frames:
        """Frames by index, in the order given; an index may be given more than once.

        Args:
            indices: frames in the order in which they are displayed; the first is 0.

        Returns:
            uint8 [T, H, W, 3], RGB, upright; T = len(indices).

        Raises:
            BadInput: an index is below 0 or not below `frame_count`.
            VideoError: a frame cannot be decoded, for example because the file is cut off; or it takes more time or
                memory than allowed.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < self.frame_count:
                raise BadInput(f"{self.path} has {self.frame_count} frames, from 0; there is no frame {index}.")
            places.setdefault(index, []).append(place)
        self._limits.begin()
        out = self._room(len(indices))
        with closing(self._pictures(sorted(places))) as pictures:
            for index, picture in pictures:
                out[places[index]] = picture
                self._limits.time()
        return out

    def walk(self, indices: Sequence[int]) -> Generator[tuple[int, Frames], None, None]:
        """Frames one after the other, each with its index: for more of them than memory holds.

        The limit of time is for each frame, and what is done with it does not count.

        Args:
            indices: frames in the order in which they are displayed, ascending, each once.

        Raises:
            BadInput, VideoError: as `read`.
        """
        wanted = [operator.index(index) for index in indices]
        if any(after <= before for before, after in pairwise(wanted)):
            raise BadInput("The frames of a walk are not ascending; expected every index once, in order.")
        if wanted and not (wanted[0] >= 0 and wanted[-1] < self.frame_count):
            raise BadInput(
                f"{self.path} has {self.frame_count} frames, from 0; {wanted[0]} to {wanted[-1]} are wanted."
            )
        self._limits.begin()
        with closing(self._pictures(wanted)) as pictures:
            for index, picture in pictures:
                self._limits.time()
                yield index, picture
                self._limits.begin()

    def seconds(self) -> Seconds:
        """When each frame is shown, in seconds after the first: float64 [frame_count], ascending.

        Raises:
            VideoError: the file tells neither time stamps nor a frame rate.
        """
        known = self._known_seconds()
        missing = self.frame_count - len(known)
        if missing <= 0:
            return known
        if not self.frame_rate:
            raise VideoError(self.path, "it tells neither time stamps nor a frame rate")
        # Of frames that are missing at the end the times follow from the rate.
        return np.concatenate([known, known[-1] + np.arange(1, missing + 1) / self.frame_rate])

    def _known_seconds(self) -> Seconds:
        """The beginning of what `seconds` returns, at least the first frame's 0, as far as the file tells."""
        return np.zeros(1)

    @abstractmethod
    def _pictures(self, wanted: list[int]) -> Generator[tuple[int, Frames], None, None]:
        """The wanted frames, each with its index, in any order; `wanted` is ascending, without repeats."""

    def _room(self, count: int) -> Frames:
        self._limits.frames(count, *self.size)
        try:
            return np.empty((count, *self.size, 3), np.uint8)
        except MemoryError as error:
            raise VideoError(self.path, f"there is not enough memory for {count} of its frames") from error
