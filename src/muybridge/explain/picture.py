"""The still: the frames in a row, the heat over them, a bar for how much each mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from muybridge.explain.colours import FAINT, HINDERS, INK, LINE, MATTERS, PAPER, POINT, Rgb, Values, colours_of, heated
from muybridge.predicting.draw import Font, shortened

if TYPE_CHECKING:
    from muybridge.explain.explanation import Explanation, Frames

COLUMNS = 8  # frames in a row
TILE, GAP, MARGIN = 150, 6, 28  # pixels
BARS = 64  # height of the tallest bar
LEAST = 0.01  # one point of probability: no bar grows above its worth because all are small


def draw_sheet(explanation: Explanation) -> Image.Image:
    """The whole still, RGB; as wide as up to eight frames."""
    count = len(explanation.frames)
    columns = min(count, COLUMNS)
    # A few frames are drawn larger, so that the words above them have room.
    tile = max(TILE, (5 * TILE + 4 * GAP) // columns - GAP)
    _, _, height, width = explanation.box
    tall = max(1, round(tile * height / width))
    rows = [range(start, min(start + columns, count)) for start in range(0, count, columns)]
    bars = _bars(explanation)
    rooms = [_room(bars, row) for row in rows]
    blocks = [18 + 2 * (tall + GAP) + up + down + 12 for up, down in rooms]
    wide = 2 * MARGIN + columns * (tile + GAP) - GAP
    notes = [line for note in explanation.notes for line in wrapped(note, font(13), wide - 2 * MARGIN)]
    top = 124
    sheet = Image.new("RGB", (wide, top + sum(blocks) + 66 + 18 * len(notes)), PAPER)
    pen = ImageDraw.Draw(sheet)
    _header(pen, explanation, wide)
    for number, row in enumerate(rows):
        _draw_row(sheet, pen, explanation, row, bars, (top + sum(blocks[:number]), tile, tall, rooms[number][0]))
    foot = top + sum(blocks) + 4
    _legend(sheet, pen, explanation, foot, bars is not None)
    for number, line in enumerate(notes):
        pen.text((MARGIN, foot + 50 + 18 * number), line, FAINT, font(13))
    return sheet


def font(size: float) -> Font:
    """Pillow's own font in that size, in pixels."""
    return ImageFont.load_default(size)


def wrapped(text: str, face: Font, room: float) -> list[str]:
    """`text` in lines that have room."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def cropped(picture: Frames, box: tuple[float, float, float, float], size: tuple[int, int]) -> Frames:
    """What lies in `box` (top, left, height, width) of a picture [H, W, 3], resized to `size` (height, width)."""
    top, left, height, width = box
    image = Image.fromarray(np.ascontiguousarray(picture))
    part = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, (left, top, left + width, top + height))
    return np.asarray(part)


def grown(heat: Tensor, size: tuple[int, int]) -> Values:
    """A map [rows, columns] at the size (height, width) of a picture, smooth between the middles of the patches."""
    rows = torch.nn.functional.interpolate(heat[None, None], size, mode="bicubic", align_corners=False)
    return rows[0, 0].clamp(0, 1).numpy()


def _header(pen: ImageDraw.ImageDraw, explanation: Explanation, wide: int) -> None:
    room = wide - 2 * MARGIN
    score = f"{explanation.score:.1%}"
    big = font(28)
    pen.text((MARGIN, 20), shortened(explanation.label, big, room - 110), INK, big)
    pen.text((wide - MARGIN, 20), score, MATTERS, big, anchor="ra")
    pen.rectangle((MARGIN, 58, wide - MARGIN, 62), LINE)
    pen.rectangle((MARGIN, 58, MARGIN + round(room * explanation.score), 62), MATTERS)
    others = [f"{one.label} {one.score:.1%}" for one in explanation.predictions if one.index != explanation.index]
    words = f"{explanation.model} on {explanation.title}, {len(explanation.frames)} frames"
    if others:
        first = explanation.predictions[0].index == explanation.index
        words += f".  {'Next' if first else 'It says'}: {', '.join(others)}"
    pen.text((MARGIN, 72), shortened(words, font(14), room), FAINT, font(14))
    pen.text((MARGIN, 94), "Frames as the model reads them; below, the heat: " + explanation.name, FAINT, font(14))


def _bars(explanation: Explanation) -> Values | None:
    """What each frame's bar shows: the fall of the probability, else its share of the map; None: nothing is known."""
    importance = [frame.importance for frame in explanation.frames]
    if None not in importance:
        return np.array(importance, np.float32)
    shares = np.array([frame.share or 0.0 for frame in explanation.frames], np.float32)
    return shares if shares.any() else None


def _room(bars: Values | None, row: range) -> tuple[int, int]:
    """Pixels above and below the line on which a row's bars stand, their figures with them."""
    if bars is None:
        return 0, 0
    most = max(float(np.abs(bars).max()), LEAST)
    here = bars[row.start : row.stop]
    up, down = (max(float((sign * here).max()), 0.0) for sign in (1, -1))
    return round(BARS * up / most) + 18, round(BARS * down / most) + 18 if in_points(down) != "0.0" else 4


