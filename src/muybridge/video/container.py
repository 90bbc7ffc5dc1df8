"""Video files as FFmpeg sees them: opening one, its packets, its frames in order, the index of its frames."""

from __future__ import annotations

import io
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from muybridge.errors import VideoError
from muybridge.structures import SourceArgs
from muybridge.video.limits import Limits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Where a packet is one frame with a time stamp of its own, and winding to a keyframe is reliable: tests show it.
# MPEG-4 and VP8 are left out, because they have packets that hold no frame, or two.
INDEXED_CONTAINERS = frozenset({"mov", "matroska"})
INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "prores"})


STRICT = {"err_detect": "explode"}
# In a damaged picture of these FFmpeg leaves what happened to be in memory, so that such a picture is refused.
UNPAINTED = frozenset({"mjpeg"})
# A picture of these may be coded with tables of the one before, so that they are decoded from the start on.
FROM_THE_START = frozenset({"mjpeg"})
# Indices of files that were opened before are kept up to this size: parts of one long video come from the same file.
KEPT_INDEX_BYTES = 64 << 20

Times = npt.NDArray[np.int64]


class MediaFile:
    """A video file on disk, or its bytes, and what reading it may cost.

    Attributes:
        name: what messages call it.
        content: path, or the bytes of the whole file.
        limits: of time, picture size and memory.
    """

    def __init__(self, content: str | Path | bytes, source: SourceArgs | None = None, name: str = "") -> None:
        self.content = content if isinstance(content, bytes) else str(content)
        self.name = name or (str(content) if not isinstance(content, bytes) else "video")
        self.limits = Limits(self.name, source or SourceArgs())

    def version(self) -> tuple[str, int, int, int] | None:
        """What changes when the file does; None: bytes, or not to be told."""
        if isinstance(self.content, bytes):
            return None
        try:
            found = os.stat(self.content)
        except OSError:
            return None
        return os.path.abspath(self.content), found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Key:
    """The packet of a keyframe: its place among the packets of the file, and its time stamps."""

    position: int
    pts: int
    dts: int


@dataclass(frozen=True)
class Index:
    """The frames of a file, learned from its packets.

    Attributes:
        times: time stamps of the displayed frames, ascending: frame `i` is shown at `times[i]`.
        stamps: time stamps of all packets, ascending, also of those that are not displayed.
        places: place in the file of the packet with that stamp.
        keys: keyframes in the order of the file; the first packet is one.
    """

    times: Times
    stamps: Times
    places: Times
    keys: list[Key]

    def frame(self, pts: int | None) -> int | None:
        """The frame that is shown at `pts`; None if there is none."""
        return _find(self.times, pts)

    def position(self, packet: Packet[VideoStream] | None) -> int | None:
        """The place of a packet in the file; None if it is not in the index."""
        place = None if packet is None else _find(self.stamps, packet.pts)
        return None if place is None else int(self.places[place])

    def start(self, frame: int) -> Key:
        """The last keyframe from which `frame` decodes to the same bytes as from the start of the file.

        It comes before the frame in the file and on the screen: pictures that follow their keyframe in the
        file but are shown before it (open groups of pictures) need the group before as well.
        """
        pts = self.times[frame]
        position = self.places[np.searchsorted(self.stamps, pts)]
        place = bisect_right(self.keys, position, key=lambda key: key.position) - 1
        while place > 0 and self.keys[place].pts > pts:
            place -= 1
        return self.keys[place]

    def open_groups(self) -> bool:
        """Whether pictures are shown before the keyframe that precedes them in the file."""
        shown = self.stamps[np.argsort(self.places)]
        begin = np.zeros(len(shown), np.int64)
        for key in self.keys:
            begin[key.position] = key.position
        return bool((shown < shown[np.maximum.accumulate(begin)]).any())


def _find(times: Times, time: int | None) -> int | None:
    """The place of `time` in ascending `times`; None if it is not there."""
    if time is None:
        return None
    place = int(np.searchsorted(times, time))
    return place if place < len(times) and times[place] == time else None


