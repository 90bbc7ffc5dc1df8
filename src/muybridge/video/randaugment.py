"""RandAugment on whole videos: a few random operations on pictures, the same for every frame.

    policy = read_policy("rand-m7-n4-mstd0.5-inc1")
    drawn = draw(policy, rng)                         # [("rotate", -21.4), ("invert", 0.0), ...]
    pictures = apply(pictures, drawn, policy)

Both notations draw from the same operations, each with probability 0.5, and turn a magnitude of 0 to 10 into the same
arguments; they differ in how they draw and in how a moved picture is resampled. Pillow does the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from muybridge.errors import BadInput
from muybridge.structures import RANDAUGMENT

PROBABILITY = 0.5
LARGEST = 10.0
GREY = (128, 128, 128)  # where a picture is moved away
ADD_BELOW = 128  # brightness below which `solarize_add` adds

Change = Callable[[Image.Image, float, Image.Resampling], Image.Image]


@dataclass(frozen=True)
class Policy:
    """How operations are drawn.

    Attributes:
        operations: names out of `OPERATIONS`.
        count: how many are drawn for a video.
        magnitude: mean of their magnitudes, 0 to 10.
        deviation: standard deviation of the magnitudes.
        repeat: one operation may be drawn several times.
        resample: how a moved picture is interpolated.
        levels: of brightness: 256: the threshold of `solarize` is a whole number; 255: a share of white.
    """

    operations: tuple[str, ...]
    count: int
    magnitude: float
    deviation: float
    repeat: bool
    resample: Image.Resampling
    levels: int


def read_policy(text: str) -> Policy:
    """The policy that a recipe's `transform.randaugment` names.

    Raises:
        BadInput: it is written in neither notation.
    """
    timm, pytorchvideo = (re.fullmatch(pattern, text) for pattern in RANDAUGMENT)
    if timm:
        count, magnitude, deviation = int(timm["n"]), float(timm["m"]), float(timm["std"] or 0)
        return Policy(tuple(OPERATIONS), count, magnitude, deviation, True, Image.Resampling.BICUBIC, 256)
    if pytorchvideo:
        operations = tuple(name for name in OPERATIONS if name != "solarize_add")
        count, magnitude = int(pytorchvideo["n"]), float(pytorchvideo["m"])
        return Policy(operations, count, magnitude, 0.5, False, Image.Resampling.BILINEAR, 255)
    raise BadInput(f"randaugment is '{text}'; expected {' or '.join(RANDAUGMENT.values())}.")


def draw(policy: Policy, rng: np.random.Generator) -> list[tuple[str, float]]:
    """The operations for one video with their arguments, in order; those that chance leaves out are not listed.

    Args:
        policy: how they are drawn.
        rng: where the draws come from.
    """
    chosen = rng.choice(len(policy.operations), policy.count, replace=policy.repeat)
    drawn = []
    for place in chosen:
        if rng.random() < PROBABILITY:
            magnitude = min(max(rng.normal(policy.magnitude, policy.deviation), 0.0), LARGEST)
            sign = -1.0 if rng.random() < 0.5 else 1.0
            name = policy.operations[place]
            drawn.append((name, argument(name, magnitude / LARGEST, sign, policy.levels)))
    return drawn


def argument(name: str, share: float, sign: float, levels: int = 256) -> float:
    """What an operation is called with.

    Args:
        name: of the operation.
        share: of its largest magnitude, in [0, 1].
        sign: 1 or -1, for the operations that have two directions.
        levels: see `Policy`.

    Returns:
        Degrees, factor, share of the side, bits or brightness, as the operation takes it; 0 if it takes nothing.
    """
    if name in ("color", "contrast", "brightness", "sharpness"):
        return 1 + sign * 0.9 * share
    if name == "rotate":
        return sign * 30 * share
    if name in ("shear_x", "shear_y"):
        return sign * 0.3 * share
    if name in ("translate_x", "translate_y"):
        return sign * 0.45 * share
    if name == "posterize":
        return 4 - int(4 * share)
    if name == "solarize":
        return 256 - int(256 * share) if levels == 256 else 255 * (1 - share)
    if name == "solarize_add":
        return int(110 * share)
    return 0.0


def apply(pictures: Sequence[Image.Image], drawn: Sequence[tuple[str, float]], policy: Policy) -> list[Image.Image]:
    """The operations on every picture of a video.

    Args:
        pictures: the frames, RGB.
        drawn: of `draw`.
        policy: how moved pictures are interpolated.
    """
    out = []
    for picture in pictures:
        for name, value in drawn:
            picture = OPERATIONS[name](picture, value, policy.resample)
        out.append(picture)
    return out


def _move(picture: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=GREY)


def _by_level(picture: Image.Image, change: Callable[[int], int]) -> Image.Image:
    return picture.point([change(level) for level in range(256)] * 3)


# In the order of timm, which no draw depends on but the kept numbers of the tests.
OPERATIONS: dict[str, Change] = {
    "auto_contrast": lambda picture, _, how: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _, how: ImageOps.equalize(picture),
    "invert": lambda picture, _, how: ImageOps.invert(picture),
    "rotate": lambda picture, degrees, how: picture.rotate(degrees, how, fillcolor=GREY),
    # Pillow's own refuses the 0 bits of magnitude 10, which make a black picture.
    "posterize": lambda picture, bits, how: _by_level(picture, lambda level: level >> 8 - int(bits) << 8 - int(bits)),
    "solarize": lambda picture, limit, how: _by_level(picture, lambda level: level if level < limit else 255 - level),
    "solarize_add": lambda picture, add, how: _by_level(
        picture, lambda level: min(level + int(add), 255) if level < ADD_BELOW else level
    ),
    "color": lambda picture, factor, how: ImageEnhance.Color(picture).enhance(factor),
    "contrast": lambda picture, factor, how: ImageEnhance.Contrast(picture).enhance(factor),
    "brightness": lambda picture, factor, how: ImageEnhance.Brightness(picture).enhance(factor),
    "sharpness": lambda picture, factor, how: ImageEnhance.Sharpness(picture).enhance(factor),
    "shear_x": lambda picture, shear, how: _move(picture, (1, shear, 0, 0, 1, 0), how),
    "shear_y": lambda picture, shear, how: _move(picture, (1, 0, 0, shear, 1, 0), how),
    "translate_x": lambda picture, share, how: _move(picture, (1, 0, share * picture.width, 0, 1, 0), how),
    "translate_y": lambda picture, share, how: _move(picture, (1, 0, 0, 0, 1, share * picture.height), how),
}
