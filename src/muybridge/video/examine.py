"""What one video file is, found by reading it: `muybridge data check` asks this of every file of a data set."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from muybridge.errors import MuybridgeError, VideoError
from muybridge.structures import Item, SourceArgs
from muybridge.video.container import MediaFile, decode_in_order, open_container
from muybridge.video.opening import open_item
from muybridge.video.shards import read_stored

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from muybridge.video.opened import Video

CHUNK = 64 << 20  # bytes of decoded frames that are held at a time, or one frame
SAMPLE = 64  # side of the picture, in pixels, by which pictures are compared
BLACK = 24  # grey levels, of 255: a picture without a brighter pixel is black
# Grey levels by which a pixel of a still picture may change: x264 changes them by 7 (crf 18) to 18 (crf 38) at
# keyframes. A spot of 4 % of the picture's side that wanders over it changes a pixel by 67.
EQUAL = 20
NO_FILE = "no such file"

Picture = Literal["", "black", "still"]
Beat = Callable[[], None]
Key = tuple[str, int, int, int]  # a file: path, offset in an archive, first and number of pictures; see `Facts`


@dataclass(frozen=True)
class Facts:
    """What was found in a video file.

    Attributes:
        path: of the file, or of the archive or folder that holds it.
        offset: where it begins in its archive, in bytes; -1: it is no part of an archive.
        first: number of the first picture that is meant, of a folder of pictures; else -1.
        pictures: how many are meant; else 0.
        bytes: its size; 0 for a folder of pictures.
        modified: when it was changed, in nanoseconds; 0 if nothing tells.
        settings: decoder and limits it was read with.
        quick: it was opened only; what follows `announced` is not known then.
        broken: why it cannot be used; empty: it can.
        frames: how many it shows, or should.
        seconds: how long it is; 0: not known.
        rate: frames a second on average; 0: not known.
        width: of the upright picture, in pixels.
        height: likewise.
        container: such as mp4.
        codec: such as h264.
        announced: how long the file says it is, in seconds; 0: it does not.
        decoded: how many frames can be decoded.
        damaged: how many of these have errors that the decoder painted over.
        interlaced: some frames are two half pictures.
        variable: the time from frame to frame varies.
        picture: `black`: all frames are; `still`: all frames are the same.
        sha256: of the content; empty: not computed, because no other file is as large.
    """

    path: str
    offset: int = -1
    first: int = -1
    pictures: int = 0
    bytes: int = 0
    modified: int = 0
    settings: str = ""
    quick: bool = False
    broken: str = ""
    frames: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    width: int = 0
    height: int = 0
    container: str = ""
    codec: str = ""
    announced: float = 0.0
    decoded: int = 0
    damaged: int = 0
    interlaced: bool = False
    variable: bool = False
    picture: Picture = ""
    sha256: str = ""

    @property
    def key(self) -> Key:
        """What tells this file from all others."""
        return self.path, self.offset, self.first, self.pictures


def key_of(item: Item) -> Key:
    """The `Facts.key` of the file that an item is, or is a part of.

    Segments of one folder of pictures count as files of their own, since each is read by itself.
    """
    offset, _ = item.stored or (-1, 0)
    return (item.path, offset, item.frames.first, item.frames.count) if item.frames else (item.path, offset, -1, 0)


def unread(item: Item, args: SourceArgs) -> Facts:
    """What is known of a file before it is opened; with it a file that has changed is told from one that has not."""
    settings = f"{args.decoder} {args.seconds:g} s {args.megapixels:g} MP {args.megabytes:g} MB"
    _, size = item.stored or (-1, 0)
    blank = Facts(*key_of(item), bytes=size, settings=settings)
    try:
        status = os.stat(item.path)
    except OSError:
        return blank
    if item.stored is None and item.frames is None:
        size = status.st_size
    return replace(blank, bytes=size, modified=status.st_mtime_ns)


def examine(item: Item, args: SourceArgs, quick: bool, beat: Beat) -> Facts:
    """Read a file, all of it, however small the part of it that the item means.

    Args:
        item: the video.
        args: decoder and limits.
        quick: open it as a training does, and do not decode every frame.
        beat: called from time to time, to show that this is going on.

    Returns:
        The facts; if the file cannot be used they say why. Nothing is raised for a broken file.
    """
    facts = replace(unread(item, args), quick=quick)
    if item.stored is None and not os.path.exists(item.path):
        return replace(facts, broken=NO_FILE)
    whole = replace(item, start=0.0, end=None)
    try:
        with open_item(whole, args) as video:
            beat()
            facts = replace(
                facts,
                frames=video.frame_count,
                seconds=round(video.duration, 6),
                rate=round(video.frame_rate, 6),
                height=video.size[0],
                width=video.size[1],
            )
            if item.frames is not None:
                codec = Path(item.frames.pattern).suffix[1:].lower()
                facts = replace(facts, container="folder", codec=codec)
                facts = facts if quick else _read(facts, video, beat)
                return facts if quick or facts.broken else replace(facts, sha256=digest(item, beat))
            # The time is limited from frame to frame, by whoever listens to the beat.
            file = MediaFile(
                read_stored(item.path, *item.stored) if item.stored else item.path, replace(args, seconds=0)
            )
            facts = replace(facts, **_format(file, item.name))
            if quick:
                return facts
            return _read(facts, video, beat) if args.decoder == "torchcodec" else _decode(facts, file, beat)
    except VideoError as error:
        return replace(facts, broken=error.reason)
    except MuybridgeError as error:
        return replace(facts, broken=str(error))
    except MemoryError:
        return replace(facts, broken="its frames do not fit into memory")


def digest(item: Item, beat: Beat) -> str:
    """SHA-256 of a video's content, as hexadecimal digits."""
    sha = hashlib.sha256()
    for block in _blocks(item):
        sha.update(block)
        beat()
    return sha.hexdigest()


