"""Colours of heat: a scale whose lightness rises evenly, so that twice as bright is twice as much; and of ink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rgb = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

PAPER: Rgb = (255, 255, 255)
INK: Rgb = (32, 33, 40)
FAINT: Rgb = (118, 120, 130)
LINE: Rgb = (222, 223, 228)
MATTERS: Rgb = (188, 55, 84)  # the middle of the scale
HINDERS: Rgb = (66, 112, 178)
POINT: Rgb = (102, 224, 255)

# Nine colours of matplotlib's "inferno" (Smith and van der Walt, 2015; CC0), even in lightness, in between linear.
SCALE = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (228, 90, 49),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ],
    np.float32,
)


def colours_of(values: Values) -> Pixels:
    """Values in [0, 1] of any shape -> RGB [..., 3]."""
    places = np.clip(values, 0, 1) * (len(SCALE) - 1)
    low = np.minimum(places.astype(np.int64), len(SCALE) - 2)
    share = (places - low)[..., None].astype(np.float32)
    return np.rint(SCALE[low] * (1 - share) + SCALE[low + 1] * share).astype(np.uint8)


def heated(picture: Pixels, heat: Values, strength: float = 1.0) -> Pixels:
    """A picture with heat over it: it loses colour and light where nothing is hot, and glows where something is.

    Args:
        picture: uint8 [H, W, 3].
        heat: [H, W] in [0, 1].
        strength: 0: the picture as it is, 1: all of the heat.
    """
    plain = picture.astype(np.float32)
    grey = (plain @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    ground = 0.62 * (0.35 * plain + 0.65 * grey)
    share = (0.1 + 0.68 * np.clip(heat, 0, 1) ** 0.7)[..., None].astype(np.float32)
    over = ground * (1 - share) + colours_of(heat) * share
    return np.rint(plain * (1 - strength) + over * strength).astype(np.uint8)
