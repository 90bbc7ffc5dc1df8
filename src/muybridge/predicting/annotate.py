"""A video written again with what a recogniser sees in it: every frame, its labels burnt in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Colorspace
from PIL import Image, ImageDraw, ImageFont

from muybridge.engine.checkpoint import write_atomically
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, MissingFile
from muybridge.predicting.draw import shortened
from muybridge.predicting.reading import open_given
from muybridge.structures import Item, Prediction, SourceArgs

if TYPE_CHECKING:
    from muybridge.video.opened import Frames, Video

SUFFIXES = (".mp4", ".mov", ".mkv")
TICKS = 90_000  # a second: of time stamps, in which every usual frame rate is a whole number
QUALITY = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "4"}}
TV = frozenset({2, 5, 6})  # colour spaces in FFmpeg's numbers: not told, and both of BT.601
SHOWN = 3  # classes
SMALLEST = 24  # pixels: on smaller pictures nothing can be read
INK, FILL, TRACK, PANEL = (255, 255, 255, 255), (92, 168, 255, 255), (92, 98, 108, 220), (10, 12, 16, 176)


def annotate(
    video: Item | str | Path,
    out: str | Path,
    labels_at: Callable[[float], Sequence[Prediction]],
    source: SourceArgs | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a video with labels in its corner. Sound is left out.

    The times of the frames, the shape of its pixels and what tells of its colours stay; the picture is upright. A side
    with an odd number of pixels gets one more, as H.264 wants it.

    Args:
        video: a file, or an item of a data set.
        out: the file: .mp4, .mov or .mkv.
        labels_at: the classes to be shown at a moment in seconds, best first; empty: none.
        source: decoder and limits.
        progress: told of every frame.

    Returns:
        `out`.

    Raises:
        BadInput: `out` exists already, or is of another kind.
        MissingFile: its folder is not there.
        VideoError: the video cannot be decoded; nothing is written.
    """
    out = check_out(out)
    with open_given(video, source) as opened:
        write_atomically(out, lambda partial: _write(opened, partial, out.suffix.lower(), labels_at, progress))
    return out


def check_out(out: str | Path) -> Path:
    """Where an annotated video can be written. Raises as `annotate`."""
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{out} is not the name of a video that can be written; expected {', '.join(SUFFIXES)}.")
    if out.exists():
        raise BadInput(f"{out} exists already; nothing is written over. Give another name.")
    if not out.absolute().parent.is_dir():
        raise MissingFile(f"There is no folder {out.absolute().parent} to write {out.name} into.")
    return out


def encoder() -> tuple[str, dict[str, str]]:
    """The best codec that this FFmpeg can write, and its options."""
    codec = next(name for name in QUALITY if name in av.codecs_available)
    return codec, dict(QUALITY[codec])


def _write(
    video: Video,
    path: Path,
    suffix: str,
    labels_at: Callable[[float], Sequence[Prediction]],
    progress: Progress | None,
) -> None:
    progress = progress or Progress()
    times = video.seconds()
    height, width = (side + side % 2 for side in video.size)
    rate = Fraction(video.frame_rate or 25).limit_denominator(1001)
    codec, options = encoder()
    kind = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[suffix]
    progress.start("frames written", video.frame_count)
    try:
        with av.open(str(path), "w", format=kind) as container:
            stream: Any = container.add_stream(codec, rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS)
            colours = _same_looks(video, stream.codec_context)
            for index, picture in video.walk(range(video.frame_count)):
                answers = tuple(labels_at(float(times[index])))
                frame = _padded(burn(picture, answers) if answers else picture)
                encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                encoded = encoded.reformat(format="yuv420p", dst_colorspace=colours)
                encoded.pts, encoded.time_base = round(float(times[index]) * TICKS), Fraction(1, TICKS)
                container.mux(stream.encode(encoded))
                progress.advance(1)
            container.mux(stream.encode())
    finally:
        progress.finish()


