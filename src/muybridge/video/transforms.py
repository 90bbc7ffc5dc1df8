"""Decoded frames become the normalised video that a method reads.

Every draw is made once for a video, so that what moves in the result moved in the file. `uint8` arithmetic keeps bytes
until the last step: 8 frames of 256 x 340 become 224 x 224 in 2.0 ms of one CPU core, in `float` arithmetic in 7.4 ms.
`float` with `antialias=False` is the arithmetic of the published EVL.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muybridge.errors import BadInput, shape_text
from muybridge.structures import IMAGENET_MEAN, IMAGENET_STD, Transform
from muybridge.video.sampling import crop_offsets

TRIES = 10


def train_video(frames: np.ndarray, transform: Transform, rng: np.random.Generator) -> Tensor:
    """One randomly cropped, perhaps mirrored view: float32 [T, 3, h, w].

    Args:
        frames: uint8 [T, H, W, 3], RGB.
        transform: the crop, the size, mean and standard deviation, the share of mirrored videos.
        rng: where the draws come from: one crop and one flip for all frames.

    Raises:
        BadInput: `frames` has another shape or type, or `transform` cannot be carried out.
    """
    video = _pixels(frames, transform)
    if transform.crop == "random_resized":
        top, left, height, width = random_box(video.shape[2], video.shape[3], transform, rng)
        video = _resize(video[:, :, top : top + height, left : left + width], transform.size, transform)
    elif transform.crop in ("random", "center"):
        video = _resize(video, _test_size(video.shape[2], video.shape[3], transform), transform)
        ((top, left),) = crop_offsets(video.shape[2], video.shape[3], transform.size, 1)
        if transform.crop == "random":
            top = int(rng.integers(video.shape[2] - transform.size[0] + 1))
            left = int(rng.integers(video.shape[3] - transform.size[1] + 1))
        video = _cut(video, top, left, transform.size)
    else:
        raise BadInput(f"crop is {transform.crop!r}; expected random_resized, random or center.")
    if rng.random() < transform.flip:
        video = video.flip(-1)
    return normalise(video, transform)


def test_video(frames: np.ndarray, transform: Transform, crops: int) -> Tensor:
    """The spatial crops at test time: float32 [crops, T, 3, h, w].

    The picture is resized to a short side of `transform.resize`, or of the larger side of `transform.size` if that is 0
    or the crop would not fit.

    Args:
        frames: uint8 [T, H, W, 3], RGB.
        transform: the sizes, mean and standard deviation.
        crops: 1 (the centre) or 3 (along the long side).

    Raises:
        BadInput: `frames` has another shape or type, `crops` is neither 1 nor 3, or `transform` cannot be carried out.
    """
    video = _pixels(frames, transform)
    video = _resize(video, _test_size(video.shape[2], video.shape[3], transform), transform)
    places = crop_offsets(video.shape[2], video.shape[3], transform.size, crops)
    return normalise(torch.stack([_cut(video, top, left, transform.size) for top, left in places]), transform)


def frames_to_tensor(frames: np.ndarray) -> Tensor:
    """The same bytes as uint8 [T, 3, H, W], without a copy where possible.

    Raises:
        BadInput: `frames` is not uint8 [T, H, W, 3].
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise BadInput(f"frames are {frames.dtype} {shape_text(frames.shape)}; expected uint8 [T, H, W, 3].")
    # Fast: seen as channels-last the frames are resized as they lie: 0.6 ms, after a copy to planes 1.5 ms.
    return torch.from_numpy(np.require(frames, requirements=["C", "W"])).permute(0, 3, 1, 2)


def normalise(video: Tensor, transform: Transform) -> Tensor:
    """Subtract the mean and divide by the standard deviation of `transform`, channel by channel.

    Args:
        video: [..., 3, h, w]; uint8 in 0..255 or floating point in 0..1.
        transform: mean and standard deviation.

    Returns:
        float32, as large as `video`, contiguous; `video` is left as it is.
    """
    scale = 1.0 if video.is_floating_point() else 255.0
    mean, deviation = (
        torch.tensor(numbers, dtype=torch.float32, device=video.device).mul_(scale).view(3, 1, 1)
        for numbers in (transform.mean or IMAGENET_MEAN, transform.std or IMAGENET_STD)
    )
    out = video.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return out.sub_(mean).div_(deviation)


def random_box(height: int, width: int, transform: Transform, rng: np.random.Generator) -> tuple[int, int, int, int]:
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
    box_width, box_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _pixels(frames: np.ndarray, transform: Transform) -> Tensor:
    """[T, 3, H, W], in the type in which it is to be resized."""
    video = frames_to_tensor(frames)
    if transform.arithmetic == "uint8":
        return video
    if transform.arithmetic != "float":
        raise BadInput(f"arithmetic is {transform.arithmetic!r}; expected uint8 or float.")
    return video.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _resize(video: Tensor, size: tuple[int, int], transform: Transform) -> Tensor:
    """[T, 3, H, W] -> [T, 3, *size]."""
    if transform.interpolation not in ("bilinear", "bicubic"):
        raise BadInput(f"interpolation is {transform.interpolation!r}; expected bilinear or bicubic.")
    if video.shape[2:] == size:
        return video
    options: dict[str, Any] = {"mode": transform.interpolation, "antialias": transform.antialias}
    return functional.interpolate(video, size, align_corners=False, **options)


def _test_size(height: int, width: int, transform: Transform) -> tuple[int, int]:
    """The size in pixels to which a picture is resized before the crop at test time."""

    def resized(short: int) -> tuple[int, int]:
        # Reference: the long side is rounded down, as in the published EVL.
        return (short, width * short // height) if height < width else (height * short // width, short)

    size = resized(transform.resize)
    fits = size[0] >= transform.size[0] and size[1] >= transform.size[1]
    return size if fits else resized(max(transform.size))


def _cut(video: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    return video[..., top : top + size[0], left : left + size[1]]