def _blocks(item: Item) -> Iterator[bytes]:
    if item.frames is not None:
        for place in range(item.frames.count):
            yield Path(item.path, item.frames.pattern.format(item.frames.first + place)).read_bytes()
        return
    if item.stored is not None:
        yield read_stored(item.path, *item.stored)
        return
    with open(item.path, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def _format(file: MediaFile, name: str) -> dict[str, Any]:
    """Names of the container and of the codec, and the announced length."""
    container, stream = open_container(file)
    with container:
        names = container.format.name.split(",")
        suffix = Path(name).suffix[1:].lower()
        return {
            # FFmpeg has one name for a family; the most usual member of the first is mp4.
            "container": suffix if suffix in names else "mp4" if "mp4" in names else names[0],
            "codec": stream.codec_context.codec.canonical_name,
            "announced": round(_announced(container, stream), 6),
        }


def _announced(container: InputContainer, stream: VideoStream) -> float:
    """Seconds that the file says its pictures go on for; 0 if it does not say."""
    # The container is as long as its longest stream, which may be the sound. Matroska has a note for each stream.
    whole = container.duration / av.time_base if container.duration else 0.0
    if stream.duration and stream.time_base:
        # An edit list may show less than there is.
        return min(float(stream.duration * stream.time_base), whole or math.inf)
    clock = stream.metadata.get("DURATION", "").split(":")
    with suppress(ValueError):
        hours, minutes, seconds = map(float, clock)
        return 3600 * hours + 60 * minutes + seconds
    return whole if len(container.streams) == 1 else 0.0


def _decode(facts: Facts, file: MediaFile, beat: Beat) -> Facts:
    """Add what is known only after every frame was decoded, in the order of the file."""
    # Fast: no picture is converted to RGB, and once two pictures differ none is looked at.
    look, reformatter = _Look(), VideoReformatter()
    times: list[float | None] = []
    damaged, interlaced = 0, False
    for frame in decode_in_order(file):
        beat()
        times.append(frame.time)
        damaged += frame.is_corrupt
        interlaced = interlaced or frame.interlaced_frame
        if look.open:
            small = reformatter.reformat(
                frame, width=SAMPLE, height=SAMPLE, format="gray", interpolation=Interpolation.POINT, threads=1
            )
            look.see(small.to_ndarray())
    facts = replace(facts, damaged=damaged, interlaced=interlaced, variable=varies(times))
    return _counted(facts, len(times), look)


def _read(facts: Facts, video: Video, beat: Beat) -> Facts:
    """The same of a video that is no file, or that another decoder reads: by index."""
    look, decoded = _Look(), 0
    step = max(1, CHUNK // max(1, 3 * facts.width * facts.height))
    rows, columns = (np.linspace(0, side - 1, SAMPLE).astype(int) for side in video.size)
    for start in range(0, facts.frames, step):
        frames, why = _readable(video, range(start, min(start + step, facts.frames)), beat)
        decoded += len(frames)
        for frame in frames:
            if look.open:
                look.see(frame[rows][:, columns].mean(-1))
        if why:
            return replace(facts, decoded=decoded, broken=why)
    return _counted(facts, decoded, look)


def _readable(video: Video, wanted: range, beat: Beat) -> tuple[list[Any], str]:
    """The wanted frames up to the first that cannot be read, and why that one cannot."""
    beat()
    try:
        return list(video.read(wanted)), ""
    except VideoError as error:
        if len(wanted) == 1:
            return [], error.reason
    half = len(wanted) // 2
    frames, why = _readable(video, wanted[:half], beat)
    if not why:
        rest, why = _readable(video, wanted[half:], beat)
        frames += rest
    return frames, why


def _counted(facts: Facts, decoded: int, look: _Look) -> Facts:
    facts = replace(facts, decoded=decoded)
    if decoded < facts.frames:
        return replace(facts, broken=f"damaged or cut off: {decoded} of {facts.frames} frames can be decoded")
    return replace(facts, picture=look.verdict)


def varies(times: Sequence[float | None]) -> bool:
    """Whether the time from frame to frame varies: more than one step in fifty by more than a fifth (and 2 ms).

    Args:
        times: of the frames in seconds; None where a frame has none.
    """
    steps = [after - before for before, after in pairwise(times) if before is not None and after is not None]
    if not steps:
        return False
    usual = median(steps)
    odd = sum(abs(step - usual) > max(0.2 * usual, 0.002) for step in steps)
    return odd > max(1, len(steps) / 50)


class _Look:
    """Whether all pictures are black, or all the same."""

    def __init__(self) -> None:
        self._first: Any = None
        self._count = 0
        self._black = self._still = True

    @property
    def open(self) -> bool:
        """Whether another picture can still change the verdict."""
        return self._black or self._still

    @property
    def verdict(self) -> Picture:
        if self._black and self._count:
            return "black"
        return "still" if self._still and self._count > 1 else ""

    def see(self, picture: Any) -> None:
        """Look at the next picture, grey [SAMPLE, SAMPLE]."""
        picture = np.asarray(picture, np.int16)
        if self._first is None:
            self._first = picture
        self._count += 1
        self._black = self._black and picture.max() < BLACK
        self._still = self._still and np.abs(picture - self._first).max() <= EQUAL
