"""The film: the video plays and halts where the model looked, with the heat of that frame over it.

Between the frames that it read the model saw nothing, so there the heat fades away and the plain picture shows: half a
second of heat a frame it read, below it a bar for each and where in the video one is. A long video runs quicker.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw

from muybridge.explain.colours import FAINT, HINDERS, INK, LINE, MATTERS, PAPER, POINT, heated
from muybridge.explain.explanation import Explanation, Frames
from muybridge.explain.picture import LEAST, font, grown, ring
from muybridge.predicting.annotate import encoder
from muybridge.predicting.draw import shortened
from muybridge.predicting.reading import open_given

HALT = 0.6  # seconds at every frame that the model read
PLAYED = 12.0  # seconds that the rest may take
RATE, FASTEST = 12, 30  # frames a second where the video does not tell, and at most
FADE = 0.3  # of the way to the next frame that the model read
TALLEST, WIDEST, NARROWEST = 432, 768, 480  # pixels
HEAD, FOOT, EDGE = 50, 100, 16
MEMORY = 256e6  # bytes of frames that are read at once


def write_film(explanation: Explanation, path: Path) -> None:
    """Write the film in mp4, as H.264 where there is an encoder of it.

    Raises:
        VideoError: the video can no longer be read.
    """
    count, rate = _length(explanation)
    shown, plays, speed = plan(count, rate, [frame.index for frame in explanation.frames])
    halt = round(HALT * plays)
    stage = Stage(explanation, count, speed)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        codec, options = encoder()
        stream: Any = container.add_stream(codec, rate=plays, options=options)
        stream.width, stream.height, stream.pix_fmt = stage.width, stage.height, "yuv420p"
        with closing(_pictures(explanation, shown)) as pictures:
            for index, picture in pictures:
                page = av.VideoFrame.from_ndarray(stage.draw(index, picture), format="rgb24")
                for _ in range(1 + halt * (index in stage.read)):
                    container.mux(stream.encode(page))
        container.mux(stream.encode())


def plan(count: int, rate: float, read: Sequence[int]) -> tuple[list[int], Fraction, float]:
    """Which frames of a video are shown, at how many a second, and how many times as fast as it is that plays it.

    Args:
        count: frames of the video.
        rate: of them a second.
        read: those that are shown in any case.
    """
    every = max(1, round(rate / FASTEST))
    step = max(every, math.ceil(count / (PLAYED * rate / every)))
    shown = sorted({*range(0, count, step), *read})
    return shown, Fraction(rate / every).limit_denominator(1000), step / every


class Stage:
    """Everything that stays in place: sizes, words, bars; `draw` puts a picture onto it."""

    def __init__(self, explanation: Explanation, count: int, speed: float) -> None:
        self.explanation, self.count = explanation, count
        self.read = {frame.index: t for t, frame in enumerate(explanation.frames)}
        self.places = np.array(sorted(self.read))
        height, width = explanation.pictures.shape[1:3]
        self.scale = min(TALLEST / height, WIDEST / width)
        self.size = (max(2, round(height * self.scale)), max(2, round(width * self.scale)))
        self.width = (max(self.size[1], NARROWEST) + 2 * EDGE) // 2 * 2
        self.height = (HEAD + self.size[0] + FOOT) // 2 * 2
        self.heat = explanation.heat
        top, left, tall, wide = (round(self.scale * number) for number in explanation.box)
        self.box = (top, left, min(tall, self.size[0] - top), min(wide, self.size[1] - left))
        self.page = self._page(speed)

    def draw(self, index: int, picture: Frames) -> Frames:
        """The whole page for frame `index` of the video, `picture` [H, W, 3]."""
        image = Image.fromarray(np.ascontiguousarray(picture))
        small = np.asarray(image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)).copy()
        t, strength = self._nearest(index)
        top, left, tall, wide = self.box
        known = bool(torch.isfinite(self.heat[t]).all())
        if strength and known:
            part = small[top : top + tall, left : left + wide]
            heat = grown(self.heat[t], (tall, wide))
            small[top : top + tall, left : left + wide] = heated(part, heat, strength)
        page = self.page.copy()
        across = (self.width - self.size[1]) // 2
        page.paste(Image.fromarray(small), (across, HEAD))
        pen = ImageDraw.Draw(page)
        if self.box[2:] != self.size:  # the model does not see what lies outside
            corners = (across + left, HEAD + top, across + left + wide - 1, HEAD + top + tall - 1)
            pen.rectangle(corners, outline=(255, 255, 255))
        if index in self.read:
            pen.rectangle((across, HEAD, across + self.size[1] - 1, HEAD + self.size[0] - 1), outline=MATTERS, width=3)
            self._points(pen, t, (across + left, HEAD + top, wide, tall))
        self._below(pen, index, t if index in self.read else None)
        return np.asarray(page)

    def _nearest(self, index: int) -> tuple[int, float]:
        """The frame that the model read which is nearest, and how much of its heat shows."""
        nearest = int(self.places[np.abs(self.places - index).argmin()])
        gap = max(1.0, (self.places[-1] - self.places[0]) / max(1, len(self.places) - 1))
        return self.read[nearest], max(0.0, 1 - abs(index - nearest) / (FADE * gap))

    def _page(self, speed: float) -> Image.Image:
        page = Image.new("RGB", (self.width, self.height), PAPER)
        pen = ImageDraw.Draw(page)
        big, small = font(22), font(13)
        pen.text((self.width - EDGE, 12), f"{self.explanation.score:.1%}", MATTERS, big, anchor="ra")
        pen.text((EDGE, 12), shortened(self.explanation.label, big, self.width - 2 * EDGE - 90), INK, big)
        words = f"heat: {self.explanation.name}"
        asked = self.explanation.frames[0].importance is not None
        words += "; bars: probability lost without the frame" if asked else "; bars: share of the heat"
        if speed > 1:
            words += f"; plays {speed:.3g} times as fast"
        bottom = HEAD + self.size[0] + FOOT - 20
        pen.text((EDGE, bottom), shortened(words, small, self.width - 2 * EDGE), FAINT, small)
        return page

    def _below(self, pen: ImageDraw.ImageDraw, index: int, now: int | None) -> None:
        base, tall = HEAD + self.size[0] + 52, 38
        pen.line((EDGE, base, self.width - EDGE, base), LINE, 2)
        frames = self.explanation.frames
        values = [(frame.share if frame.importance is None else frame.importance) or 0.0 for frame in frames]
        most = max(*(abs(value) for value in values), LEAST) if len(values) > 1 else max(abs(values[0]), LEAST)
        half = max(2, min(9, (self.width - 2 * EDGE) // (4 * len(frames))))
        for t, value in enumerate(values):
            x = self._across(frames[t].index)
            # What hinders is drawn upwards too, in its own colour: below is no room.
            end = base - max(1, round(tall * abs(value) / most))
            colour = MATTERS if value >= 0 else HINDERS
            if t != now:
                colour = tuple((part + 2 * 255) // 3 for part in colour)  # type: ignore[assignment]
            pen.rectangle((x - half, end, x + half, base), colour)
        x = self._across(index)
        pen.line((x, base - tall - 4, x, base + 6), INK, 2)
        seconds = self._seconds(index)
        if seconds:
            anchor = "ma" if 30 < x < self.width - 30 else ("la" if x <= 30 else "ra")
            pen.text((x, base + 7), seconds, INK, font(12), anchor=anchor)

    def _across(self, index: int) -> int:
        return EDGE + 10 + round((self.width - 2 * EDGE - 20) * index / max(1, self.count - 1))

    def _seconds(self, index: int) -> str:
        """When the frame is shown, as far as the frames that were read tell."""
        known = [(frame.index, frame.seconds) for frame in self.explanation.frames if frame.seconds is not None]
        (a, start), (b, end) = (min(known), max(known)) if known else ((0, 0.0), (0, 0.0))
        for frame, seconds in known:
            if frame == index:
                return f"{seconds:.2f} s"
        return f"{start + (end - start) * (index - a) / (b - a):.2f} s" if b > a else ""

    def _points(self, pen: ImageDraw.ImageDraw, t: int, place: tuple[int, int, int, int]) -> None:
        """Where this frame is aligned with the one before and with the one after."""
        points = self.explanation.points.get(self.explanation.name)
        if points is None:
            return
        left, top, wide, tall = place
        here = [points[t - 1, 1]] if t else []
        here += [points[t, 0]] if t < len(points) else []
        for point in here:
            x, y = ((point + 1) / 2).tolist()
            ring(pen, (left + x * wide, top + y * tall), POINT, 7)


def _length(explanation: Explanation) -> tuple[int, float]:
    """How many frames the video has, and how many a second."""
    if not isinstance(explanation.source, str):
        return len(explanation.source), RATE
    with open_given(explanation.source, explanation.reading) as opened:
        return opened.frame_count, opened.frame_rate or RATE


def _pictures(explanation: Explanation, shown: list[int]) -> Generator[tuple[int, Frames], None, None]:
    """The frames to be shown, each with its index, few enough of them at a time."""
    if not isinstance(explanation.source, str):
        for index in shown:
            yield index, explanation.source[index]
        return
    allowed = min(MEMORY, 1e6 * explanation.reading.megabytes or MEMORY)
    at_once = max(1, int(allowed // explanation.pictures[0].nbytes))
    with open_given(explanation.source, explanation.reading) as opened:
        for start in range(0, len(shown), at_once):
            part = shown[start : start + at_once]
            yield from zip(part, opened.read(part), strict=True)