def in_points(share: float) -> str:
    """A share of 1 in hundredths, without a minus before 0."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def _draw_row(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    explanation: Explanation,
    row: range,
    bars: Values | None,
    place: tuple[int, int, int, int],
) -> None:
    top, tile, tall, up = place
    heat = explanation.heat
    for column, t in enumerate(row):
        left, frame = MARGIN + column * (tile + GAP), explanation.frames[t]
        words = f"frame {frame.index}"
        if frame.seconds is not None:
            words += f", {frame.seconds:.2f} s"
        pen.text((left, top), shortened(words, font(12), tile), FAINT, font(12))
        picture = cropped(explanation.pictures[t], explanation.box, (tall, tile))
        sheet.paste(Image.fromarray(picture), (left, top + 18))
        if torch.isfinite(heat[t]).all():
            sheet.paste(Image.fromarray(heated(picture, grown(heat[t], (tall, tile)))), (left, top + 18 + tall + GAP))
        else:
            below = top + 18 + tall + GAP
            pen.rectangle((left, below, left + tile - 1, below + tall - 1), (244, 244, 246))
            pen.text((left + tile / 2, below + tall / 2), "not read", FAINT, font(12), anchor="mm")
    _draw_points(pen, explanation, row, (top + 18 + tall + GAP, tile, tall))
    if bars is not None:
        base = top + 18 + 2 * (tall + GAP) + up
        pen.line((MARGIN, base, MARGIN + len(row) * (tile + GAP) - GAP, base), LINE)
        most = max(float(np.abs(bars).max()), LEAST)
        for column, t in enumerate(row):
            left = MARGIN + column * (tile + GAP) + tile // 4
            end = base - round(BARS * float(bars[t]) / most)
            if in_points(float(bars[t])) == "0.0":
                end = base
            if end != base:
                colour = MATTERS if end < base else HINDERS
                pen.rectangle((left, min(base, end), left + tile // 2, max(base, end)), colour)
            at = (left + tile / 4, end - 3 if end <= base else end + 3)
            pen.text(at, in_points(float(bars[t])), INK, font(13), anchor="mb" if end <= base else "mt")


def _draw_points(pen: ImageDraw.ImageDraw, explanation: Explanation, row: range, place: tuple[int, int, int]) -> None:
    """An arrow from the point in a frame to the one that belongs to it in the next."""
    points = explanation.points.get(explanation.name)
    if points is None:
        return
    top, tile, tall = place

    def at(column: int, point: Tensor) -> tuple[float, float]:
        x, y = ((point + 1) / 2).tolist()
        return MARGIN + column * (tile + GAP) + x * tile, top + y * tall

    for column, t in enumerate(row[:-1]):
        arrow(pen, at(column, points[t, 0]), at(column + 1, points[t, 1]))
    # The frames between two rows belong together too.
    if row.start:
        ring(pen, at(0, points[row.start - 1, 1]), POINT)
    if row.stop < len(explanation.frames):
        ring(pen, at(len(row) - 1, points[row.stop - 1, 0]), POINT)


def ring(pen: ImageDraw.ImageDraw, centre: tuple[float, float], colour: Rgb, radius: int = 5) -> None:
    """A ring with a dark edge, which shows on any ground."""
    x, y = centre
    pen.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), outline=INK, width=4)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)


def arrow(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A ring at both ends and an arrow from one to the other."""
    begin, stop = np.array(start), np.array(end)
    length = float(np.linalg.norm(stop - begin))
    if length > 18:
        way = (stop - begin) / length
        across = np.array([-way[1], way[0]])
        first, last = begin + 6 * way, stop - 7 * way
        head = [last, last - 9 * way + 4.5 * across, last - 9 * way - 4.5 * across]
        for colour, width in ((INK, 4), (POINT, 2)):
            pen.line([*first, *(last - 4 * way)], colour, width)
        pen.polygon([tuple(map(float, corner)) for corner in head], POINT, INK)
    ring(pen, start, POINT)
    ring(pen, end, POINT)


def _legend(sheet: Image.Image, pen: ImageDraw.ImageDraw, explanation: Explanation, top: int, bars: bool) -> None:
    ramp = np.linspace(0, 1, 200, dtype=np.float32)[None].repeat(10, axis=0)
    sheet.paste(Image.fromarray(colours_of(ramp)), (MARGIN, top + 4))
    low, high = explanation.heat_range
    mean = float(explanation.map.nanmean()) or 1.0
    small = font(12)
    pen.text((MARGIN, top + 18), f"{low / mean:.1f}", FAINT, small)
    pen.text((MARGIN + 200, top + 18), f"{high / mean:.1f}", FAINT, small, anchor="ra")
    pen.text((MARGIN + 100, top + 18), "times the mean patch", FAINT, small, anchor="ma")
    if bars:
        asked = explanation.frames[0].importance is not None
        words = "share of the heat, in %"
        if asked:
            words = "points of probability that the class loses where the frame is replaced by its neighbours"
        room = sheet.width - 2 * MARGIN - 240
        for number, line in enumerate(wrapped(f"Bars: {words}.", font(13), room)[:2]):
            pen.text((MARGIN + 240, top + 1 + 17 * number), line, FAINT, font(13))