def open_container(file: MediaFile | str) -> tuple[InputContainer, VideoStream]:
    """The open container and its video stream, set to decode on one thread. The caller closes the container.

    Raises:
        VideoError: the file cannot be opened, it has no video stream that can be decoded, or its pictures are too
            large.
    """
    file = file if isinstance(file, MediaFile) else MediaFile(file)
    name, content = file.name, file.content
    try:
        if isinstance(content, str) and os.path.isdir(content):
            raise VideoError(name, "this is a folder, not a video file")
        if (len(content) if isinstance(content, bytes) else os.path.getsize(content)) == 0:
            raise VideoError(name, "the file is empty")
        container = _open(file)
    except FileNotFoundError as error:
        raise VideoError(name, "no such file") from error
    except PermissionError as error:
        raise VideoError(name, "permission denied") from error
    except av.FFmpegError as error:
        file.limits.time()
        raise VideoError(name, _why_unreadable(content, error)) from error
    except (ValueError, MemoryError, OSError) as error:
        # A name with a null byte, a chain of links; a header that promises more than there is memory for.
        if isinstance(error, VideoError):
            raise
        raise VideoError(name, f"it cannot be opened ({error or 'not enough memory'})") from error
    try:
        stream = _video_stream(file, container)
        file.limits.size(stream.codec_context.height, stream.codec_context.width)
        # One thread a video: the workers of a loader are the parallel part, and small videos get slower with more.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = file.limits.codec_options()
        if stream.codec_context.codec.canonical_name in UNPAINTED:
            stream.codec_context.options |= STRICT
        return container, stream
    except BaseException:
        container.close()
        raise


def _open(file: MediaFile) -> InputContainer:
    # An absolute path is never taken for an address.
    content = os.path.abspath(file.content) if isinstance(file.content, str) else file.content

    def opened(metadata_errors: str) -> InputContainer:
        return av.open(
            content if isinstance(content, str) else io.BytesIO(content),
            "r",
            options=file.limits.codec_options(),
            timeout=file.limits.timeout(),
            metadata_errors=metadata_errors,
        )

    try:
        return opened("strict")
    except UnicodeDecodeError:
        # Titles in old files come in any encoding. Nothing here reads them.
        return opened("ignore")


def _why_unreadable(content: str | bytes, error: av.FFmpegError) -> str:
    if not isinstance(error, av.InvalidDataError):
        return f"FFmpeg cannot open it ({error.strerror})"
    start = content[:8] if isinstance(content, bytes) else _first_bytes(content)
    if start[4:] == b"ftyp":
        return "the file is cut off: the index (moov) of this MP4 is missing or damaged"
    return "not a video file that FFmpeg can read"


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(8)


def _video_stream(file: MediaFile, container: InputContainer) -> VideoStream:
    names = container.format.name.split(",")
    if names[0] == "tty":
        raise VideoError(file.name, "not a video file that FFmpeg can read: it is taken for text")
    # To FFmpeg the cover picture of a song is a video stream.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        suffix = Path(file.name).suffix[1:].lower()
        name = suffix if suffix in names else names[0]
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise VideoError(file.name, f"has no video stream (container: {name}, streams: {kinds})")
    if streams[0].codec_context is None:
        raise VideoError(file.name, "its video stream has a codec that this FFmpeg cannot decode")
    return streams[0]


def packets(
    container: InputContainer, stream: VideoStream, limits: Limits
) -> Generator[Packet[VideoStream] | None, None, None]:
    """Packets of the stream from where the container is wound to.

    At the end of the stream comes None, which drains the decoder. Where the file is cut off comes the packet that is
    not whole, and nothing more.

    Raises:
        VideoError: the time is up.
    """
    try:
        for packet in container.demux(stream):
            limits.time()
            if packet.size == 0:
                continue  # To the decoder it would be the end of the stream.
            yield packet
            if is_cut(packet):
                return
    except av.FFmpegError:
        limits.time()
        return  # The rest of the file is missing; what came before stands.
    except IndexError:
        # PyAV 18 stumbles at the end of a stream within which FFmpeg found further streams.
        limits.time()
    yield None


