"""Tiny videos of many kinds whose pictures carry their number, painted so large that compression leaves it readable."""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "0")  # The AV1 encoder talks otherwise.

ROWS, COLUMNS = 3, 4  # Blocks, black or white: the bits of a number below 4096.


def paint(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that shows `number`, uint8 [height, width, 3]; its ground moves, so that frames depend on others."""
    down, across = np.mgrid[0:height, 0:width]
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[..., 0] = (across * 3 + number * 5) % 64 + 96
    picture[..., 1] = (down * 2 + number * 3) % 64 + 96
    for bit, (rows, columns) in enumerate(_blocks(height, width, margin=2)):
        picture[rows, columns] = 235 if number >> bit & 1 else 20
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number that a picture shows."""
    height, width = picture.shape[:2]
    blocks = _blocks(height, width, margin=min(height, width) // 12)
    return sum(int(picture[rows, columns].mean() > 128) << bit for bit, (rows, columns) in enumerate(blocks))


def _blocks(height, width, margin):
    tall, wide = height // ROWS, width // COLUMNS
    for bit in range(ROWS * COLUMNS):
        row, column = divmod(bit, COLUMNS)
        yield (
            slice(row * tall + margin, (row + 1) * tall - margin),
            slice(column * wide + margin, (column + 1) * wide - margin),
        )


@dataclass(frozen=True)
class Film:
    """How a video is made, and what is known of it.

    Attributes:
        name: of the file; the suffix chooses the container.
        codec: encoder.
        shown: numbers that the displayed frames show.
        indexed: whether frames are found by the index, without decoding everything.
        rate: pictures a second.
        group: pictures from a keyframe to the next.
        parameters: of x264 or x265.
        turn: (degrees counter-clockwise, mirrored, upended) by which a player sets the stored picture upright.
        edit: (first frame shown, how many): by an edit list.
    """

    name: str
    codec: str = "libx264"
    shown: range = range(60)
    indexed: bool = True
    size: tuple[int, int] = (48, 64)
    pixels: str = "yuv420p"
    rate: int = 25
    group: int | None = None
    b_frames: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    parameters: str = ""
    container: dict[str, str] = field(default_factory=dict)
    varying_rate: bool = False
    turn: tuple[int, bool, bool] | None = None
    edit: tuple[int, int] | None = None
    packed: bool = False


B_FRAMES = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"
OPEN = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:open-gop=1:scenecut=0"
QUICK_VP9 = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}

FILMS = [
    Film("b_frames.mp4", parameters=B_FRAMES),
    Film("b_frames.mov", parameters=B_FRAMES),
    Film("b_frames.mkv", parameters=B_FRAMES),
    Film("one_group.mp4", parameters="keyint=250:bframes=3", shown=range(300)),
    Film("one_group.mkv", parameters="keyint=250:bframes=8:b-adapt=0:ref=4", shown=range(300)),
    Film("open_group.mp4", parameters=OPEN),
    Film("open_group.mkv", parameters=OPEN),
    Film("keyframes_only.mp4", parameters="keyint=1"),
    Film("short_groups.mp4", parameters="keyint=3:min-keyint=1:bframes=2:b-adapt=0:scenecut=0"),
    Film("short_groups.mkv", parameters="keyint=3:min-keyint=1:bframes=2:b-adapt=0:open-gop=1:scenecut=0"),
    # Time stamps in this container are milliseconds, so that several frames have the same one.
    Film("high_rate.mkv", parameters="keyint=12:bframes=0", rate=3000, indexed=False),
    Film("gradual_refresh.mp4", parameters="keyint=12:intra-refresh=1:bframes=0:slices=3"),
    Film("interlaced.mp4", parameters="keyint=12:interlaced=1:bframes=2", indexed=False),
    Film("varying_rate.mp4", parameters=B_FRAMES, varying_rate=True),
    Film("varying_rate.mkv", parameters=B_FRAMES, varying_rate=True),
    Film("edited.mp4", parameters=B_FRAMES, edit=(17, 30), shown=range(17, 47)),
    Film("edited_at_keyframe.mp4", parameters=B_FRAMES, edit=(24, 30), shown=range(24, 54)),
    Film("large.mp4", size=(2160, 3840), shown=range(3), options={"preset": "ultrafast"}, parameters="keyint=2"),
    Film("index_first.mp4", parameters=B_FRAMES, container={"movflags": "faststart"}),
    Film("fragments.mp4", parameters=B_FRAMES, container={"movflags": "frag_keyframe+empty_moov"}),
    Film("lossless.mp4", options={"crf": "0"}, parameters=B_FRAMES),
    Film("one_frame.mp4", shown=range(5, 6)),
    Film("odd_size.mp4", size=(51, 67), pixels="yuv444p", parameters=B_FRAMES),
    Film("ten_bit.mp4", pixels="yuv420p10le", parameters=B_FRAMES),
    Film("grey.mp4", pixels="gray", parameters=B_FRAMES),
    Film(
        "hevc.mp4",
        "libx265",
        parameters="log-level=none:keyint=12:min-keyint=12:bframes=3:b-adapt=0:open-gop=1:scenecut=0",
    ),
    Film("hevc_ten_bit.mkv", "libx265", pixels="yuv420p10le", parameters="log-level=none:keyint=12"),
    Film("vp9.webm", "libvpx-vp9", group=12, options=QUICK_VP9),
    Film("vp9_odd_size.webm", "libvpx-vp9", size=(51, 67), options=QUICK_VP9),
    Film("vp9_live.webm", "libvpx-vp9", group=12, options=QUICK_VP9, container={"live": "1"}),
    Film("vp8.webm", "libvpx", group=30, options=QUICK_VP9, indexed=False),
    Film("av1.mp4", "libsvtav1", group=20, size=(64, 64), options={"preset": "12"}),
    Film("av1.webm", "libsvtav1", group=20, size=(64, 64), options={"preset": "12"}),
    Film("mpeg4.avi", "mpeg4", group=12, b_frames=2, indexed=False),
    Film("mpeg4_packed.avi", "mpeg4", group=13, b_frames=1, indexed=False, packed=True),
    Film("mpeg4.mp4", "mpeg4", group=12, b_frames=2, indexed=False),
    Film("h264.avi", parameters=B_FRAMES, indexed=False),
    Film("mjpeg.avi", "mjpeg", pixels="yuvj420p", indexed=False),
    Film("mjpeg.mov", "mjpeg", pixels="yuvj420p"),
    Film("prores.mov", "prores_ks", pixels="yuv422p10le", shown=range(10)),
    Film("gif.gif", "gif", pixels="rgb8", indexed=False),
    Film("stream.ts", parameters=B_FRAMES, indexed=False),
    Film("mpeg2.ts", "mpeg2video", group=12, b_frames=2, indexed=False),
    Film("mpeg2.mpg", "mpeg2video", group=12, b_frames=2, indexed=False),
    Film("flash.flv", parameters=B_FRAMES, indexed=False),
    Film("windows.wmv", "wmv2", group=12, indexed=False),
    Film("no_container.h264", parameters=B_FRAMES, indexed=False),
    *(
        Film(f"turned_{degrees}{'_mirrored' * mirrored}{'_upended' * upended}.mp4", turn=(degrees, mirrored, upended))
        for degrees in (0, 90, 180, 270)
        for mirrored, upended in ((False, False), (True, False), (False, True))
        if degrees or mirrored or upended
    ),
]


def write(folder: Path, film: Film) -> Path:
    """Make the video; returns its path."""
    path = folder / film.name
    if film.packed:
        _write_packed(path, film)
        return path
    numbers = range(60) if film.edit else film.shown
    with av.open(str(path), "w", options=film.container) as container:
        stream = _stream(container, film)
        if film.turn:
            stream.set_display_rotation(*film.turn)
        for packet in _encode(stream, film, numbers):
            container.mux(packet)
    if film.edit:
        _edit(path, *film.edit)
    return path


def _stream(container, film):
    stream = container.add_stream(film.codec, rate=film.rate)
    stored = turned_back(paint(0, *film.size), film.turn)
    stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], film.pixels
    stream.codec_context.thread_count = 1
    options = dict(film.options)
    if film.parameters:
        options["x265-params" if film.codec == "libx265" else "x264-params"] = film.parameters
    stream.options = options
    if film.group is not None:
        stream.gop_size = film.group
    if film.b_frames is not None:
        stream.max_b_frames = film.b_frames
    if film.varying_rate:
        stream.codec_context.time_base = Fraction(1, 1000)
    return stream


