"""Mixup and cutmix: every video of a batch is blended with another one, or has a box of it, and so are their labels.

    mix = draw_mix(args, (height, width), epoch, number)     # None: this batch stays as it is
    video = mix_videos(video, mix)
    targets = soft_targets(labels, classes, args.label_smoothing, mix)

One weight is drawn for a batch, and a video's partner is the one at the same place from the end (as timm does it). The
draws depend on the seed, the epoch and the batch's number only: not on workers or on an interruption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from muybridge.structures import TrainArgs
from muybridge.video.draws import generator


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed.

    Attributes:
        weight: share of a video's own label, and with mixup of its own pixels; the rest is its partner's.
        box: (top, left, height, width) in pixels of what is cut out of the partner; None: mixup.
    """

    weight: float
    box: tuple[int, int, int, int] | None = None


def mixes(args: TrainArgs) -> bool:
    """Whether any batch is mixed."""
    return (args.mixup > 0 or args.cutmix > 0) and args.mix_probability > 0


def draw_mix(args: TrainArgs, size: tuple[int, int], epoch: int, number: int) -> Mix | None:
    """How a batch is mixed; None: not at all.

    Args:
        args: alphas, how often, and the seed.
        size: (height, width) of the videos in pixels.
        epoch: from 0.
        number: of the batch in the epoch, from 0.
    """
    if not mixes(args):
        return None
    rng = generator(args.seed, epoch, number)
    if rng.random() >= args.mix_probability:
        return None
    cut = args.cutmix > 0 and (args.mixup == 0 or rng.random() < args.cutmix_share)
    alpha = args.cutmix if cut else args.mixup
    weight = float(rng.beta(alpha, alpha))
    return _draw_box(weight, size, rng) if cut else Mix(weight)


def mix_videos(video: Tensor, mix: Mix) -> Tensor:
    """The mixed batch.

    Args:
        video: [B, T, 3, H, W]; left as it is.
        mix: how.

    Returns:
        The same shape and type.
    """
    if mix.box is None:
        return torch.lerp(video.flip(0), video, mix.weight)
    top, left, height, width = mix.box
    rows, columns = slice(top, top + height), slice(left, left + width)
    mixed = video.clone()
    mixed[..., rows, columns] = video[..., rows, columns].flip(0)
    return mixed


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0, mix: Mix | None = None) -> Tensor:
    """The distribution that a mixed batch is trained towards: fp32 [B, K], each row sums to 1.

    Args:
        labels: [B], class indices.
        classes: K.
        smoothing: the share of every label that is spread over all classes.
        mix: how the batch was mixed.
    """
    off, on = smoothing / classes, 1 - smoothing + smoothing / classes
    own = torch.full((len(labels), classes), off, device=labels.device)
    own.scatter_(1, labels[:, None], on)
    return own if mix is None else own * mix.weight + own.flip(0) * (1 - mix.weight)


def _draw_box(weight: float, size: tuple[int, int], rng: np.random.Generator) -> Mix:
    """A box of the share 1 - `weight` of both sides' product around a place drawn uniformly, and what is left of it."""
    height, width = size
    share = math.sqrt(1 - weight)
    half_height, half_width = int(height * share) // 2, int(width * share) // 2
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    # What of the box lies outside of the picture is not cut, so the weight is that of what is.
    area = (bottom - top) * (right - left)
    return Mix(1 - area / (height * width), (top, left, bottom - top, right - left))
