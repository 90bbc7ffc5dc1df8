"""What the demo's films are made of: backgrounds, cloths and toys, drawn by rule and not by photograph.

Training and validation films share nothing here. A split has its own families of background, of pattern and of
outline, its own hues, and (through the generators it is given) its own random numbers; see `SPLITS`.

Letters: S side of a picture in pixels; colours are float32 in [0, 1], pictures [S, S, 3], sprites [S, S, 4] with the
colour multiplied by the opacity.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Plane = NDArray[np.floating[Any]]  # one number a pixel, [S, S]


@dataclass(frozen=True)
class Skin:
    """A pattern in its colours: family, hue in degrees, and the seed of its other draws."""

    family: str
    hue: int
    seed: int


@dataclass(frozen=True)
class Thing:
    """A toy: the family of its outline, and its skin."""

    shape: str
    skin: Skin


@dataclass(frozen=True)
class Material:
    """What one split may draw from."""

    backgrounds: tuple[str, ...]
    patterns: tuple[str, ...]
    shapes: tuple[str, ...]
    hues: tuple[int, ...]


# Every family has its counterpart of the same kind in the other split, so what is learnt can carry over.
SPLITS = {
    "train": Material(
        backgrounds=("planks", "tiles", "clouds", "dots"),
        patterns=("stripes", "spots", "speckles"),
        shapes=("disc", "square", "star", "triangle"),
        hues=(0, 48, 120, 200, 280),
    ),
    "val": Material(
        backgrounds=("bricks", "gingham", "marble", "diagonals"),
        patterns=("chequers", "rings", "zigzags"),
        shapes=("egg", "hexagon", "cross", "heart"),
        hues=(24, 80, 160, 240, 320),
    ),
}


def draw_skin(rng: Generator, families: tuple[str, ...], hues: tuple[int, ...]) -> Skin:
    """A skin at random from these families and hues."""
    return Skin(str(rng.choice(families)), int(rng.choice(hues)), int(rng.integers(2**48)))


def draw_thing(rng: Generator, split: str, hues: tuple[int, ...]) -> Thing:
    """A toy of this split at random."""
    material = SPLITS[split]
    return Thing(str(rng.choice(material.shapes)), draw_skin(rng, material.patterns, hues))


def _colour(hue: float, saturation: float, value: float) -> Picture:
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def _grid(size: int) -> tuple[Plane, Plane]:
    """Rows and columns of a picture's pixel centres, in [-1, 1]."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return line[:, None] + 0 * line, line + 0 * line[:, None]


def _noise(rng: Generator, size: int, rows: int, columns: int) -> Plane:
    """Smooth noise in [0, 1]: a grid of random numbers, interpolated linearly."""

    def weights(cells: int) -> Plane:
        place = np.linspace(0, cells, size, dtype=np.float32)[:, None]
        return np.clip(1 - np.abs(place - np.arange(cells + 1, dtype=np.float32)), 0, 1)

    values = rng.random((rows + 1, columns + 1), dtype=np.float32)
    return weights(rows) @ values @ weights(columns).T


def _cells(rng: Generator, row: Plane, column: Plane) -> Plane:
    """One random number in [0, 1] for every cell of a lattice (the whole parts of `row` and `column`)."""
    table = rng.random((64, 64), dtype=np.float32)
    return table[np.floor(row).astype(int) % 64, np.floor(column).astype(int) % 64]


def _step(x: Plane, width: float) -> Plane:
    """0 below zero, 1 above, with a soft edge `width` wide: hard edges would crawl as things move."""
    return np.clip(x / width + 0.5, 0, 1).astype(np.float32)


def _wave(x: Plane) -> Plane:
    """Triangle wave of period 1, from -1 to 1."""
    return (4 * np.abs(x - np.floor(x) - 0.5) - 1).astype(np.float32)


# A pattern says, for every pixel, how much of the second colour shows: 0 first, 1 second.


def _planks(rng: Generator, y: Plane, x: Plane) -> Plane:
    row = y * rng.uniform(2, 4) + rng.random()
    shade = _cells(rng, row, row * 0) * 0.7
    return np.maximum(shade + 0.2 * _noise(rng, len(x), 60, 3), _step(_wave(row) - 0.82, 0.2))


