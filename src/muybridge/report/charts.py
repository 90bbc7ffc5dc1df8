"""Small charts as SVG text. Colours are variables of the page, so that they follow its light or dark scheme."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from muybridge.engine.metrics import wilson_interval
from muybridge.report.markup import Markup, join, tag

WIDTH, HEIGHT = 400, 220  # of a line chart, in its own units; text of 11 of them can be read on a telephone
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 22
SERIES = ("--s1", "--s2", "--s3", "--s4", "--s5", "--s6")
DASHES = (None, "7 3", "2 3", "9 3 2 3")  # besides colours, for those who do not tell these apart
FEW_CLASSES = 25  # of which a confusion matrix can be labelled
HOT, COOL = (214, 78, 60), (38, 140, 110)  # wrong and right, readable on white and on black

Points = Sequence[tuple[float, float]]


def percent(value: float) -> str:
    """A share, as short as it can be."""
    return f"{value * 100:.3g} %"


def number(value: float) -> str:
    """A number, as short as it can be."""
    return f"{value / 1000:.3g}k" if 1e4 <= abs(value) < 1e7 else f"{value:.3g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) from at most `low` to at least `high`."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def line_chart(
    title: str,
    series: Mapping[str, Points],
    write: Callable[[float], str] = number,
    bounds: tuple[float | None, float | None] = (0.0, None),
    x_name: str = "epoch",
) -> Markup:
    """A figure with one line for each series.

    Args:
        title: above it.
        series: name -> points (x, y); what is not finite is left out.
        write: how a value is written.
        bounds: what the y axis shows at least; None: what the points need.
        x_name: of the x axis.
    """
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return Markup("")
    every = [p for points in kept.values() for p in points]
    xs, ys = [p[0] for p in every], [p[1] for p in every]
    low, high = (bound for bound in bounds)
    marks = ticks(min([*ys, *([low] if low is not None else [])]), max([*ys, *([high] if high is not None else [])]))
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if max(xs) > left else 0.5
        up = (y - marks[0]) / (marks[-1] - marks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for mark in marks:
        y = place(left, mark)[1]
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", write(mark), x=LEFT - 6, y=f"{y + 4:.1f}", class_="tick", text_anchor="end"))
    for x in _whole(left, max(xs)):
        parts.append(
            tag("text", f"{x:g}", x=f"{place(x, marks[0])[0]:.1f}", y=HEIGHT - 4, class_="tick", text_anchor="middle")
        )
    parts.append(tag("text", x_name, x=LEFT - 10, y=HEIGHT - 4, class_="tick", text_anchor="end"))
    for index, (name, points) in enumerate(kept.items()):
        colour, dash = f"var({SERIES[index % len(SERIES)]})", DASHES[index // len(SERIES) % len(DASHES)]
        where = [place(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        parts.append(tag("polyline", points=path, class_="line", style=f"stroke:{colour}", stroke_dasharray=dash))
        seen = len(points) <= 40
        for (x, y), point in zip(where, points, strict=True):
            told = tag("title", f"{name}, {x_name} {point[0]:g}: {write(point[1])}")
            radius = 2.6 if seen else 5
            style = f"fill:{colour}" if seen else "fill:transparent"
            parts.append(tag("circle", told, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, style=style))
    picture = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {', '.join(kept)}")
    last = {name: points[-1][1] for name, points in kept.items()}
    keys = [
        tag(
            "span",
            tag("i", style=f"background:var({SERIES[i % len(SERIES)]})"),
            f"{name} ",
            tag("b", write(last[name])),
        )
        for i, name in enumerate(kept)
    ]
    return tag("figure", tag("figcaption", tag("strong", title), *keys), picture, class_="chart")


def _whole(low: float, high: float) -> list[float]:
    """At most seven whole numbers from `low` to `high`."""
    step = max(math.ceil((high - low) / 6), 1)
    for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if size >= step:
            step = size
            break
    first = [math.ceil(low)] if low == high or math.ceil(low) % step else []
    return [*first, *(x for x in range(math.ceil(low), math.floor(high) + 1) if x % step == 0 and x not in first)]


def share_bar(right: int, count: int) -> Markup:
    """A bar for a share of some videos, with the 95 % interval on it."""
    low, high = wilson_interval(right, count)
    share = right / count if count else 0.0
    interval = tag("b", style=f"left:{low:.1%};width:{high - low:.1%}")
    told = f"{right} of {count}; 95 % interval {low:.1%} to {high:.1%}"
    return tag("div", tag("i", style=f"width:{share:.1%}"), interval, class_="bar", title=told)


def plain_bar(share: float) -> Markup:
    """A bar for a share."""
    return tag("div", tag("i", style=f"width:{min(max(share, 0), 1):.1%}"), class_="bar")


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """Rows are true classes, columns predicted ones.

    Args:
        counts: [K, K] whole numbers.
        names: K class names. Up to `FEW_CLASSES` they stand beside the matrix, and counts in it; of more there is a
            picture with a point for each pair.
    """
    if len(names) > FEW_CLASSES:
        return _matrix_picture(counts)
    size, gap, beyond = 30, 178, 96  # a cell, names on the left and above, slanted names on the right
    side = gap + size * len(names)
    parts = []
    totals = counts.sum(axis=1)
    for row, name in enumerate(names):
        middle = gap + row * size + size / 2
        full = tag("title", name)
        parts.append(tag("text", full, short(name, 24), x=gap - 8, y=middle + 4, class_="tick", text_anchor="end"))
        turn = f"translate({middle + 4} {gap - 8}) rotate(-55)"
        parts.append(tag("text", full, short(name, 24), transform=turn, class_="tick"))
        for column, other in enumerate(names):
            count = int(counts[row, column])
            share = count / totals[row] if totals[row] else 0.0
            kind = "empty" if not count else "right" if row == column else "wrong"
            told = tag("title", f"{name}, taken for {other}: {count} ({share:.1%})")
            box = {"x": gap + column * size + 1, "y": gap + row * size + 1, "width": size - 2, "height": size - 2}
            opacity = None if not count else f"{0.15 + 0.85 * share:.2f}"
            parts.append(tag("rect", told, **box, rx=3, class_=kind, fill_opacity=opacity))
            if count:
                where = {"x": gap + column * size + size / 2, "y": middle + 4}
                strong = "count full" if share > 0.7 else "count"
                parts.append(tag("text", told, count, **where, class_=strong, text_anchor="middle"))
    view, widest = f"0 0 {side + beyond} {side + 2}", 1.15 * (side + beyond)
    return tag("svg", *parts, viewBox=view, class_="matrix", style=f"max-width:{widest:.0f}px", role="img")


def _matrix_picture(counts: np.ndarray) -> Markup:
    """A point for each pair of classes, as PNG with transparency: 400 classes would be 160,000 elements of SVG."""
    from PIL import Image

    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    # Few videos among many cells: even one of fifty must be seen.
    alpha = np.where(counts > 0, 70 + 185 * np.sqrt(share), 0)
    pixels = np.zeros((*counts.shape, 4), np.uint8)
    pixels[..., :3] = HOT
    pixels[np.arange(len(counts)), np.arange(len(counts)), :3] = COOL
    pixels[..., 3] = alpha.astype(np.uint8)
    picture = Image.fromarray(pixels, "RGBA")
    scale = max(round(900 / len(counts)), 1)
    picture = picture.resize((len(counts) * scale,) * 2, Image.Resampling.NEAREST)
    alt = f"Confusion matrix of {len(counts)} classes: rows true, columns predicted, in the order of the class list"
    return tag("img", src=data_address(picture, "PNG"), alt=alt, class_="matrix")


def data_address(picture: object, kind: str, **options: object) -> str:
    """A picture of Pillow within the page itself."""
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[attr-defined]
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def short(text: str, most: int) -> str:
    """At most so many letters; in place of those in the middle an ellipsis, as names of classes often begin alike."""
    if len(text) <= most:
        return text
    tail = most // 2 + 1
    return f"{text[: most - tail - 1].rstrip()}…{text[-tail:].lstrip()}"


def legend(*entries: tuple[str, str]) -> Markup:
    """(class of a swatch, what it means), ..."""
    return tag("p", *(join(tag("i", class_=f"swatch {kind}"), f"{text} ") for kind, text in entries), class_="legend")
