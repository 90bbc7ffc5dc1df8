"""Decoded frames become the normalised video that a method reads.

Every draw is made once for a video, so that what moves in the result moved in the file. `uint8` arithmetic keeps bytes
until the last step: 8 frames of 256 x 340 become 224 x 224 in 2.0 ms of one CPU core, in `float` arithmetic in 7.4 ms.
`float` with `antialias=False` is the arithmetic of the published EVL and DiST, `rounded` that of ILA and ZeroI2V.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muybridge.errors import BadInput, shape_text
from muybridge.structures import IMAGENET_MEAN, IMAGENET_STD, Step, Transform
from muybridge.video.augment import (
    change_colors,
    erased_box,
    from_pictures,
    grayscale,
    multiscale_box,
    random_box,
    to_pictures,
)
from muybridge.video.sampling import crop_offsets


def train_video(frames: np.ndarray | Tensor, transform: Transform, rng: np.random.Generator) -> Tensor:
    """One randomly cropped and changed view, as `train_view`, without word of whether it is mirrored."""
    return train_view(frames, transform, rng)[0]


def train_view(frames: np.ndarray | Tensor, transform: Transform, rng: np.random.Generator) -> tuple[Tensor, bool]:
    """One randomly cropped, perhaps mirrored and changed view.

    Resized to `transform.train_resize`, then changed step by step in `transform.order`, normalised, and perhaps partly
    erased.

    Args:
        frames: uint8 [T, H, W, 3], RGB; a tensor may be on any device, and the video is there too.
        transform: the steps, their order and their numbers.
        rng: where the draws come from; every step draws once for all frames.

    Returns:
        float32 [T, 3, h, w], and whether it is mirrored.

    Raises:
        BadInput: `frames` has another shape or type, or `transform` cannot be carried out.
    """
    video, mirrored = frames_to_tensor(frames), False
    if sorted(transform.order) != sorted(get_args(Step)):
        raise BadInput(f"order is {', '.join(transform.order)}; expected each of {', '.join(get_args(Step))} once.")
    if transform.train_resize:
        height, width = video.shape[2:]
        video = _resize(video, scaled_size(height, width, transform.train_resize, transform.rounding), transform)
    for step in transform.order:
        if step == "crop":
            video = _crop(video, transform, rng)
        elif step == "flip":
            mirrored = bool(rng.random() < transform.flip)
            video = video.flip(-1) if mirrored else video
        elif step == "color_jitter":
            video = change_colors(video, transform, rng) if any(transform.color_jitter) else video
        elif step == "grayscale":
            video = grayscale(video) if transform.grayscale and rng.random() < transform.grayscale else video
        elif transform.randaugment:
            from muybridge.video import randaugment

            policy = randaugment.read_policy(transform.randaugment)
            if drawn := randaugment.draw(policy, rng):
                video = from_pictures(randaugment.apply(to_pictures(video), drawn, policy))
    video = normalise(video, transform)
    if transform.erasing and rng.random() < transform.erasing:
        _erase(video, transform, rng)
    return video, mirrored


def test_video(frames: np.ndarray | Tensor, transform: Transform, crops: int, single: bool = False) -> Tensor:  # noqa: PT028
    """The spatial crops at test time: float32 [crops, T, 3, h, w].

    The picture is resized to a short side of `transform.resize`, or of the larger side of `transform.size` if that is 0
    or the crop would not fit.

    Args:
        frames: uint8 [T, H, W, 3], RGB; a tensor may be on any device, and the video is there too.
        transform: the sizes, mean and standard deviation.
        crops: 1 (the centre) or 3 (along the long side).
        single: this is the only view of its video: `transform.resize_single` counts, if it is not 0.

    Raises:
        BadInput: `frames` has another shape or type, `crops` is neither 1 nor 3, or `transform` cannot be carried out.
    """
    video = frames_to_tensor(frames)
    short = transform.resize_single if single and transform.resize_single else transform.resize
    size = _test_size(video.shape[2], video.shape[3], transform, short)
    places = crop_offsets(*size, transform.size, crops, transform.crop_steps)
    video = _resize(video, size, transform)
    return normalise(torch.stack([_cut(video, top, left, transform.size) for top, left in places]), transform)


def test_boxes(
    height: int, width: int, transform: Transform, crops: int, single: bool
) -> list[tuple[float, float, float, float]]:
    """Where the crops of `test_video` lie in the frames as they were: (top, left, height, width) in their pixels.

    Args:
        height: of the frames, in pixels.
        width: of the frames.
        transform: as `test_video` gets it; likewise `crops` and `single`.
    """
    short = transform.resize_single if single and transform.resize_single else transform.resize
    size = _test_size(height, width, transform, short)
    down, across = height / size[0], width / size[1]
    return [
        (top * down, left * across, transform.size[0] * down, transform.size[1] * across)
        for top, left in crop_offsets(*size, transform.size, crops, transform.crop_steps)
    ]


def frames_to_tensor(frames: np.ndarray | Tensor) -> Tensor:
    """The same bytes as uint8 [T, 3, H, W], without a copy where possible.

    Raises:
        BadInput: `frames` is not uint8 [T, H, W, 3].
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype not in (np.uint8, torch.uint8) or 0 in frames.shape:
        raise BadInput(f"frames are {frames.dtype} {shape_text(frames.shape)}; expected uint8 [T, H, W, 3].")
    # Fast: seen as channels-last the frames are resized as they lie: 0.6 ms, after a copy to planes 1.5 ms.
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
    return frames.permute(0, 3, 1, 2)


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


