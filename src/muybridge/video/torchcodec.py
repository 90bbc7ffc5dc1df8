"""Video files decoded by torchcodec instead of PyAV: for files where both are known to give the same bytes.

torchcodec 0.13 was compared with decoding in order by PyAV on the films of the tests. It gave other frames for MPEG-4,
MPEG-2, AVI and MPEG-TS with B-frames, edit lists that begin within a group of pictures, and keyframes that are points
of gradual refresh; mirrored pictures it only turned; and its colours differed by up to 16 grey levels at 10 bits, by 7
where halved colour planes meet an odd size, and by 27 in interlaced pictures. All these are refused, and so is every
kind of file that was not compared.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from muybridge.errors import BadInput, VideoError
from muybridge.video.container import Index, MediaFile, open_container, packets
from muybridge.video.decode import FileVideo
from muybridge.video.opened import Frames, Seconds, Video

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
KEEP = "read it with --source.decoder pyav"
CUDA = "lib(?:nv|cuda|cublas|cudnn|cufft|npp|c10_cuda|torch_cuda)"  # names of its libraries begin so


class TorchCodecVideo(Video):
    """An open video file, decoded by torchcodec in its exact mode.

    PyAV reads its packets and its first frame, which tell whether the file is of a kind where both agree. The time
    stamp of every frame is compared with the index.

    Args:
        file: the file, or its bytes, and what reading it may cost.

    Raises:
        VideoError: as `open_video`; or the file is of a kind where torchcodec is known to differ.
        BadInput: torchcodec is not installed, or finds no FFmpeg.
    """

    def __init__(self, file: MediaFile) -> None:
        kind = _decoder()
        with FileVideo(file) as plain:
            self.path, self.frame_count, self.frame_rate = plain.path, plain.frame_count, plain.frame_rate
            self.size, self.duration, self.decoded = plain.size, plain.duration, plain.decoded
            self._limits = file.limits
            self._times = plain.seconds()
            index = plain._index
            if index is None or index.places.size != index.times.size:
                raise _refusal(file, "in containers or with time stamps like this one's")
            if plain._turn.mirrored():
                raise _refusal(file, "in pictures that are shown mirrored")
            stream, pixels = plain._stream, plain._stream.codec_context.format
            assert pixels is not None
            number, codec = stream.index, stream.codec_context.codec.canonical_name
            self._begin = float(index.times[0] * (stream.time_base or 0))
            depth = max(component.bits for component in pixels.components)
            halved = pixels.chroma_width(64) < 64 or pixels.chroma_height(64) < 64
            odd = any(side % 2 for side in self.size)
        if codec not in CODECS:
            raise _refusal(file, f"in the codec {codec}")
        if depth > 8 or (halved and odd):
            raise _refusal(file, f"in pictures of {pixels.name}, {self.size[1]} x {self.size[0]}")
        if codec == "h264" and not _all_instant(file, index):
            raise _refusal(file, "where decoding may begin at pictures that are not whole (recovery points)")
        try:
            self._decoder = kind(
                file.content, stream_index=number, dimension_order="NHWC", seek_mode="exact", device="cpu"
            )
            count = self._decoder.metadata.num_frames
        except Exception as error:
            raise VideoError(self.path, f"torchcodec cannot open it ({_first_line(error)}); {KEEP}") from error
        if count != self.frame_count:
            raise VideoError(self.path, f"torchcodec counts {count} frames, not {self.frame_count}; {KEEP}")

    def close(self) -> None:
        """Close the file; closing it again does no harm."""
        self._decoder = None

    def _known_seconds(self) -> Seconds:
        return self._times

    def _pictures(self, wanted: list[int]) -> Generator[tuple[int, Frames], None, None]:
        for index in wanted:
            try:
                frame = self._decoder.get_frame_at(index)
            except Exception as error:
                raise VideoError(
                    self.path, f"torchcodec cannot decode frame {index} ({_first_line(error)}); {KEEP}"
                ) from error
            self.decoded += 1
            picture: Frames = frame.data.numpy()
            late = frame.pts_seconds - self._begin - self._times[index]
            if abs(late) > 1e-6 + 1e-9 * self._times[index] or picture.shape != (*self.size, 3):
                raise VideoError(self.path, f"torchcodec gives another frame than number {index}; {KEEP}")
            yield index, picture


def _decoder() -> Any:
    try:
        return import_module("torchcodec.decoders").VideoDecoder
    except ImportError as error:
        raise BadInput("--source.decoder torchcodec needs the package: pip install 'muybridge[torchcodec]'.") from error
    except (RuntimeError, OSError) as error:
        if missing := _missing_cuda(error):
            raise BadInput(
                f"torchcodec is installed, but in a build for CUDA, whose libraries are not here ({missing}). On Linux "
                f"a package index has such builds above 0.13: pip install torchcodec==0.13.0, or {KEEP}."
            ) from error
        raise BadInput(
            "torchcodec is installed, but finds no FFmpeg: it needs the shared libraries of FFmpeg 4 to 8 (apt install "
            f"ffmpeg, conda install ffmpeg) and a version that fits this torch ({_first_line(error)})."
        ) from error


def _missing_cuda(error: BaseException | None) -> str:
    """The library of CUDA that could not be found, if it is that; the loader's own words lie behind torch's."""
    while error is not None:
        if found := re.search(rf"({CUDA}[\w.]*): cannot open", str(error)):
            return found[1]
        error = error.__cause__ or error.__context__
    return ""


def _first_line(error: Exception) -> str:
    # Its messages name their C++ source file first and go on for pages.
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(", ")[-1]


def _refusal(file: MediaFile, where: str) -> VideoError:
    return VideoError(file.name, f"torchcodec is not known to give the right frames {where}; {KEEP}")


def _all_instant(file: MediaFile, index: Index) -> bool:
    """Whether every keyframe of an H.264 stream is an instant refresh (IDR), after which nothing before is needed."""
    container, stream = open_container(file)
    keys = {key.position for key in index.keys}
    with container:
        found = (packet for packet in packets(container, stream, file.limits) if packet is not None)
        return all(_instant(packet, stream) for place, packet in enumerate(found) if place in keys)


def _instant(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    data, extra = bytes(packet), stream.codec_context.extradata or b""
    if extra[:1] != b"\x01":
        return any(unit[0] & 31 == 5 for unit in re.findall(rb"(?s)\x00\x00\x01(.)", data))
    # MP4 and Matroska: units with their size in front; the fifth byte of the header tells in how many bytes.
    step, place = (extra[4] & 3) + 1, 0
    while place + step < len(data):
        if data[place + step] & 31 == 5:
            return True
        place += step + int.from_bytes(data[place : place + step], "big")
    return False
