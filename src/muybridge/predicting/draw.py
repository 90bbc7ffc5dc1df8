"""Answers and timelines as pictures, by Pillow: its built-in font, no other library."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from muybridge.predicting.timeline import clock
from muybridge.structures import Prediction

if TYPE_CHECKING:
    from muybridge.predicting.timeline import Timeline

INK, GREY, PAPER, TRACK, BLUE = (28, 32, 38), (104, 112, 122), (255, 255, 255), (230, 233, 238), (47, 111, 222)
ROW, EDGE, SIZE = 30, 16, 15  # pixels
MOST_ROWS = 20
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000)  # seconds

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_bars(predictions: Sequence[Prediction], width: int = 640, title: str = "", error: str = "") -> Image.Image:
    """A row a class: label, bar, score.

    Args:
        predictions: best first.
        width: in pixels.
        title: what stands above; empty: nothing.
        error: what stands in place of the rows.
    """
    font, top = ImageFont.load_default(SIZE), EDGE + (ROW if title else 0)
    rows = max(len(predictions), 1)
    sheet = Image.new("RGB", (width, top + rows * ROW + EDGE), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((EDGE, EDGE + 4), shortened(title, font, width - 2 * EDGE, keep_end=True), GREY, font)
    if error:
        pen.text((EDGE, top + 6), shortened(f"cannot be read: {error}", font, width - 2 * EDGE), INK, font)
        return sheet
    names = [shortened(answer.label, font, width // 2 - EDGE) for answer in predictions]
    left = EDGE + max((round(font.getlength(name)) for name in names), default=0) + 12
    right = width - EDGE - round(font.getlength("100.0%")) - 10
    for row, (name, answer) in enumerate(zip(names, predictions, strict=True)):
        y = top + row * ROW
        pen.text((EDGE, y + 6), name, INK, font)
        pen.rounded_rectangle((left, y + 8, right - 1, y + 21), 4, TRACK)
        reach = left + round((right - left) * min(max(answer.score, 0.0), 1.0))
        if reach > left:
            pen.rounded_rectangle((left, y + 8, max(reach - 1, left + 2), y + 21), 4, BLUE)
        pen.text((width - EDGE, y + 6), f"{answer.score:.1%}", INK, font, anchor="ra")
    return sheet


def draw_timeline(line: Timeline, width: int = 960) -> Image.Image:
    """A row a class, those that are seen longest first, with its segments along the time; strong where likely."""
    font, small = ImageFont.load_default(SIZE), ImageFont.load_default(12)
    seen: dict[str, float] = {}
    for segment in line:
        seen[segment.label] = seen.get(segment.label, 0.0) + segment.end - segment.start
    shown = sorted(seen, key=lambda label: -seen[label])[:MOST_ROWS]
    more = len(seen) - len(shown)
    top = EDGE + (ROW if line.video else 0)
    bottom = top + max(len(shown), 1) * ROW
    sheet = Image.new("RGB", (width, bottom + 34 + (20 if more else 0)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if line.video:
        pen.text((EDGE, EDGE + 4), shortened(line.video, font, width - 2 * EDGE, keep_end=True), GREY, font)
    if line.error or not shown:
        pen.text((EDGE, top + 6), shortened(line.lines()[0].strip(), font, width - 2 * EDGE), INK, font)
        return sheet
    names = {label: shortened(label, font, width // 3) for label in shown}
    left = EDGE + max(round(font.getlength(name)) for name in names.values()) + 12
    right = width - EDGE - 10
    scale = (right - left) / max(line.duration, 1e-9)
    step = next((tick for tick in TICKS if line.duration / tick <= max((right - left) // 80, 1)), line.duration)
    for number in range(int(line.duration / step + 1e-6) + 1):
        x = left + round(number * step * scale)
        pen.line((x, top, x, bottom), TRACK)
        pen.text((x, bottom + 6), _tick(number * step, step), GREY, small, anchor="ma")
    for row, label in enumerate(shown):
        y = top + row * ROW
        pen.text((EDGE, y + 6), names[label], INK, font)
        pen.line((left, y + ROW - 1, right, y + ROW - 1), TRACK)
        colour = colour_of(row)
        for segment in (segment for segment in line if segment.label == label):
            begin, end = left + round(segment.start * scale), left + round(segment.end * scale)
            strength = 0.25 + 0.75 * segment.score
            faded = tuple(round(255 - (255 - part) * strength) for part in colour)
            pen.rectangle((begin, y + 6, max(end - 1, begin + 1), y + 23), faded)
    if more:
        pen.text((EDGE, bottom + 28), f"and {more} more classes", GREY, small)
    return sheet


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour, unlike those of the numbers beside it."""
    red, green, blue = colorsys.hls_to_rgb((0.6 + number * 0.381966) % 1, 0.46, 0.68)
    return round(255 * red), round(255 * green), round(255 * blue)


def shortened(text: str, font: Font, width: float, keep_end: bool = False) -> str:
    """The text, or as much of it as fits into `width` pixels with three dots; of a path the end is kept."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the most characters that fit
        middle = (low + high + 1) // 2
        part = f"...{text[-middle:]}" if keep_end else f"{text[:middle]}..."
        low, high = (middle, high) if font.getlength(part) <= width else (low, middle - 1)
    if not low:
        return ""
    return f"...{text[-low:]}" if keep_end else f"{text[:low].rstrip()}..."


def _tick(seconds: float, step: float) -> str:
    return clock(seconds) if step < 1 else clock(seconds).rpartition(".")[0]
