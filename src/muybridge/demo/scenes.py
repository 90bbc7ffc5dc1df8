"""What the demo's films show: a take of an action as sprites on paths, the wall behind it, and how both are drawn.

A scene is always drawn forwards; `films.render` turns the films of a twin class round. Letters: T frames, S side of the
picture in pixels. Places and sizes are shares of the side, y downwards; progress runs from 0 (not begun) to 1 (done).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from muybridge.demo.textures import Picture, Skin, Thing, background, cloth, toy

Curve = NDArray[np.float32]  # [T], one number a frame


@dataclass(frozen=True)
class Take:
    """A stretch of a film without a cut.

    Attributes:
        begin: its first frame.
        end: the frame after its last.
        start: when the action starts, as a share of the take; below 0: before it.
        stop: when the action is done; above 1: after it.
        ease: exponent of the progress: above 1 it starts slowly, below 1 quickly.
        thing: the toy.
        dice: eight numbers in [0, 1) that place the scene; each action reads them in its own way.
    """

    begin: int
    end: int
    start: float
    stop: float
    ease: float
    thing: Thing
    dice: tuple[float, ...]


# Scenes: what one take shows, from back to front. Toys are 30-42 % of the side and go at least a third of it.


@dataclass(frozen=True)
class Layer:
    """A sprite [S, S, 4] and its path [T, 5]: x, y of the middle, width, height, angle in radians."""

    sprite: Picture
    path: NDArray[np.float32]


def _layer(
    sprite: Picture, count: int, x: ArrayLike, y: ArrayLike, width: ArrayLike, height: ArrayLike, angle: ArrayLike = 0
) -> Layer:
    columns = [np.broadcast_to(np.asarray(value, np.float32), count) for value in (x, y, width, height, angle)]
    return Layer(sprite, np.stack(columns, 1))


def _mix(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def progress(take: Take) -> Curve:
    """0 before the action, 1 after it, in between monotonous and eased."""
    time = (np.arange(take.end - take.begin) + 0.5) / (take.end - take.begin)
    share = np.clip((time - take.start) / (take.stop - take.start), 0, 1) ** take.ease
    return (share * (1 + share * (3 - 2 * share)) / 2).astype(np.float32)


def _across(take: Take, fabric: Skin, done: Curve) -> list[Layer]:
    """Along a shelf, from the left to the right."""
    d, count = take.dice, len(done)
    x = _mix(0.14, 0.26, d[0]) + (_mix(0.74, 0.86, d[1]) - _mix(0.14, 0.26, d[0])) * done
    size, y = _mix(0.3, 0.42, d[2]), _mix(0.3, 0.7, d[3])
    shelf = cloth(fabric, 64)[:12]
    return [
        _layer(shelf, count, 0.5, y + 0.42 * size + 0.05, 1.5, 0.1),
        _layer(toy(take.thing, 72), count, x, y, size, size, 0.5 * (d[4] - 0.5) * done),
    ]


def _lift(take: Take, fabric: Skin, done: Curve) -> list[Layer]:
    """On a string, upwards."""
    d, count, top = take.dice, len(done), -0.3
    y = _mix(0.68, 0.82, d[0]) + (_mix(0.18, 0.34, d[1]) - _mix(0.68, 0.82, d[0])) * done
    size, x = _mix(0.3, 0.42, d[2]), _mix(0.3, 0.7, d[3]) + 0.12 * (d[4] - 0.5) * done
    string = np.zeros((8, 8, 4), np.float32)
    string[:, 2:6] = (0.15, 0.12, 0.1, 1)
    return [
        _layer(string, count, x, (y + top) / 2, 0.03, y - top),
        _layer(toy(take.thing, 72), count, x, y, size, size, 0.12 * (d[5] - 0.5) * np.sin(6 * done)),
    ]


def _near(take: Take, fabric: Skin, done: Curve) -> list[Layer]:
    """From far to near: the toy grows about threefold."""
    d, count = take.dice, len(done)
    far, close = _mix(0.16, 0.21, d[0]), _mix(0.52, 0.68, d[1])
    size = far * (close / far) ** done
    x = _mix(0.35, 0.65, d[2]) * (1 - done) + _mix(0.4, 0.6, d[3]) * done
    y = _mix(0.35, 0.65, d[4]) * (1 - done) + _mix(0.4, 0.6, d[5]) * done
    return [_layer(toy(take.thing, 96), count, x, y, size, size, (d[6] - 0.5) * done)]


def _open(take: Take, fabric: Skin, done: Curve) -> list[Layer]:
    """A cupboard with a toy in it; its two doors swing (and look narrower and narrower) or slide."""
    d, count = take.dice, len(done)
    wide, high = _mix(0.55, 0.72, d[0]), _mix(0.5, 0.7, d[1])
    x, y, size = _mix(0.42, 0.58, d[2]), _mix(0.42, 0.58, d[3]), 0.7 * min(wide, high)
    dark = np.full((16, 16, 4), (0.12, 0.09, 0.08, 1), np.float32)
    door = cloth(fabric, 64)
    if d[4] < 0.5:
        leaf, out = wide / 2 * (1 - 0.82 * done), wide / 4 * (1 + 0.82 * done)
    else:
        leaf, out = wide / 2 + 0 * done, wide / 4 * (1 + 1.8 * done)
    return [
        _layer(dark, count, x, y, wide + 0.05, high + 0.05),
        _layer(toy(take.thing, 72), count, x, y + 0.03, size, size),
        _layer(door, count, x - out, y, leaf, high),
        _layer(door, count, x + out, y, leaf, high),
    ]


def _uncover(take: Take, fabric: Skin, done: Curve) -> list[Layer]:
    """A cloth is drawn away from a toy, to one of the four sides."""
    d, count = take.dice, len(done)
    x, y, size = _mix(0.35, 0.65, d[0]), _mix(0.35, 0.65, d[1]), _mix(0.3, 0.42, d[2])
    side = size * _mix(1.15, 1.35, d[3])
    turn = np.pi / 2 * int(4 * d[4]) + 0.5 * (d[5] - 0.5)
    way = 0.575 * (size + side) * done
    return [
        _layer(toy(take.thing, 72), count, x, y, size, size),
        _layer(cloth(fabric, 72), count, x + np.cos(turn) * way, y + np.sin(turn) * way, side, side, d[6] / 2 - 0.25),
    ]


SCENES: dict[str, Callable[[Take, Skin, Curve], list[Layer]]] = {
    "across": _across,
    "lift": _lift,
    "near": _near,
    "open": _open,
    "uncover": _uncover,
}


def bystander(rng: Generator, thing: Thing, count: int) -> Layer:
    """A small toy anywhere, at rest or wandering a little."""
    size, reach = rng.uniform(0.16, 0.24), 0.1 * float(rng.random() < 0.6)
    x, y = (rng.uniform(0.1, 0.9) + reach * drift(rng, count, 1.5) for _ in range(2))
    return _layer(toy(thing, 48), count, x, y, size, size)


def drift(rng: Generator, count: int, waves: float) -> Curve:
    """A smooth random curve of about unit size, with up to `waves` waves in the film."""
    time = np.linspace(0, 1, count)[:, None]
    waves_of_four = np.sin(2 * np.pi * (time * rng.uniform(0.3, waves, 4) + rng.random(4)))
    return (0.7 * waves_of_four @ rng.standard_normal(4)).astype(np.float32)


def _margin(size: int) -> int:
    return int(0.2 * size) + 2  # what the camera can see beyond the picture


def wall(skin: Skin, size: int, camera_x: Curve, camera_y: Curve) -> NDArray[np.float32]:
    """The background as the camera moves, float32 [T, S, S, 3]."""
    picture = background(skin, size + 2 * _margin(size))
    frames = np.empty((len(camera_x), size, size, 3), np.float32)
    for frame, x, y in zip(frames, _margin(size) - camera_x * size, _margin(size) - camera_y * size, strict=True):
        row, column = int(y), int(x)
        seen = picture[row : row + size + 1, column : column + size + 1]
        seen = seen[:-1] + (seen[1:] - seen[:-1]) * (y - row)
        frame[:] = seen[:, :-1] + (seen[:, 1:] - seen[:, :-1]) * (x - column)
    return frames


def paste(frame: Picture, sprite: Picture, x: float, y: float, width: float, height: float, angle: float) -> None:
    """Draws a sprite over a frame [S, S, 3], in place; bilinear, so motion is finer than a pixel."""
    size, (rows, columns) = len(frame), sprite.shape[:2]
    x, y, width, height = x * size, y * size, width * size, height * size
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    reach_x, reach_y = (abs(cos) * width + abs(sin) * height) / 2 + 1, (abs(sin) * width + abs(cos) * height) / 2 + 1
    left, right = max(int(x - reach_x), 0), min(int(x + reach_x) + 2, size)
    top, bottom = max(int(y - reach_y), 0), min(int(y + reach_y) + 2, size)
    if left >= right or top >= bottom:
        return
    dx = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - x)
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    column = (cos * dx + sin * dy) * np.float32((columns - 2) / width) + np.float32(columns / 2 - 0.5)
    row = (cos * dy - sin * dx) * np.float32((rows - 2) / height) + np.float32(rows / 2 - 0.5)
    column, row = np.clip(column, 0, columns - 1.001), np.clip(row, 0, rows - 1.001)
    i, j = row.astype(np.intp), column.astype(np.intp)
    down, along = (row - i)[..., None], (column - j)[..., None]
    flat, at = sprite.reshape(-1, 4), i * columns + j
    upper = flat[at] + (flat[at + 1] - flat[at]) * along
    lower = flat[at + columns] + (flat[at + columns + 1] - flat[at + columns]) * along
    seen = upper + (lower - upper) * down
    window = frame[top:bottom, left:right]
    window *= 1 - seen[..., 3:]
    window += seen[..., :3]
