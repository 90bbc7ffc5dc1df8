"""Pictures of noise, and their resizing by its formula."""

import math

import numpy as np


def noise(frames=3, height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def resize_plainly(picture, height, width):
    """Bilinear, align_corners False, no low-pass, in float64: [H, W, 3] -> [height, width, 3]."""

    def weights(old, new):
        matrix = np.zeros((new, old))
        for place in range(new):
            source = max((place + 0.5) * old / new - 0.5, 0)
            low = min(math.floor(source), old - 1)
            matrix[place, low] += 1 - (source - low)
            matrix[place, min(low + 1, old - 1)] += source - low
        return matrix

    down, across = weights(picture.shape[0], height), weights(picture.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", down, picture, across, optimize=True)