def _tiles(rng: Generator, y: Plane, x: Plane) -> Plane:
    per = rng.uniform(1.5, 3)
    row, column = y * per + rng.random(), x * per + rng.random()
    return np.maximum(0.6 * _cells(rng, row, column), _step(np.maximum(_wave(row), _wave(column)) - 0.85, 0.2))


def _clouds(rng: Generator, y: Plane, x: Plane) -> Plane:
    size = len(x)
    return np.clip(1.6 * (0.6 * _noise(rng, size, 4, 4) + 0.4 * _noise(rng, size, 10, 10)) - 0.3, 0, 1)


def _dots(rng: Generator, y: Plane, x: Plane) -> Plane:
    per = rng.uniform(2.5, 4.5)
    row, column = y * per + rng.random(), x * per + rng.random()
    far = np.hypot(row - np.floor(row) - 0.5, column - np.floor(column) - 0.5)
    return _step(rng.uniform(0.2, 0.32) - far, 0.12)


def _bricks(rng: Generator, y: Plane, x: Plane) -> Plane:
    per = rng.uniform(2.5, 4)
    row = y * per + rng.random()
    column = x * per * 0.5 + 0.5 * (np.floor(row) % 2) + rng.random()
    return np.maximum(0.6 * _cells(rng, row, column), _step(np.maximum(_wave(row) - 0.8, _wave(column) - 0.9), 0.2))


def _gingham(rng: Generator, y: Plane, x: Plane) -> Plane:
    per = rng.uniform(2, 3.5)
    return 0.5 * (_step(_wave(y * per + rng.random()), 0.3) + _step(_wave(x * per + rng.random()), 0.3))


def _marble(rng: Generator, y: Plane, x: Plane) -> Plane:
    bent = x * rng.uniform(-1, 1) + y * rng.uniform(0.5, 1) + 1.2 * _noise(rng, len(x), 5, 5)
    return (0.5 + 0.5 * _wave(bent * rng.uniform(1, 2))).astype(np.float32)


def _diagonals(rng: Generator, y: Plane, x: Plane) -> Plane:
    slope = rng.choice([-1, 1]) * rng.uniform(0.6, 1.4)
    return _step(_wave((y + slope * x) * rng.uniform(1.2, 2.2) + rng.random()), 0.3)


def _stripes(rng: Generator, y: Plane, x: Plane) -> Plane:
    turn = rng.uniform(0, np.pi)
    return _step(_wave((np.cos(turn) * y + np.sin(turn) * x) * rng.uniform(1, 1.8) + rng.random()), 0.25)


def _speckles(rng: Generator, y: Plane, x: Plane) -> Plane:
    return _step(_noise(rng, len(x), 7, 7) - 0.52, 0.12)


def _chequers(rng: Generator, y: Plane, x: Plane) -> Plane:
    per, turn = rng.uniform(0.8, 1.4), rng.uniform(0, np.pi)
    along, across = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    return _step(_wave(along * per + rng.random()) * _wave(across * per + rng.random()), 0.3)


def _rings(rng: Generator, y: Plane, x: Plane) -> Plane:
    far = np.hypot(y - rng.uniform(-0.4, 0.4), x - rng.uniform(-0.4, 0.4))
    return _step(_wave(far * rng.uniform(1.2, 2) + rng.random()), 0.3)


def _zigzags(rng: Generator, y: Plane, x: Plane) -> Plane:
    bent = y + rng.uniform(0.15, 0.3) * _wave(x * rng.uniform(1, 2) + rng.random())
    return _step(_wave(bent * rng.uniform(1.2, 2) + rng.random()), 0.3)


PATTERNS: dict[str, Callable[[Generator, Plane, Plane], Plane]] = {
    "planks": _planks,
    "tiles": _tiles,
    "clouds": _clouds,
    "dots": _dots,
    "bricks": _bricks,
    "gingham": _gingham,
    "marble": _marble,
    "diagonals": _diagonals,
    "stripes": _stripes,
    "spots": _dots,
    "speckles": _speckles,
    "chequers": _chequers,
    "rings": _rings,
    "zigzags": _zigzags,
}


