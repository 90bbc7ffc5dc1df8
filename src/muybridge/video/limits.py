"""What one video may cost: time, picture size, memory. Refused before it is spent, with the field that allows more."""

from __future__ import annotations

import math
import time

from muybridge.errors import VideoError
from muybridge.structures import SourceArgs

# Decoders pad their pictures, and FFmpeg counts what is padded; the exact check is ours.
PADDED = 1.5


class Limits:
    """The limits of one video, and the clock of what is being done with it.

    Args:
        name: of the video, for messages.
        source: `seconds`, `megapixels` and `megabytes`; 0: no limit.
    """

    def __init__(self, name: str, source: SourceArgs) -> None:
        self.name = name
        self.seconds = source.seconds or math.inf
        self.pixels = source.megapixels * 1e6 or math.inf
        self.bytes = source.megabytes * 1e6 or math.inf
        self.begin()

    def begin(self) -> None:
        """Something new is done with the video: the clock starts again."""
        self._end = time.monotonic() + self.seconds

    def time(self) -> None:
        """Raise VideoError if the time is up."""
        if time.monotonic() > self._end:
            raise VideoError(
                self.name, f"given up: reading it takes longer than {self.seconds:g} s (--source.seconds; 0: no limit)"
            )

    def size(self, height: int, width: int) -> None:
        """Raise VideoError if a picture of this size is too large."""
        if height * width > self.pixels:
            raise VideoError(
                self.name,
                f"pictures of {width} x {height} pixels are refused: "
                f"more than {self.pixels / 1e6:g} megapixels (--source.megapixels; 0: no limit)",
            )

    def memory(self, count: int, what: str) -> None:
        """Raise VideoError if `count` bytes are more than may be taken; `what` they are for, in words."""
        if count > self.bytes:
            raise VideoError(
                self.name,
                f"{what} {'takes' if what.startswith('the ') else 'take'} {count / 1e6:.0f} MB of memory: "
                f"more than {self.bytes / 1e6:g} MB (--source.megabytes; 0: no limit)",
            )

    def frames(self, count: int, height: int, width: int) -> None:
        """Raise VideoError if so many decoded frames are more than the memory may hold."""
        self.memory(count * height * width * 3, f"{count} frames of {width} x {height} pixels")

    def codec_options(self) -> dict[str, str]:
        """FFmpeg's own check, which comes before a decoder takes memory for a picture."""
        return {} if math.isinf(self.pixels) else {"max_pixels": str(math.ceil(self.pixels * PADDED))}

    def timeout(self) -> tuple[float, float] | None:
        """(opening, reading) for PyAV, in seconds; None: no limit."""
        return None if math.isinf(self.seconds) else (self.seconds, self.seconds)