def _same_looks(video: Video, context: Any) -> Colorspace:
    """Shape of the pixels and colours as the file tells them; returns how its colours become bytes again."""
    # Of a part, that of the whole; other decoders and folders of pictures have none.
    stream = getattr(getattr(video, "_video", video), "_stream", None)
    if stream is None:
        return Colorspace.ITU601
    shape, told = stream.sample_aspect_ratio, stream.codec_context
    if shape:
        exchanged = video.size != (told.height, told.width)
        context.sample_aspect_ratio = 1 / shape if exchanged else shape
    context.color_primaries, context.color_trc, context.colorspace = (
        told.color_primaries,
        told.color_trc,
        told.colorspace,
    )
    if told.colorspace in TV:
        return Colorspace.ITU601  # also where nothing is told: decoding took it for that
    # BT.709, and newer ones, which this converter cannot write.
    context.colorspace = int(Colorspace.ITU709)
    return Colorspace.ITU709


def burn(picture: Frames, answers: Sequence[Prediction]) -> Frames:
    """The picture, uint8 [H, W, 3], with a panel of labels in its lower left corner, if it is not tiny; a new array."""
    if min(picture.shape[:2]) < SMALLEST:
        return np.array(picture)
    panel, cover = _panel(picture.shape[0], picture.shape[1], tuple(answers[:SHOWN]))
    rows, columns = cover.shape[:2]
    out = np.array(picture)
    margin = max(picture.shape[0] // 60, 2)
    bottom = picture.shape[0] - margin
    part = out[bottom - rows : bottom, margin : margin + columns]
    part[...] = (part * (1 - cover) + panel * cover + 0.5).astype(np.uint8)
    return out


# Fast: a panel is drawn once for all frames that show it: 0.1 ms a frame in place of 2 ms.
@lru_cache(maxsize=8)
def _panel(
    height: int, width: int, answers: tuple[Prediction, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Colours [h, w, 3] in 0..255 and how much they cover [h, w, 1] in 0..1: white on dark, readable on anything."""
    size = max(round(min(height, width * 0.75) / 20), 9)
    row, edge, margin = round(size * 1.45), round(size * 0.6), max(height // 60, 2)
    # As many as leave half of the picture free, and at least the best.
    answers = answers[: max((height // 2 - 2 * edge) // row, 1)]
    font = ImageFont.load_default(size)
    scores = [f"{answer.score:.0%}" for answer in answers]
    tail, bar = round(font.getlength("100%")) + edge, size * 4
    room = width - 2 * margin - 2 * edge - tail
    bar = bar if room - bar > size * 8 else 0  # no bar where there is hardly room for the label
    names = [shortened(answer.label, font, max(room - bar - edge, size)) for answer in answers]
    longest = max(round(font.getlength(name)) for name in names)
    across = min(longest + (bar + edge if bar else 0) + tail + 2 * edge, width - 2 * margin)
    down = min(row * len(answers) + edge, height - 2 * margin)
    sheet = Image.new("RGBA", (across, down), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.rounded_rectangle((0, 0, across - 1, down - 1), round(size * 0.4), PANEL)
    for place, (name, answer, score) in enumerate(zip(names, answers, scores, strict=True)):
        y = edge // 2 + place * row
        middle = y + row // 2
        shade = INK if place == 0 else (214, 219, 226, 255)
        pen.text((edge, middle), name, shade, font, anchor="lm")
        if bar:
            left = across - edge - tail - bar
            box = (left, middle - size // 5, left + bar, middle + size // 5)
            pen.rectangle(box, TRACK)
            pen.rectangle((*box[:2], left + round(bar * min(answer.score, 1.0)), box[3]), FILL)
        pen.text((across - edge, middle), score, shade, font, anchor="rm")
    pixels = np.asarray(sheet, np.float32)
    return pixels[..., :3], pixels[..., 3:] / np.float32(255)


def _padded(picture: Frames) -> Frames:
    """The picture with even sides; what is added is like its edge."""
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
