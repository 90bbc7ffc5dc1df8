"""Where live frames come from: a camera, a network stream, or a file that is played at its own pace.

    0, /dev/video0            a camera of this machine (macOS: its number; Windows: video=NAME)
    rtsp://..., http://...    a stream
    film.mp4                  a file: for trying out what will later look through a camera

What a stream sends is not trusted: pictures beyond the limits are refused, a playlist cannot name files of this
machine, and a stream that sends nothing is given up after a while. One that breaks off is opened again, after pauses
that grow.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import av
import numpy as np
import numpy.typing as npt

from muybridge.errors import BadInput, VideoError
from muybridge.structures import SourceArgs
from muybridge.video.container import MediaFile, open_container
from muybridge.video.decode import upright
from muybridge.video.limits import Limits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Picture = npt.NDArray[np.uint8]
# Scheme of an address -> what FFmpeg may open in its name. No `file`: a playlist could name any file of this machine.
PROTOCOLS = {
    "http": "http,https,tcp,tls,crypto",
    "https": "https,http,tcp,tls,crypto",
    "rtsp": "rtsp,rtp,udp,tcp,tls,srtp,http,https",
    "rtsps": "rtsps,rtsp,rtp,udp,tcp,tls,srtp,http,https",
}
# Over TCP nothing is lost on the way, and routers let it through.
OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "rtsps": {"rtsp_transport": "tcp"}}
DEVICES = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a stream is opened again; doubled each time
VAIN = 300  # packets in a row without a picture, after which a stream is given up
LEAP = 10.0  # seconds; time stamps that jump further, or back, begin anew


class Clock:
    """The time, and waiting."""

    def now(self) -> float:
        """Seconds; only differences mean something."""
        return time.monotonic()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after so many seconds, or as soon as `stop` is set."""
        stop.wait(seconds)


@dataclass(frozen=True)
class Raw:
    """A frame as the decoder gave it.

    Attributes:
        seconds: when it is shown, after the first frame of all.
        part: how many times the stream had been lost before.
        frame: not yet in colours.
    """

    seconds: float
    part: int
    frame: VideoFrame