def is_cut(packet: Packet[VideoStream]) -> bool:
    """Whether the file ends within this packet. In MPEG-TS such marks tell of noise; the stream goes on."""
    return packet.is_corrupt and packet.stream.container.format.name != "mpegts"


def decode(stream: VideoStream, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Frames that come out when the packet goes in. One that cannot be decoded is passed over, as by ffmpeg."""
    try:
        return stream.decode(packet)
    except av.FFmpegError:
        return []


def decode_in_order(file: MediaFile | str) -> Generator[VideoFrame, None, None]:
    """All frames of a file as the decoder shows them. Raises VideoError as `open_container`."""
    file = file if isinstance(file, MediaFile) else MediaFile(file)
    container, stream = open_container(file)
    with container:
        for packet in packets(container, stream, file.limits):
            if packet is not None and is_cut(packet):
                break  # What is still in the decoder may lack pictures in between.
            yield from decode(stream, packet)


_scanned: OrderedDict[tuple[str, int, int, int], tuple[Index, int]] = OrderedDict()


def scan(container: InputContainer, stream: VideoStream, file: MediaFile) -> tuple[Index | None, int]:
    """Read all packets once; what was found of a file is kept until it changes.

    Returns:
        The index, or None if the frames of this file cannot be told from its packets; and how many frames the
        file should show if it is cut off and its container tells, else 0.

    Raises:
        VideoError: the time is up.
    """
    version = file.version()
    if version is not None and version in _scanned:
        _scanned.move_to_end(version)
        return _scanned[version]
    index, promised = _scan(container, stream, file.limits)
    if version is not None and index is not None:
        _scanned[version] = index, promised
        while len(_scanned) > 1 and sum(map(_size, _scanned.values())) > KEPT_INDEX_BYTES:
            _scanned.popitem(last=False)
    return index, promised


def _size(scanned: tuple[Index, int]) -> int:
    index = scanned[0]
    return index.times.nbytes + index.stamps.nbytes + index.places.nbytes + 200 * len(index.keys)


def _scan(container: InputContainer, stream: VideoStream, limits: Limits) -> tuple[Index | None, int]:
    shown, stamps = array("q"), array("q")
    keys: list[Key] = []
    count, last, cut = 0, 0, False
    for packet in packets(container, stream, limits):
        if packet is None:
            break
        cut = is_cut(packet)
        if packet.pts is not None:
            last = packet.pts if packet.dts is None else packet.dts
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(Key(count, packet.pts, last))
            if not packet.is_discard:
                shown.append(packet.pts)
        count += 1
    name = container.format.name.split(",")[0]
    promised = stream.frames if cut else 0
    if name == "mov":
        entries = stream.index_entries
        cut = cut or (len(entries) > 0 and entries[len(entries) - 1].timestamp > last)
        promised = sum(not entry.is_discard for entry in entries) if cut else 0
    times = np.sort(np.array(shown, np.int64))
    if cut:
        # What is missing is shown after the time at which it would have been decoded: only before is no gap.
        times = times[times < last]
    unsorted = np.array(stamps, np.int64)
    order = np.argsort(unsorted, kind="stable")
    codec = stream.codec_context.codec.canonical_name
    index = Index(times, unsorted[order], order, keys[:1] if codec in FROM_THE_START else keys)
    # Every packet has a stamp of its own, and the first is a keyframe.
    one_each = len(order) == count and bool((index.stamps[1:] > index.stamps[:-1]).all())
    begins = len(times) > 0 and bool(keys) and keys[0].position == 0
    known = name in INDEXED_CONTAINERS and codec in INDEXED_CODECS
    return index if one_each and begins and known else None, promised
