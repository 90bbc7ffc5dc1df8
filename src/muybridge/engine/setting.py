"""What frozen features depend on, so that features of one setting are never taken for those of another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from muybridge.backbones.weights import backbone_sha256
from muybridge.engine.batches import VideoBatches
from muybridge.methods.base import Method
from muybridge.recipes.fields import to_dict
from muybridge.structures import IMAGENET_MEAN, IMAGENET_STD, Item, TrainArgs, Transform
from muybridge.video.transforms import normalise

LAYOUT = 1  # to be raised when decoding, sampling, a transform or a `frozen` computes something else than before
READING = ("decoder", "seconds", "megapixels", "megabytes")  # fields of SourceArgs that decide what comes of a file


def frozen_setting(method: Method, batches: VideoBatches, views: int, precision: str) -> dict[str, Any]:
    """All that the features of a data set depend on, as plain values: two settings that are equal have the same.

    The device is not among it: a GPU's features are a CPU's up to rounding.

    Args:
        method: its backbone's weights and config, and `frozen_key`.
        batches: of the data set: its videos (names, classes, parts, sizes and times of modification of their files, not
            where they lie), how they are read, sampled and transformed, and in training the seed of the draws.
        views: K fixed draws of every training video.
        precision: `half` or `full`.
    """
    dataset = batches.dataset
    return {
        "layout": LAYOUT,
        "method": type(method).__name__,
        "options": to_dict(method.frozen_key()),
        "frames": method.frames,
        "image_size": list(method.image_size),
        "backbone": backbone_sha256(method.backbone),
        "backbone_config": to_dict(method.backbone.config),
        "sampling": to_dict(dataset.sampling),
        "transform": to_dict(dataset.transform),
        "views": views if dataset.training else None,
        "seed": dataset.seed if dataset.training else None,
        "precision": precision,
        "source": {name: getattr(dataset.source, name) for name in READING},
        "videos": hash_of_videos(dataset.items),
    }


def draws_seed(args: TrainArgs) -> int:
    """The seed of what becomes of each training video: `train.draws_seed`, or `train.seed` where it is not given."""
    return args.seed if args.draws_seed is None else args.draws_seed


def hash_of_videos(items: Sequence[Item]) -> str:
    """SHA-256 of names, classes and parts of videos, and sizes and times of modification of their files.

    Of what lies behind an address, the address is taken in place of the file.
    """

    @cache
    def folder_state(path: str) -> dict[str, tuple[int, int]]:
        try:
            with os.scandir(path) as entries:
                return {entry.name: ((found := entry.stat()).st_size, found.st_mtime_ns) for entry in entries}
        except OSError:
            return {}

    @cache
    def file_state(path: str) -> object:
        if is_remote(path):
            return path
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    digest = hashlib.sha256()
    for item in items:
        if item.frames is None:
            state = file_state(item.path)
        else:
            numbers, there = range(item.frames.first, item.frames.first + item.frames.count), folder_state(item.path)
            state = [there.get(item.frames.pattern.format(number)) for number in numbers]
        told = repr((item.name, item.label, item.start, item.end, item.frames, item.stored, state))
        digest.update(f"{len(told)}:{told}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def is_remote(path: str) -> bool:
    """Whether it is an address."""
    return "://" in path


def was_bytes(transform: Transform) -> bool:
    """Whether every normalised video is made of bytes alone."""
    return transform.arithmetic != "float" and not (transform.erasing and transform.erasing_fill == "zero")


def to_bytes(video: Tensor, transform: Transform) -> Tensor:
    """The uint8 video [..., 3, h, w] from which `normalise` makes this one, bit for bit.

    Raises:
        ValueError: there is none.
    """
    mean, deviation = (
        torch.tensor(numbers, dtype=torch.float32, device=video.device).mul_(255).view(3, 1, 1)
        for numbers in (transform.mean or IMAGENET_MEAN, transform.std or IMAGENET_STD)
    )
    levels = (video * deviation).add_(mean).round_().clamp_(0, 255).to(torch.uint8)
    if not torch.equal(normalise(levels, transform), video):
        raise ValueError("a video that should be made of bytes is not")
    return levels
