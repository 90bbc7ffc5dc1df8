"""A video of a data set is opened, wherever it lies: a file, a part of a file, a folder of pictures, an archive."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from muybridge.errors import VideoError, unknown
from muybridge.structures import Item, SourceArgs
from muybridge.video.limits import Limits
from muybridge.video.opened import Frames, Seconds, Video
from muybridge.video.shards import read_stored

if TYPE_CHECKING:
    from muybridge.video.container import MediaFile

DECODERS = ("pyav", "torchcodec")
TOLERANCE = 1e-6  # Seconds: lists round their times.


class Part(Video):
    """The frames of a video whose time stamp lies in [start, end): from 0, as if they were all.

    Where no frame begins in that time it is the frame that is seen at `start`.

    Args:
        video: the whole; closed with the part.
        name: what messages call the part.
        start: in seconds after the first frame of the whole.
        end: None: to the end of the whole.

    Raises:
        VideoError: the part lies outside of the video or is empty, or the video has no times.
    """

    def __init__(self, video: Video, name: str, start: float, end: float | None) -> None:
        self.path = name
        self._video = video
        self._limits = video._limits
        try:
            times = video.seconds()
            self._first, stop = _places(name, times, video.duration or float(times[-1]), start, end)
        except BaseException:
            video.close()
            raise
        self._times = times[self._first : stop] - times[self._first]
        self.frame_count = stop - self._first
        self.frame_rate = video.frame_rate
        self.size = video.size
        self.duration = self.frame_count / self.frame_rate if self.frame_rate else 0.0

    @property
    def decoded(self) -> int:  # type: ignore[override]
        """How many frames have been decoded so far."""
        return self._video.decoded

    def close(self) -> None:
        """Close the file; closing it again does no harm."""
        self._video.close()

    def _known_seconds(self) -> Seconds:
        return self._times

    def _pictures(self, wanted: list[int]) -> Generator[tuple[int, Frames], None, None]:
        for index, picture in self._video._pictures([self._first + index for index in wanted]):
            yield index - self._first, picture


def _places(name: str, times: Seconds, duration: float, start: float, end: float | None) -> tuple[int, int]:
    """The first frame of a part, and the first after it."""
    until = "the end" if end is None else f"{end:g} s"
    if not start >= 0 or (end is not None and not end > start):
        raise VideoError(name, f"the part from {start:g} s to {until} is empty; expected 0 <= start < end")
    if start >= duration and start > times[-1]:
        raise VideoError(name, f"the part from {start:g} s to {until} lies outside of the video ({duration:.3f} s)")
    first = int(np.searchsorted(times, start - TOLERANCE))
    stop = len(times) if end is None else int(np.searchsorted(times, end - TOLERANCE))
    if stop <= first:
        first = int(np.searchsorted(times, start + TOLERANCE, side="right")) - 1
        stop = first + 1
    return first, stop


def open_item(item: Item, source: SourceArgs, file: bytes | None = None) -> Video:
    """Open a video of a data set to read frames by index.

    Args:
        item: the video.
        source: decoder and limits.
        file: the bytes of its file, where they have been read before.

    Raises:
        VideoError: as `open_video`; the part lies outside of the video; a picture of the folder is missing; the
            archive cannot be read; or the decoder is known to differ on such a file.
        BadInput: the decoder is not installed.
        UnknownName: there is no such decoder.
    """
    # FFmpeg's and Pillow's libraries take a while to load, and a program that trains on features needs neither.
    if item.frames is not None:
        from muybridge.video.frame_files import FrameFolder

        video: Video = FrameFolder(item.path, item.frames, source, _name(item))
    else:
        video = _open(_file(item, source, file), source)
    return Part(video, _name(item), item.start, item.end) if item.start or item.end is not None else video


def _name(item: Item) -> str:
    """The path, where the item is a whole file; else there may be many in one."""
    whole = item.frames is None and item.stored is None and not item.start and item.end is None
    return item.path if whole or not item.name else item.name


def _file(item: Item, source: SourceArgs, content: bytes | None) -> MediaFile:
    from muybridge.video.container import MediaFile

    if content is not None:
        return MediaFile(content, source, _name(item))
    if item.stored is None:
        return MediaFile(item.path, source, _name(item))
    offset, size = item.stored
    Limits(item.name, source).memory(size, "the file within the archive")
    try:
        return MediaFile(read_stored(item.path, offset, size), source, _name(item))
    except VideoError as error:
        raise VideoError(item.name, error.reason) from error


def _open(file: MediaFile, source: SourceArgs) -> Video:
    if source.decoder == "pyav":
        from muybridge.video.decode import FileVideo

        return FileVideo(file)
    if source.decoder == "torchcodec":
        from muybridge.video.torchcodec import TorchCodecVideo

        return TorchCodecVideo(file)
    raise unknown("decoder", source.decoder, DECODERS)