def _encode(stream, film, numbers):
    draws, time = random.Random(0), 0
    for place, number in enumerate(numbers):
        picture = np.ascontiguousarray(turned_back(paint(number, *film.size), film.turn))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        if film.varying_rate:
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            time += draws.choice([5, 20, 33, 40, 100])
        else:
            frame.pts, frame.time_base = place, Fraction(1, film.rate)
        yield from stream.encode(frame)
    yield from stream.encode()


def turned(picture: np.ndarray, turn: tuple[int, bool, bool] | None) -> np.ndarray:
    """A stored picture as a player shows it: turned, then mirrored left-right, then up-down."""
    degrees, mirrored, upended = turn or (0, False, False)
    picture = np.rot90(picture, degrees // 90)
    picture = picture[:, ::-1] if mirrored else picture
    return picture[::-1] if upended else picture


def turned_back(picture: np.ndarray, turn: tuple[int, bool, bool] | None) -> np.ndarray:
    """The stored picture that `turned` makes into `picture`."""
    degrees, mirrored, upended = turn or (0, False, False)
    picture = picture[::-1] if upended else picture
    picture = picture[:, ::-1] if mirrored else picture
    return np.rot90(picture, -degrees // 90)


def _edit(path, first, count):
    """Let the edit list of an MP4 show `count` of its 60 frames from frame `first` on."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # After type, version and flags, number of entries.
    duration, start, rate = struct.unpack(">IiI", data[entry : entry + 12])
    scale = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    data[entry : entry + 12] = struct.pack(">IiI", duration * count // 60, start + scale * first // 25, rate)
    path.write_bytes(data)


def _write_packed(path, film):
    """MPEG-4 as DivX and Xvid put it into AVI: a picture and the next B picture in one packet, then an empty one."""
    with av.open(str(path), "w", options=film.container) as container:
        stream = _stream(container, film)
        packets = [(packet.pts, bytes(packet)) for packet in _encode(stream, film, film.shown)]
        mark = b"\x00\x00\x01\xb2DivX503b1393p"
        place = packets[0][1].index(b"\x00\x00\x01\xb6")
        chunks = [packets[0][1][:place] + mark + packets[0][1][place:]]
        rest = packets[1:]
        while rest:
            if len(rest) > 1 and rest[1][0] < rest[0][0]:
                chunks += [rest[0][1] + rest[1][1], b"\x00\x00\x01\xb6\x51\x00\x00"]
                rest = rest[2:]
            else:
                chunks.append(rest.pop(0)[1])
        for place, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.pts, packet.dts = stream, place, place
            packet.time_base = Fraction(1, 25)
            packet.is_keyframe = place == 0
            container.mux(packet)


def decode_plainly(path: Path, turn: tuple[int, bool, bool] | None = None) -> np.ndarray:
    """All frames as PyAV gives them in order, set upright: what `read` is measured by."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([turned(picture, turn) for picture in pictures])
