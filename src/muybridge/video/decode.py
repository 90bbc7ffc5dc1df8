"""Exact frames out of a video file, by index, without decoding the whole file.

The packets of a file are read once without decoding them. Their time stamps, sorted, are the displayed frames: frame
`i` is the `i`-th of them. To read some frames the file is wound to the last keyframe before each, and decoded from
there on. Containers and codecs where a packet is not surely one frame (MPEG-TS, FLV, AVI with packed pictures, GIF, raw
streams, interlaced pictures) are decoded in order instead: slower, and exact as well. The time stamp of every decoded
frame is compared with the index; where they disagree the file is decoded in order, so that a wrong frame is never
returned.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from muybridge.errors import BadInput, VideoError
from muybridge.video.container import Index, Key, decode, decode_in_order, open_container, packets, scan

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Fast: a file without an index is decoded once to count its frames; they are kept for reading if they fit in here.
KEPT_BYTES = 64 << 20

Frames = npt.NDArray[np.uint8]


class _Disagreement(Exception):
    """What the decoder delivers is not what the index says."""


class _Turn(NamedTuple):
    """How a stored picture is set upright: rows and columns exchanged, then mirrored in each direction."""

    exchange: bool = False
    mirror: bool = False
    upend: bool = False


class Video:
    """An open video file. Made by `open_video`; a context manager, or call `close`.

    Attributes:
        path: the file.
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

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.decoded = 0
        self._reformatter = VideoReformatter()
        self._kept: list[VideoFrame] | None = None
        self._fed = -1
        self._container, self._stream = open_container(self.path)
        try:
            self._index, promised = scan(self._container, self._stream)
            first = self._first_by_index()
            times: Sequence[int | None]
            if self._index is not None and first is not None:
                times = self._index.times
            else:
                self._index = None
                times, first = self._count()
            self.frame_count = max(len(times), promised)
            self.frame_rate = _frame_rate(times, self._stream)
        except BaseException:
            self.close()
            raise
        self.duration = self.frame_count / self.frame_rate if self.frame_rate else 0.0
        self._turn = _turn(first)
        self._stored_size = (first.height, first.width)
        self.size = self._stored_size[::-1] if self._turn.exchange else self._stored_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing it again does no harm."""
        self._kept = None
        self._container.close()

    def read(self, indices: Sequence[int]) -> Frames:
        """Frames by index, in the order given; an index may be given more than once.

        Args:
            indices: frames in the order in which they are displayed; the first is 0.

        Returns:
            uint8 [T, H, W, 3], RGB, upright; T = len(indices).

        Raises:
            BadInput: an index is below 0 or not below `frame_count`.
            VideoError: a frame cannot be decoded, for example because the file is cut off.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < self.frame_count:
                raise BadInput(f"{self.path} has {self.frame_count} frames, from 0; there is no frame {index}.")
            places.setdefault(index, []).append(place)
        out = np.empty((len(indices), *self.size, 3), np.uint8)
        for index, frame in self._frames(sorted(places)):
            out[places[index]] = self._picture(frame)
        return out

    def _picture(self, frame: VideoFrame) -> Frames:
        """The picture, uint8 [H, W, 3], upright; in the first picture's size, as ffmpeg does, if that changes."""
        height, width = self._stored_size
        # Fast: one converter for all frames, on this thread: 0.90 s CPU for 120 frames of 720p, to_ndarray() 1.08 s.
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return _upright(np.asarray(rgb.to_ndarray(), np.uint8), self._turn)

    def _frames(self, wanted: list[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        """The wanted frames, each with its index; `wanted` is ascending, without repeats."""
        missing = set(wanted)
        if self._index is not None:
            if wanted and wanted[-1] >= len(self._index.times):
                raise self._undecodable(wanted[-1], len(self._index.times))
            try:
                for index, frame in self._by_winding(self._index, wanted):
                    missing.discard(index)
                    yield index, frame
            except _Disagreement:
                pass
        if not missing:
            return
        decodable = 0
        with closing(self._in_order()) as frames:
            for index, frame in frames:
                decodable += 1
                if index in missing:
                    missing.discard(index)
                    yield index, frame
                    if not missing:
                        return
        raise self._undecodable(min(missing), decodable)

    def _undecodable(self, index: int, decodable: int) -> VideoError:
        return VideoError(
            self.path,
            f"frame {index} cannot be decoded: the file is damaged or cut off "
            f"({decodable} of {self.frame_count} frames can be decoded)",
        )

    def _by_winding(self, index: Index, wanted: list[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        """The wanted frames, decoded from the keyframes before them."""
        times = {index.times[target] for target in wanted}
        run = None
        for target in wanted:
            key = index.start(target)
            if run is None or key.position > self._fed + 1:
                run = self._run(index, key, times)
            for at, frame in run:
                if at == target:
                    yield at, frame
                    break
            else:
                raise _Disagreement

    def _run(self, index: Index, key: Key, wanted: set[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        """Frames from a keyframe on, each with its index, among them those shown at the times `wanted`."""
        context = self._stream.codec_context
        sparse = context.codec.canonical_name == "h264"
        first = bisect_left(index.times, key.pts) if key.position else 0
        expected = first
        for packet in self._wind(index, key):
            if packet is not None:
                position = index.position(packet)
                if position is None:
                    raise _Disagreement
                self._fed = position
                # Fast: pictures that no other picture is built from are decoded only if wanted: 8 of 300 frames of
                # 720p in one group take 0.33 s CPU instead of 0.40 s.
                skip = sparse and packet.pts not in wanted and packet.pts != index.times[first]
                context.skip_frame = "NONREF" if skip else "DEFAULT"
            for frame in decode(self._stream, packet):
                self.decoded += 1
                at = index.frame(frame.pts)
                # The keyframe itself must be the first to come. A decoder that holds it back has begun at a point of
                # gradual refresh, from which pictures are like those decoded from the start, but not the same.
                if at is None or at < expected or (at > expected and (expected == first or not sparse)):
                    raise _Disagreement
                expected = at + 1
                yield at, frame

    def _wind(self, index: Index, key: Key) -> Generator[Packet[VideoStream] | None, None, None]:
        """Packets from `key` on."""
        # Some containers wind by the time of decoding, others by that of display, which is the same or later: those
        # may land on a keyframe before.
        try:
            self._container.seek(key.dts, stream=self._stream)
        except av.FFmpegError as error:
            raise _Disagreement from error
        found = packets(self._container, self._stream)
        for packet in found:
            position = index.position(packet)
            if position is None or position > key.position:
                raise _Disagreement
            if position == key.position:
                yield packet
                yield from found

    def _in_order(self) -> Generator[tuple[int, VideoFrame], None, None]:
        """All frames from the start of the file, each with its index."""
        if self._kept is not None:
            yield from enumerate(self._kept)
            return
        for place, frame in enumerate(decode_in_order(self.path)):
            self.decoded += 1
            index = place if self._index is None else self._index.frame(frame.pts)
            if index is not None:
                yield index, frame

    def _first_by_index(self) -> VideoFrame | None:
        """The first frame, if there is an index and the decoder agrees with it."""
        if self._index is None:
            return None
        try:
            _, frame = next(self._by_winding(self._index, [0]))
        except _Disagreement:
            return None
        # The two fields of an interlaced picture may come in two packets.
        return None if frame.interlaced_frame else frame

    def _count(self) -> tuple[list[int | None], VideoFrame]:
        """Decode everything: the time stamps of all frames, and the first frame; all are kept if they fit."""
        times: list[int | None] = []
        kept: list[VideoFrame] = []
        size = 0
        for frame in decode_in_order(self.path):
            self.decoded += 1
            times.append(frame.pts)
            size += sum(plane.buffer_size for plane in frame.planes)
            if size <= KEPT_BYTES or not kept:
                kept.append(frame)
        if not kept:
            raise VideoError(self.path, "none of its frames can be decoded")
        if len(kept) == len(times):
            self._kept = kept
        return times, kept[0]


def open_video(path: str | Path) -> Video:
    """Open a video file to read frames by index.

    Raises:
        VideoError: there is no such file, it cannot be read or holds no video, or none of its frames decodes.
    """
    return Video(path)


def read_frames(path: str | Path, indices: Sequence[int]) -> Frames:
    """Frames of a file by index: uint8 [T, H, W, 3], RGB, upright. Raises as `open_video`, `Video.read`."""
    with open_video(path) as video:
        return video.read(indices)


def read_all(path: str | Path) -> Frames:
    """All frames, decoded in order: uint8 [T, H, W, 3], RGB, upright. The plain twin of `Video.read`.

    Raises:
        VideoError: as `open_video`.
    """
    pictures: list[Frames] = []
    size: dict[str, Any] = {}
    for frame in decode_in_order(str(path)):
        size = size or {"width": frame.width, "height": frame.height}
        pictures.append(_upright(np.asarray(frame.to_ndarray(format="rgb24", **size), np.uint8), _turn(frame)))
    if not pictures:
        raise VideoError(path, "none of its frames can be decoded")
    return np.stack(pictures)


def _frame_rate(times: Sequence[int | None], stream: VideoStream) -> float:
    """Frames per second on average, by the time stamps if they make sense."""
    stamps = [time for time in times if time is not None]
    ascending = all(before < after for before, after in pairwise(stamps))
    if len(stamps) == len(times) > 1 and ascending and stream.time_base:
        return (len(stamps) - 1) / float((stamps[-1] - stamps[0]) * stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 0)


def _turn(frame: VideoFrame) -> _Turn:
    """How the pictures of this frame's stream are set upright."""
    try:
        side_data: Any = frame.side_data
        matrix = side_data.get(SideData.DISPLAYMATRIX)
    except ValueError:
        # PyAV 18 stops at side data that it does not know, such as EXIF. It still tells the angle.
        quarters = round(frame.rotation / 90) % 4
        return _Turn(quarters % 2 == 1, mirror=quarters >= 2, upend=quarters in (1, 2))
    if matrix is None:
        return _Turn()
    # The point (x, y) of the stored picture is shown at (a x + c y, b x + d y), but for a shift.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Turn(True, mirror=c < 0, upend=b < 0)
    return _Turn(False, mirror=a < 0, upend=d < 0)


def _upright(picture: Frames, turn: _Turn) -> Frames:
    if turn.exchange:
        picture = picture.swapaxes(0, 1)
    if turn.mirror:
        picture = picture[:, ::-1]
    return picture[::-1] if turn.upend else picture
