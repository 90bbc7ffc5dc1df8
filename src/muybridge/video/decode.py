"""Exact frames out of a video file, by index, without decoding the whole file.

The packets of a file are read once without decoding them. Their time stamps, sorted, are the displayed frames: frame
`i` is the `i`-th of them. To read some frames the file is wound to the last keyframe before each, and decoded from
there on. Containers and codecs where a packet is not surely one frame (MPEG-TS, FLV, AVI with packed pictures, GIF, raw
streams, interlaced pictures) are decoded in order instead: slower, and exact as well. The time stamp of every decoded
frame is compared with the index; where they disagree the file is decoded in order, so that a wrong frame is never
returned.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from muybridge.errors import VideoError
from muybridge.structures import SourceArgs
from muybridge.video.container import (
    STRICT,
    Index,
    Key,
    MediaFile,
    Times,
    decode_in_order,
    open_container,
    packets,
    scan,
)
from muybridge.video.opened import Frames, Seconds
from muybridge.video.opened import Video as Video

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Codecs whose decoders leave out pictures that no other is built from, exactly: tests try many settings of encoders.
SPARSE = frozenset({"h264", "hevc"})
# Fast: a file without an index is decoded once to count its frames; they are kept for reading if they fit in here.
KEPT_BYTES = 64 << 20


class _Disagreement(Exception):
    """What the decoder delivers is not what the index says."""


class _Turn(NamedTuple):
    """How a stored picture is set upright: rows and columns exchanged, then mirrored in each direction."""

    exchange: bool = False
    mirror: bool = False
    upend: bool = False

    def mirrored(self) -> bool:
        """Whether no turn alone sets the picture upright."""
        return self.exchange ^ self.mirror ^ self.upend


class FileVideo(Video):
    """An open video file, decoded by PyAV. Made by `open_video`.

    Args:
        file: the file, or its bytes, and what reading it may cost.

    Raises:
        VideoError: see `open_video`.
    """

    def __init__(self, file: MediaFile) -> None:
        self.path = file.name
        self.decoded = 0
        self._file, self._limits = file, file.limits
        self._reformatter = VideoReformatter()
        self._kept: list[VideoFrame] | None = None
        self._fed = -1
        file.limits.begin()
        self._container, self._stream = open_container(file)
        times: Times | None
        try:
            self._index, promised = scan(self._container, self._stream, file)
            # Fast: pictures that no other is built from are decoded only if wanted; see `_run`.
            codec = self._stream.codec_context.codec.canonical_name
            self._sparse = codec in SPARSE
            if self._index is not None:
                if codec == "h264" and self._index.open_groups():
                    # In the first pictures of such a group its decoder finds errors in any file, because it has not
                    # seen the group before; damage is found only if nothing is left out.
                    self._sparse = False
                else:
                    # The decoder stops at a damaged picture instead of painting over it.
                    self._stream.codec_context.options |= STRICT
            first = self._first_by_index()
            if self._index is not None and first is not None:
                times, count = self._index.times, len(self._index.times)
            else:
                self._index = None
                decoded, first = self._count()
                times, count = _ascending(decoded), len(decoded)
            self.frame_count = max(count, promised)
            self._seconds = None if times is None else _seconds(times, self._stream)
            self.frame_rate = _frame_rate(self._seconds, self._stream)
        except BaseException:
            self.close()
            raise
        self.duration = self.frame_count / self.frame_rate if self.frame_rate else 0.0
        self._turn = _turn(first)
        self._stored_size = (first.height, first.width)
        self.size = self._stored_size[::-1] if self._turn.exchange else self._stored_size

    def close(self) -> None:
        """Close the file; closing it again does no harm."""
        self._kept = None
        self._container.close()

    def _known_seconds(self) -> Seconds:
        return super()._known_seconds() if self._seconds is None else self._seconds

    def _pictures(self, wanted: list[int]) -> Generator[tuple[int, Frames], None, None]:
        for index, frame in self._frames(wanted):
            yield index, self._picture(frame)

    def _picture(self, frame: VideoFrame) -> Frames:
        """The picture, uint8 [H, W, 3], upright; in the first picture's size, as ffmpeg does, if that changes."""
        height, width = self._stored_size
        # Fast: one converter for all frames, on this thread: 0.90 s CPU for 120 frames of 720p, to_ndarray() 1.08 s.
        try:
            rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"a frame cannot be turned into colours ({error.strerror})") from error
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
        first = int(np.searchsorted(index.times, key.pts)) if key.position else 0
        expected = first
        for packet in self._wind(index, key):
            if packet is not None:
                position = index.position(packet)
                if position is None:
                    raise _Disagreement
                self._fed = position
                # Fast: pictures that no other picture is built from are decoded only if wanted: 8 of 300 frames of
                # 720p in one group take 0.33 s CPU instead of 0.40 s; of 240 in HEVC 0.16 s instead of 0.39 s.
                skip = self._sparse and packet.pts not in wanted and packet.pts != index.times[first]
                context.skip_frame = "NONREF" if skip else "DEFAULT"
            for frame in _decode_whole(self._stream, packet, key.pts if key.position else None):
                self.decoded += 1
                at = index.frame(frame.pts)
                # The keyframe itself must be the first to come. A decoder that holds it back has begun at a point of
                # gradual refresh, from which pictures are like those decoded from the start, but not the same.
                if at is None or at < expected or (at > expected and (expected == first or not self._sparse)):
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
        found = packets(self._container, self._stream, self._limits)
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
        for place, frame in enumerate(decode_in_order(self._file)):
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
        for frame in decode_in_order(self._file):
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