class Camera:
    """An open source of live frames; what cannot be opened at once is not waited for.

    Args:
        source: see the top of this file.
        args: `megapixels` and `megabytes` limit what comes; None: the defaults.
        timeout: seconds in which a source must open, and then send something.
        reconnects: how many times in a row a lost source is opened again before it is given up.
        say: is told what happens, one sentence each; from another thread.
        clock: the time.

    Attributes:
        name: what messages call it: the address without its password.
        fps: frames a second; 0: the source does not tell.
        paced: it is a file, and played at its own pace.
        active: when the source was last waited for, by the clock; None: it is not being waited for.

    Raises:
        BadInput: an address of another kind, or no such camera.
        VideoError: it cannot be opened, or has no video.
    """

    def __init__(
        self,
        source: str | Path | int,
        args: SourceArgs | None = None,
        timeout: float = 10.0,
        reconnects: int = 8,
        say: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise BadInput(f"timeout is {timeout:g}; expected seconds, above 0.")
        if reconnects < 0:
            raise BadInput(f"reconnects is {reconnects}; expected 0 or more.")
        self.fps: float
        self.paced: bool
        self._opener = _opener_of(str(source))
        self.name = self._opener.name
        self.limits = Limits(self.name, args or SourceArgs())
        self.timeout, self.reconnects = timeout, reconnects
        self.active: float | None = None
        self._args, self._say, self._clock = args, say or (lambda sentence: None), clock or Clock()
        self._times = _Times(self._clock)
        self._container: InputContainer | None = None
        self._stream: VideoStream
        self._open()
        assert self._container is not None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate < 1000 else 0.0
        # A stream that tells how long it is has been recorded: it would come as fast as the network is.
        self.paced = self._opener.kind == "file" or bool(self._opener.kind == "address" and self._container.duration)

    def close(self) -> None:
        """Close the source; not while another thread reads it. Closing it again does no harm."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def silent(self) -> float:
        """For how many seconds the source has been waited for."""
        active = self.active
        return 0.0 if active is None else self._clock.now() - active

    def frames(self, stop: threading.Event) -> Iterator[Raw]:
        """All frames, until the source ends or `stop` is set.

        Raises:
            VideoError: the source is lost, and was opened again in vain; or it goes beyond the limits.
        """
        part, failures, reason = 0, 0, ""
        while not stop.is_set():
            try:
                if self._container is None:
                    self._open()
                for seconds, frame in self._connection(stop):
                    if failures:
                        self._say(f"{self.name}: back.")
                    failures = 0
                    yield Raw(seconds, part, frame)
                if self.paced or stop.is_set():
                    return
                reason = "the stream has ended"
            except _Lost as lost:
                if self.paced:
                    raise VideoError(self.name, str(lost)) from lost
                reason = str(lost)
            except VideoError as error:
                if not failures:  # what was open a moment ago has something to be told; limits are not tried again
                    raise
                reason = error.reason
            self.close()
            if failures >= self.reconnects:
                times = "1 attempt" if failures == 1 else f"{failures} attempts"
                after = f" after {times} to open it again" if failures else ""
                raise VideoError(self.name, f"lost ({reason}); given up{after}")
            pause = min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE)
            failures, part = failures + 1, part + (failures == 0)
            self._say(f"{self.name}: lost ({reason}); attempt {failures} of {self.reconnects} in {pause:g} s.")
            self._clock.wait(pause, stop)

    def picture(self, frame: VideoFrame) -> Picture:
        """uint8 [H, W, 3], RGB, upright."""
        try:
            rgb = frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.name, f"a frame cannot be turned into colours ({error})") from error
        return np.ascontiguousarray(upright(np.asarray(rgb, np.uint8), frame))

    def _connection(self, stop: threading.Event) -> Iterator[tuple[float, VideoFrame]]:
        """Frames from one opening to the end or the loss of the source, with their seconds."""
        self._times.restart()
        for frame in self._decoded(stop):
            self.limits.size(frame.height, frame.width)
            seconds = self._times.of(frame)
            if self.paced:
                self._clock.wait(max(0.0, seconds - self._times.now()), stop)
            if stop.is_set():
                return
            yield seconds, frame

    def _decoded(self, stop: threading.Event) -> Iterator[VideoFrame]:
        container = self._container
        assert container is not None
        packets, vain = container.demux(self._stream), 0
        while not stop.is_set():
            self.active = self._clock.now()
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                waited = self._clock.now() - self.active >= self.timeout
                raise _Lost(f"nothing came for {self.timeout:g} s" if waited else _words(error)) from error
            except IndexError:  # PyAV 18 stumbles at the end of a stream within which FFmpeg found further streams
                return
            finally:
                self.active = None
            if packet is None:
                return
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                frames = []  # joined in the middle, or damaged on the way: the next keyframe mends it
            good = [frame for frame in frames if not frame.is_corrupt]
            vain = 0 if good else vain + 1
            if vain >= VAIN:
                raise VideoError(
                    self.name,
                    f"nothing of its last {VAIN} packets can be decoded; pictures of more than "
                    f"{self.limits.pixels / 1e6:g} megapixels are refused (--source.megapixels; 0: no limit)",
                )
            yield from good

    def _open(self) -> None:
        self.active = self._clock.now()
        try:
            container, stream = self._opener.open(self._args, self.limits, self.timeout)
        finally:
            self.active = None
        self._container, self._stream = container, stream


class _Lost(Exception):
    """A connection broke off; the message says how."""


class _Times:
    """Seconds of frames by their stamps, or by when they come where stamps are missing or jump."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._offset = self._last = 0.0
        self._stamp: float | None = None

    def now(self) -> float:
        """Seconds since the first frame came."""
        if self._begun is None:
            self._begun = self._clock.now()
        return self._clock.now() - self._begun

    def restart(self) -> None:
        """Stamps begin anew."""
        self._stamp = None

    def of(self, frame: VideoFrame) -> float:
        """When the frame is shown, after the first of all; never less than before."""
        stamp = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        seconds = self.now()
        if stamp is not None:
            if self._stamp is None or not 0 <= stamp - self._stamp <= LEAP:
                self._offset = seconds - stamp
            seconds = stamp + self._offset
        self._stamp = stamp
        self._last = max(self._last, seconds)
        return self._last


@dataclass(frozen=True)
class _Opener:
    """How a source is opened: `kind` is `device`, `address` or `file`."""

    kind: str
    name: str
    content: str
    format: str | None = None
    scheme: str = ""

    def open(self, args: SourceArgs | None, limits: Limits, timeout: float) -> tuple[InputContainer, VideoStream]:
        """The open container and its first video stream."""
        if self.kind == "file":
            return open_container(MediaFile(self.content, args))
        options: dict[str, str] = {**limits.codec_options(), **OPTIONS.get(self.scheme, {})}
        if self.scheme:
            options["protocol_whitelist"] = PROTOCOLS[self.scheme]
        try:
            container = av.open(
                self.content,
                "r",
                format=self.format,
                options=options,
                timeout=(timeout, timeout),
                metadata_errors="ignore",
            )
        except (av.FFmpegError, ValueError, OSError) as error:
            raise VideoError(self.name, f"it cannot be opened ({_words(error)}){self._hint()}") from error
        try:
            streams = [stream for stream in container.streams.video if stream.codec_context is not None]
            if not streams:
                raise VideoError(self.name, "it has no video that FFmpeg can decode")
            limits.size(streams[0].codec_context.height, streams[0].codec_context.width)
            streams[0].codec_context.options = limits.codec_options()
            return container, streams[0]
        except BaseException:
            container.close()
            raise

    def _hint(self) -> str:
        if self.kind != "device":
            return ""
        found = cameras()
        return f"; there are: {', '.join(found)}" if found else "; no camera is found on this machine"


def cameras() -> list[str]:
    """The cameras of this machine, where it tells (Linux)."""
    return sorted(str(path) for path in Path("/dev").glob("video[0-9]*")) if sys.platform == "linux" else []


def _opener_of(source: str) -> _Opener:
    scheme, colon, _ = source.partition("://")
    if colon and scheme.isalnum():
        scheme = scheme.lower()
        if scheme not in PROTOCOLS:
            raise BadInput(f"{_hidden(source)}: live sources behind an address are {', '.join(PROTOCOLS)}.")
        return _Opener("address", _hidden(source), source, scheme=scheme)
    if source.isdecimal() or source.startswith(("/dev/video", "video=")):
        kind = DEVICES.get(sys.platform)
        if not any(kind in names.split(",") for names in av.formats_available):
            raise BadInput(f"This FFmpeg cannot read cameras of {sys.platform}; give an address or a file.")
        if kind == "dshow" and source.isdecimal():
            raise BadInput(f"Cameras have names here: give video=NAME in place of {source}.")
        content = f"/dev/video{source}" if kind == "v4l2" and source.isdecimal() else source
        return _Opener("device", content if kind == "v4l2" else f"camera {source}", content, kind)
    if not Path(source).exists():
        raise BadInput(
            f"There is no {source}; a live source is a camera (0, /dev/video0), an address "
            f"({', '.join(f'{name}://' for name in PROTOCOLS)}) or a file, which is played at its own pace."
        )
    return _Opener("file", source, source)


def _hidden(address: str) -> str:
    """An address without the name and password in it."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "the address"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _words(error: Any) -> str:
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    if getattr(error, "errno", 0) == errno.EIO:  # so FFmpeg calls a connection that was closed at the other end
        return "the connection broke off"
    return getattr(error, "strerror", None) or str(error) or os.strerror(getattr(error, "errno", 0) or 0)