def background(skin: Skin, size: int) -> Picture:
    """A wall [size, size, 3]: pale and of low contrast, so that the toys stand out."""
    rng = np.random.default_rng(skin.seed)
    amount = PATTERNS[skin.family](rng, *_grid(size))[..., None]
    value = rng.uniform(0.55, 0.9)
    first = _colour(skin.hue, rng.uniform(0.1, 0.35), value)
    second = _colour(skin.hue + rng.uniform(-10, 10), rng.uniform(0.1, 0.4), value - rng.uniform(0.12, 0.25))
    light = 1 + 0.15 * (_noise(rng, size, 2, 2)[..., None] - 0.5)
    return ((first + (second - first) * amount) * light).astype(np.float32)


def cloth(skin: Skin, size: int) -> Picture:
    """A rectangle [size, size, 4] of cloth or painted wood: strong colours and a dark hem."""
    rng = np.random.default_rng(skin.seed)
    y, x = _grid(size)
    picture = _two_colours(rng, skin, y, x)
    picture *= 1 - 0.55 * _step(np.maximum(np.abs(x), np.abs(y)) - 0.93, 0.04)[..., None]
    return np.concatenate([picture, np.ones((size, size, 1), np.float32)], 2)


def toy(thing: Thing, size: int) -> Picture:
    """A sprite [size, size, 4]: a textured shape with a rim, a light from above and a soft shadow."""
    rng = np.random.default_rng(thing.skin.seed)
    y, x = _grid(size)
    y, x = y * 1.12, x * 1.12  # room for the shadow
    picture = _two_colours(rng, thing.skin, y, x)
    tilt, edge = rng.uniform(-0.35, 0.35), 2.4 / size
    inside = _outline(thing.shape, y, x, tilt)
    picture *= (1.02 - 0.22 * y - 0.1 * x)[..., None]
    picture += 0.35 * np.exp(-12 * ((x + 0.3) ** 2 + (y + 0.35) ** 2))[..., None]
    picture *= 1 - 0.7 * _step(0.09 - inside, 0.06)[..., None]
    body = _step(inside, edge)
    shadow = 0.4 * _step(_outline(thing.shape, y - 0.1, x - 0.06, tilt), 0.25) * (1 - body)
    return np.concatenate([np.clip(picture, 0, 1) * body[..., None], (body + shadow)[..., None]], 2).astype(np.float32)


def _two_colours(rng: Generator, skin: Skin, y: Plane, x: Plane) -> Picture:
    """The skin's pattern in a strong colour and a light or dark one."""
    amount = PATTERNS[skin.family](rng, y, x)[..., None]
    first = _colour(skin.hue, rng.uniform(0.75, 1), rng.uniform(0.65, 0.95))
    light = rng.random() < 0.6
    second = _colour(skin.hue + rng.uniform(-10, 10), *((0.2, 0.98) if light else (0.8, 0.4)))
    return (first + (second - first) * amount).astype(np.float32)


def _outline(shape: str, y: Plane, x: Plane, tilt: float) -> Plane:
    """How far inside the shape each pixel is: above 0 inside, below 0 outside; the shape touches radius 1."""
    far, turn = np.hypot(x, y), np.arctan2(x, -y) + tilt

    def polygon(corners: int) -> Plane:
        wedge = (turn + np.pi / corners) % (2 * np.pi / corners) - np.pi / corners
        return np.cos(np.pi / corners) - far * np.cos(np.abs(wedge) - np.pi / corners)

    across, along = far * np.sin(turn), far * np.cos(turn)
    inside: Plane
    if shape == "disc":
        inside = 0.92 - far
    elif shape == "egg":
        inside = 0.9 - np.hypot(across * (1.25 + 0.3 * along), along)
    elif shape == "square":
        inside = 0.74 - (across**6 + along**6) ** (1 / 6)
    elif shape == "cross":
        inside = np.maximum(
            np.minimum(0.34 - np.abs(across), 0.92 - np.abs(along)),
            np.minimum(0.34 - np.abs(along), 0.92 - np.abs(across)),
        )
    elif shape == "star":
        inside = 0.72 + 0.25 * np.cos(5 * turn) - far
    elif shape == "heart":
        lobe = 0.5 - np.hypot(np.abs(across) - 0.4, along - 0.3)
        inside = np.maximum(lobe, np.minimum(0.64 - 0.8 * np.abs(across) + 0.6 * along, 0.05 - along))
    else:
        inside = polygon({"triangle": 3, "hexagon": 6}[shape]) + (0.12 if shape == "triangle" else 0)
    return inside.astype(np.float32)
