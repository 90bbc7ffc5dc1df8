"""Video files as FFmpeg sees them: opening one, its packets, its frames in order, the index of its frames."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.stream import Disposition

from muybridge.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Where a packet is one frame with a time stamp of its own, and winding to a keyframe is reliable: tests show it.
# MPEG-4 and VP8 are left out, because they have packets that hold no frame, or two.
INDEXED_CONTAINERS = frozenset({"mov", "matroska"})
INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg", "prores"})


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
        positions: time stamp -> place of the packet in the file, also for packets that are not displayed.
        keys: keyframes in the order of the file; the first packet is one.
    """

    times: list[int]
    positions: dict[int, int]
    keys: list[Key]

    def frame(self, pts: int | None) -> int | None:
        """The frame that is shown at `pts`; None if there is none."""
        if pts is None:
            return None
        place = bisect_left(self.times, pts)
        return place if place < len(self.times) and self.times[place] == pts else None

    def position(self, packet: Packet[VideoStream] | None) -> int | None:
        """The place of a packet in the file; None if it is not in the index."""
        return None if packet is None or packet.pts is None else self.positions.get(packet.pts)

    def start(self, frame: int) -> Key:
        """The last keyframe from which `frame` decodes to the same bytes as from the start of the file.

        It comes before the frame in the file and on the screen: pictures that follow their keyframe in the
        file but are shown before it (open groups of pictures) need the group before as well.
        """
        pts = self.times[frame]
        place = bisect_right(self.keys, self.positions[pts], key=lambda key: key.position) - 1
        while place > 0 and self.keys[place].pts > pts:
            place -= 1
        return self.keys[place]


def open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """The open container and its video stream, set to decode on one thread. The caller closes the container.

    Raises:
        VideoError: the file cannot be opened, or it has no video stream that can be decoded.
    """
    try:
        if os.path.isdir(path):
            raise VideoError(path, "this is a folder, not a video file")
        if os.path.getsize(path) == 0:
            raise VideoError(path, "the file is empty")
        container = _open(path)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except PermissionError as error:
        raise VideoError(path, "permission denied") from error
    except av.FFmpegError as error:
        raise VideoError(path, _why_unreadable(path, error)) from error
    try:
        stream = _video_stream(path, container)
        # One thread a video: the workers of a loader are the parallel part, and small videos get slower with more.
        stream.codec_context.thread_count = 1
        return container, stream
    except BaseException:
        container.close()
        raise


def _open(path: str) -> InputContainer:
    full = os.path.abspath(path)  # An absolute path is never taken for an address.
    try:
        return av.open(full, "r")
    except UnicodeDecodeError:
        # Titles in old files come in any encoding. Nothing here reads them.
        return av.open(full, "r", metadata_errors="ignore")


def _why_unreadable(path: str, error: av.FFmpegError) -> str:
    if not isinstance(error, av.InvalidDataError):
        return f"FFmpeg cannot open it ({error.strerror})"
    with open(path, "rb") as file:
        if file.read(8)[4:] == b"ftyp":
            return "the file is cut off: the index (moov) of this MP4 is missing or damaged"
    return "not a video file that FFmpeg can read"


def _video_stream(path: str, container: InputContainer) -> VideoStream:
    names = container.format.name.split(",")
    if names[0] == "tty":
        raise VideoError(path, "not a video file that FFmpeg can read: it is taken for text")
    # To FFmpeg the cover picture of a song is a video stream.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        suffix = Path(path).suffix[1:].lower()
        name = suffix if suffix in names else names[0]
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise VideoError(path, f"has no video stream (container: {name}, streams: {kinds})")
    if streams[0].codec_context is None:
        raise VideoError(path, "its video stream has a codec that this FFmpeg cannot decode")
    return streams[0]


def packets(container: InputContainer, stream: VideoStream) -> Generator[Packet[VideoStream] | None, None, None]:
    """Packets of the stream from where the container is wound to.

    At the end of the stream comes None, which drains the decoder. Where the file is cut off comes the packet that is
    not whole, and nothing more.
    """
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # To the decoder it would be the end of the stream.
            yield packet
            if is_cut(packet):
                return
    except av.FFmpegError:
        return  # The rest of the file is missing; what came before stands.
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


def decode_in_order(path: str) -> Generator[VideoFrame, None, None]:
    """All frames of a file as the decoder shows them. Raises VideoError as `open_container`."""
    container, stream = open_container(path)
    with container:
        for packet in packets(container, stream):
            if packet is not None and is_cut(packet):
                break  # What is still in the decoder may lack pictures in between.
            yield from decode(stream, packet)


def scan(container: InputContainer, stream: VideoStream) -> tuple[Index | None, int]:
    """Read all packets once.

    Returns:
        The index, or None if the frames of this file cannot be told from its packets; and how many frames the
        file should show if it is cut off and its container tells, else 0.
    """
    times: list[int] = []
    positions: dict[int, int] = {}
    keys: list[Key] = []
    count, last, cut = 0, 0, False
    for packet in packets(container, stream):
        if packet is None:
            break
        cut = is_cut(packet)
        if packet.pts is not None:
            last = packet.pts if packet.dts is None else packet.dts
            positions[packet.pts] = count
            if packet.is_keyframe:
                keys.append(Key(count, packet.pts, last))
            if not packet.is_discard:
                times.append(packet.pts)
        count += 1
    name = container.format.name.split(",")[0]
    promised = stream.frames if cut else 0
    if name == "mov":
        entries = stream.index_entries
        cut = cut or (len(entries) > 0 and entries[len(entries) - 1].timestamp > last)
        promised = sum(not entry.is_discard for entry in entries) if cut else 0
    if cut:
        # What is missing is shown after the time at which it would have been decoded: only before is no gap.
        times = [time for time in times if time < last]
    one_each = len(positions) == count and bool(times) and bool(keys) and keys[0].position == 0
    known = name in INDEXED_CONTAINERS and stream.codec_context.codec.canonical_name in INDEXED_CODECS
    return Index(sorted(times), positions, keys) if one_each and known else None, promised