def open_video(path: str | Path | bytes, source: SourceArgs | None = None, name: str = "") -> FileVideo:
    """Open a video file to read frames by index.

    Args:
        path: the file; or its bytes.
        source: limits of time, picture size and memory; None: the defaults.
        name: what messages call it; by default the path.

    Raises:
        VideoError: there is no such file, it cannot be read or holds no video, none of its frames decodes, or it goes
            beyond the limits.
    """
    return FileVideo(MediaFile(path, source, name))


def read_frames(path: str | Path, indices: Sequence[int]) -> Frames:
    """Frames of a file by index: uint8 [T, H, W, 3], RGB, upright. Raises as `open_video`, `Video.read`."""
    with open_video(path) as video:
        return video.read(indices)


def read_all(path: str | Path | bytes, source: SourceArgs | None = None) -> Frames:
    """All frames, decoded in order: uint8 [T, H, W, 3], RGB, upright. The plain twin of `Video.read`.

    Raises:
        VideoError: as `open_video`.
    """
    file = MediaFile(path, source)
    pictures: list[Frames] = []
    size: dict[str, Any] = {}
    for frame in decode_in_order(file):
        size = size or {"width": frame.width, "height": frame.height}
        # Twice, for they are put together at the end.
        file.limits.frames(2 * len(pictures) + 2, size["height"], size["width"])
        try:
            rgb = frame.reformat(format="rgb24", threads=1, **size)
        except av.FFmpegError as error:
            raise VideoError(file.name, f"a frame cannot be turned into colours ({error.strerror})") from error
        pictures.append(_upright(np.asarray(rgb.to_ndarray(), np.uint8), _turn(frame)))
    if not pictures:
        raise VideoError(file.name, "none of its frames can be decoded")
    try:
        return np.stack(pictures)
    except MemoryError as error:
        raise VideoError(file.name, f"there is not enough memory for all its {len(pictures)} frames") from error


def _decode_whole(stream: VideoStream, packet: Packet[VideoStream] | None, begin: int | None) -> list[VideoFrame]:
    """Frames that come out when the packet goes in, none of them damaged.

    What a decoder paints over a damaged place depends on what it has decoded before: that is not the same by winding as
    in order. Pictures that are shown before `begin`, the time stamp of the keyframe that was wound to, may lack what
    they are built from; nobody asks for them.
    """
    try:
        frames = stream.decode(packet)
    except av.FFmpegError as error:
        if packet is not None and packet.pts is not None and begin is not None and packet.pts < begin:
            return []
        raise _Disagreement from error
    if any(frame.is_corrupt and (begin is None or frame.pts is None or frame.pts >= begin) for frame in frames):
        raise _Disagreement
    return frames


def _ascending(times: Sequence[int | None]) -> Times | None:
    """Time stamps of frames in order; None if they make no sense."""
    if not times or None in times:
        return None
    stamps = np.array(times, np.int64)
    return stamps if bool((stamps[1:] > stamps[:-1]).all()) else None


def _seconds(times: Times, stream: VideoStream) -> Seconds | None:
    """Time stamps as seconds after the first."""
    # In floating point, because in damaged files the difference of two stamps may be too large for an integer.
    return (times.astype(np.float64) - float(times[0])) * float(stream.time_base) if stream.time_base else None


def _frame_rate(seconds: Seconds | None, stream: VideoStream) -> float:
    """Frames per second on average, by the time stamps if they make sense."""
    if seconds is not None and len(seconds) > 1:
        return float((len(seconds) - 1) / seconds[-1])
    return float(stream.average_rate or stream.guessed_rate or 0)


def _turn(frame: VideoFrame) -> _Turn:
    """How the pictures of this frame's stream are set upright."""
    try:
        # The frame's own `side_data` refers to the frame, which then stays in memory until the next sweep for cycles.
        side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
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


def upright(picture: Frames, frame: VideoFrame) -> Frames:
    """The stored picture [H, W, 3] of a frame as a player shows it: turned and mirrored as its stream says."""
    return _upright(picture, _turn(frame))


def _upright(picture: Frames, turn: _Turn) -> Frames:
    if turn.exchange:
        picture = picture.swapaxes(0, 1)
    if turn.mirror:
        picture = picture[:, ::-1]
    return picture[::-1] if turn.upend else picture
