"""Random changes of a training video: boxes to cut out, colours, erased rectangles; one draw for all frames.

What moves in the result moved in the file. Only colours may be drawn anew for every frame, where a recipe says so
(ILA), and the noise in an erased rectangle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muybridge.structures import Transform

if TYPE_CHECKING:
    from PIL import Image

TRIES = 10
SIDES = (1.0, 0.875, 0.75, 0.66)  # of a multiscale crop, as shares of the short side
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 10 / 3)
LUMA = (0.299, 0.587, 0.114)

Box = tuple[int, int, int, int]


def random_box(height: int, width: int, transform: Transform, rng: np.random.Generator) -> Box:
    """A random part of a picture: (top, left, height, width) in pixels.

    Its share of the area is uniform in `transform.scale` and the logarithm of its aspect uniform in `transform.ratio`.
    After ten boxes that do not fit: the largest central one whose aspect is allowed and nearest to the picture's.

    Args:
        height: of the picture.
        width: of the picture.
        transform: scale and ratio.
        rng: where the draws come from.
    """
    low, high = transform.ratio
    for _ in range(TRIES):
        area = height * width * rng.uniform(*transform.scale)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    aspect = min(max(width / height, low), high)
    box_width = min(width, max(round(height * aspect), 1))
    box_height = min(height, max(round(width / aspect), 1))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def multiscale_box(height: int, width: int, transform: Transform, rng: np.random.Generator) -> Box:
    """A part of a picture whose sides are two of four shares of the short side, in a corner or the centre (ILA).

    The sides are drawn independently, at most one step of `SIDES` apart. Up to three pixels of a corner on the far side
    are left over.

    Args:
        height: of the picture.
        width: of the picture.
        transform: sides within 2 pixels of those of `transform.size` are made equal to them.
        rng: where the draws come from.

    Returns:
        (top, left, height, width) in pixels.
    """
    sides = [max(int(min(height, width) * share), 1) for share in SIDES]
    # Reference: a side is made equal to the size read even where that is more than the picture has by 1 or 2 pixels.
    heights, widths = ([wanted if abs(side - wanted) < 3 else side for side in sides] for wanted in transform.size)
    pairs = [(i, j) for i, j in itertools.product(range(len(SIDES)), repeat=2) if abs(i - j) <= 1]
    i, j = pairs[int(rng.integers(len(pairs)))]
    box_height, box_width = min(heights[i], height), min(widths[j], width)
    # Reference: places are counted in quarters of the margin, rounded down.
    down, across = (height - box_height) // 4, (width - box_width) // 4
    row, column = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))[int(rng.integers(5))]
    return row * down, column * across, box_height, box_width


def to_pictures(video: Tensor) -> list[Image.Image]:
    """[T, 3, H, W], bytes or fractions of 1 (these are rounded to bytes), as T pictures."""
    from PIL import Image

    if video.is_floating_point():
        video = video.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return [Image.fromarray(frame) for frame in video.permute(0, 2, 3, 1).contiguous().numpy()]


def from_pictures(pictures: Sequence[Image.Image]) -> Tensor:
    """T pictures as uint8 [T, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def change_colors(video: Tensor, transform: Transform, rng: np.random.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue, in random order, with `transform.color_jitter_probability`.

    Args:
        video: [T, 3, H, W], bytes or fractions of 1.
        transform: how much, how often, and whether every frame gets colours of its own.
        rng: where the draws come from.

    Returns:
        `video` itself, or uint8 [T, 3, H, W].
    """
    if rng.random() >= transform.color_jitter_probability:
        return video
    count = len(video) if transform.color_jitter_per_frame else 1
    drawn = [draw_colors(transform.color_jitter, rng) for _ in range(count)]
    return from_pictures(
        [_with_colors(picture, drawn[place % count]) for place, picture in enumerate(to_pictures(video))]
    )


def draw_colors(largest: Sequence[float], rng: np.random.Generator) -> list[tuple[int, float]]:
    """Changes in the order in which they are made: (0 brightness, 1 contrast, 2 saturation: factor; 3 hue: turns)."""
    drawn = []
    for kind in rng.permutation(4).tolist():
        if most := largest[kind]:
            low, high = (-most, most) if kind == 3 else (max(1 - most, 0), 1 + most)
            drawn.append((kind, float(rng.uniform(low, high))))
    return drawn


def grayscale(video: Tensor) -> Tensor:
    """[T, 3, H, W] with its luma in all three channels, in the type that it has."""
    luma = torch.tensor(LUMA, device=video.device).view(3, 1, 1)
    grey = video.to(torch.float32).mul(luma).sum(dim=1, keepdim=True)
    if not video.is_floating_point():
        grey = grey.round_().to(video.dtype)
    return grey.expand(-1, 3, -1, -1)


def erased_box(height: int, width: int, rng: np.random.Generator) -> Box | None:
    """A rectangle of 2 to 33 % of the area: (top, left, height, width) in pixels; None: ten tries did not fit.

    Its share of the area is uniform, and so is the logarithm of its aspect (height / width), from 0.3 to 3.3.
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(*ERASED_AREA)
        aspect = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height < height and 0 < box_width < width:
            top, left = int(rng.integers(height - box_height + 1)), int(rng.integers(width - box_width + 1))
            return top, left, box_height, box_width
    return None


def _with_colors(picture: Image.Image, drawn: Sequence[tuple[int, float]]) -> Image.Image:
    from PIL import Image, ImageEnhance

    for kind, value in drawn:
        if kind == 0:
            picture = ImageEnhance.Brightness(picture).enhance(value)
        elif kind == 1:
            picture = ImageEnhance.Contrast(picture).enhance(value)
        elif kind == 2:
            picture = ImageEnhance.Color(picture).enhance(value)
        else:
            hue, saturation, brightness = picture.convert("HSV").split()
            turned = hue.point([(level + int(value * 255)) % 256 for level in range(256)])
            picture = Image.merge("HSV", (turned, saturation, brightness)).convert("RGB")
    return picture