def scaled_size(height: int, width: int, short: int, rounding: str) -> tuple[int, int]:
    """(height, width) in pixels of a picture after resizing its short side to `short`, as `Transform.rounding` says.

    Raises:
        BadInput: there is no such rounding.
    """
    low, high = min(height, width), max(height, width)
    if rounding == "floor":
        long = high * short // low
    elif rounding == "int":
        long = int(high / low * short)
    elif rounding == "half_up":
        long = int(high * (short / low) + 0.5)
    else:
        raise BadInput(f"rounding is {rounding!r}; expected floor, half_up or int.")
    return (short, long) if height < width else (long, short)


def _crop(video: Tensor, transform: Transform, rng: np.random.Generator) -> Tensor:
    """[T, 3, H, W] -> [T, 3, *transform.size]: a part of the video as `transform.crop` says."""
    height, width = video.shape[2:]
    if transform.crop in ("random_resized", "multiscale"):
        draw = random_box if transform.crop == "random_resized" else multiscale_box
        top, left, box_height, box_width = draw(height, width, transform, rng)
        return _resize(_cut(video, top, left, (box_height, box_width)), transform.size, transform)
    if transform.crop not in ("random", "center"):
        raise BadInput(f"crop is {transform.crop!r}; expected random_resized, random, center or multiscale.")
    if not transform.train_resize or height < transform.size[0] or width < transform.size[1]:
        video = _resize(video, _test_size(height, width, transform, transform.resize), transform)
        height, width = video.shape[2:]
    if transform.crop == "center":
        ((top, left),) = crop_offsets(height, width, transform.size, 1)
    else:
        top = int(rng.integers(height - transform.size[0] + 1))
        left = int(rng.integers(width - transform.size[1] + 1))
    return _cut(video, top, left, transform.size)


def _erase(video: Tensor, transform: Transform, rng: np.random.Generator) -> None:
    """Fill a rectangle of a normalised video [T, 3, h, w], the same in all frames, in place."""
    box = erased_box(video.shape[2], video.shape[3], rng)
    if box is None:
        return
    part = _cut(video, box[0], box[1], box[2:])
    if transform.erasing_fill == "zero":
        part.zero_()
    elif transform.erasing_fill == "grey":
        part.copy_(normalise(torch.full((1, 3, 1, 1), 128, dtype=torch.uint8, device=video.device), transform))
    elif transform.erasing_fill == "noise":
        noise = torch.from_numpy(rng.integers(0, 256, tuple(part.shape), dtype=np.uint8))
        part.copy_(normalise(noise.to(video.device), transform))
    else:
        raise BadInput(f"erasing_fill is {transform.erasing_fill!r}; expected zero, grey or noise.")


def _resize(video: Tensor, size: tuple[int, int], transform: Transform) -> Tensor:
    """[T, 3, H, W] -> [T, 3, *size], bytes or fractions of 1 as `transform.arithmetic` says."""
    if transform.interpolation not in ("bilinear", "bicubic"):
        raise BadInput(f"interpolation is {transform.interpolation!r}; expected bilinear or bicubic.")
    if transform.arithmetic not in ("uint8", "float", "rounded"):
        raise BadInput(f"arithmetic is {transform.arithmetic!r}; expected uint8, float or rounded.")
    if video.shape[2:] == size:
        return video
    if transform.arithmetic == "float" and not video.is_floating_point():
        video = video.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    elif transform.arithmetic == "rounded":
        video = video.to(torch.float32, memory_format=torch.contiguous_format)
    options: dict[str, Any] = {"mode": transform.interpolation, "antialias": transform.antialias}
    if not video.is_floating_point() and video.device.type != "cpu":
        # Only the CPU can resize bytes as bytes. This is within one level of what it makes of them.
        return _resize_fractions(video, size, options)
    video = functional.interpolate(video, size, align_corners=False, **options)
    if transform.arithmetic == "rounded":
        video = video.round_().clamp_(0, 255).to(torch.uint8)
    return video


def _resize_fractions(video: Tensor, size: tuple[int, int], options: dict[str, Any]) -> Tensor:
    """uint8 [T, 3, H, W] -> uint8 [T, 3, *size], by fractions that are rounded."""
    # Reference: rows first, then columns, with bytes in between: so the CPU does it, whose bicubic is cut off there.
    for step in ((video.shape[2], size[1]), size):
        video = functional.interpolate(video.to(torch.float32), step, align_corners=False, **options)
        video = video.round_().clamp_(0, 255)
    return video.to(torch.uint8)


def _test_size(height: int, width: int, transform: Transform, short: int) -> tuple[int, int]:
    """The size in pixels to which a picture is resized before the crop at test time; `short`: its short side."""
    size = scaled_size(height, width, short, transform.rounding)
    if size[0] >= transform.size[0] and size[1] >= transform.size[1]:
        return size
    return scaled_size(height, width, max(transform.size), transform.rounding)


def _cut(video: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    return video[..., top : top + size[0], left : left + size[1]]
