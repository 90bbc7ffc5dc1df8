"""What cannot be trained, told before anything is written: numbers out of range, fields that exclude each other."""

from __future__ import annotations

import math
import re
from typing import get_args

from muybridge.errors import BadInput
from muybridge.methods import method_class
from muybridge.methods.base import check_cacheable
from muybridge.structures import RANDAUGMENT, Recipe, Step, TrainArgs, Transform

# Field -> smallest and largest value.
RANGES = {
    "source.fold": (1, math.inf),
    "source.val_share": (0, 1),
    "source.seconds": (0, math.inf),
    "source.megapixels": (0, math.inf),
    "source.megabytes": (0, math.inf),
    "source.stream_buffer": (1, math.inf),
    "sampling.frames": (1, math.inf),
    "sampling.stride": (1, math.inf),
    "sampling.views": (1, math.inf),
    "transform.size": (1, math.inf),
    "transform.resize": (0, math.inf),
    "transform.resize_single": (0, math.inf),
    "transform.train_resize": (0, math.inf),
    "transform.mean": (-1e3, 1e3),
    "transform.std": (1e-6, math.inf),
    "transform.scale": (1e-3, 1),
    "transform.ratio": (1e-2, 1e2),
    "transform.flip": (0, 1),
    "transform.color_jitter": (0, math.inf),
    "transform.color_jitter_probability": (0, 1),
    "transform.grayscale": (0, 1),
    "transform.erasing": (0, 1),
    "train.epochs": (0, math.inf),
    "train.batch_size": (1, math.inf),
    "train.accumulate": (1, math.inf),
    "train.lr": (0, 1e6),
    "train.weight_decay": (0, 1e6),
    "train.betas": (0, 1 - 1e-9),
    "train.warmup": (0, math.inf),
    "train.warmup_start": (0, 1),
    "train.min_lr": (0, 1e6),
    "train.clip_grad": (0, math.inf),
    "train.label_smoothing": (0, 0.999),
    "train.backbone_lr": (0, 1e6),
    "train.layer_decay": (1e-3, 1),
    "train.mixup": (0, math.inf),
    "train.cutmix": (0, math.inf),
    "train.mix_probability": (0, 1),
    "train.cutmix_share": (0, 1),
    "train.ema": (0, 1 - 1e-9),
    "train.fixed_views": (0, math.inf),
    "train.evaluate_every": (1, math.inf),
    "train.patience": (0, math.inf),
    "train.save_every": (0, math.inf),
    "train.skip_bad_steps": (0, math.inf),
    "train.bad_share": (0, 1),
    "train.workers": (0, 1024),
}


def check(recipe: Recipe) -> None:
    """Raise BadInput if the recipe cannot be trained: a number out of its range, or fields that exclude each other.

    The sentence names the field, its value, and what is expected.
    """
    check_ranges(recipe)
    for name in ("scale", "ratio"):
        low, high = getattr(recipe.transform, name)
        if low > high:
            raise BadInput(f"transform.{name} is {low:g},{high:g}; expected the smaller number first.")
    if recipe.sampling.crops not in (1, 3):
        raise BadInput(f"sampling.crops is {recipe.sampling.crops}; expected 1 (centre) or 3 (along the long side).")
    _check_transform(recipe.transform)
    blocks_to_unfreeze(recipe.train.unfreeze)
    if recipe.train.balanced_sampling and recipe.train.class_weights != "none":
        raise BadInput(
            "train.balanced_sampling and train.class_weights both make up for classes of unequal size; "
            "give one of them."
        )
    if recipe.source.stream and recipe.train.balanced_sampling:
        raise BadInput(
            "source.stream reads every video once an epoch, and train.balanced_sampling repeats some: give "
            "--train.class_weights balanced in its place, or leave --source.stream out."
        )
    if recipe.train.transform_on == "device":
        _check_on_device(recipe.transform)
    if recipe.train.shard_backbone:
        _check_sharding(recipe.train)
    if recipe.train.cache != "none":
        _check_cache(recipe)


def check_ranges(recipe: Recipe) -> None:
    """Raise BadInput if a number of the recipe is outside of `RANGES`."""
    for name, (low, high) in RANGES.items():
        group, field = name.split(".")
        value = getattr(getattr(recipe, group), field)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not (low <= number <= high and number < math.inf):
                expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
                raise BadInput(f"{name} is {number:g}; expected {expected}.")


def blocks_to_unfreeze(text: str) -> float:
    """How many of the backbone's last blocks `train.unfreeze` names; infinity: all of the backbone.

    Raises:
        BadInput: neither `none`, `last:N` nor `all`.
    """
    kind, _, number = text.partition(":")
    if text in ("none", "all"):
        return 0 if text == "none" else math.inf
    if kind != "last" or not number.isdecimal() or int(number) < 1:
        raise BadInput(f"train.unfreeze is '{text}'; expected none, last:N (such as last:2: two blocks) or all.")
    return int(number)


def _check_transform(transform: Transform) -> None:
    steps = get_args(Step)
    if sorted(transform.order) != sorted(steps):
        raise BadInput(
            f"transform.order is {','.join(transform.order)}; expected each of {','.join(steps)} once, in any order."
        )
    policy = transform.randaugment
    if policy and not any(re.fullmatch(pattern, policy) for pattern in RANDAUGMENT):
        raise BadInput(
            f"transform.randaugment is '{policy}'; expected {' or '.join(RANDAUGMENT.values())}, or nothing."
        )
    hue = transform.color_jitter[3]
    if hue > 0.5:
        raise BadInput(f"transform.color_jitter has a change of hue of {hue:g}; expected 0 to 0.5, half a turn.")
    swapped = [label for pair in transform.swap_labels for label in pair]
    if len(set(swapped)) < len(swapped) or min(swapped, default=0) < 0:
        pairs = ",".join(f"{left}-{right}" for left, right in transform.swap_labels)
        raise BadInput(f"transform.swap_labels is {pairs}; expected pairs of class indices, each class once.")


def _check_on_device(transform: Transform) -> None:
    pillows = {"color_jitter": any(transform.color_jitter), "randaugment": bool(transform.randaugment)}
    if used := [f"transform.{name}" for name, is_used in pillows.items() if is_used]:
        raise BadInput(
            f"train.transform_on=device cannot do {' and '.join(used)}, which Pillow does on the CPU: set "
            "--train.transform_on workers, or leave that out."
        )


def _check_sharding(args: TrainArgs) -> None:
    if args.unfreeze != "none":
        raise BadInput(
            f"train.shard_backbone is for a frozen backbone, and train.unfreeze={args.unfreeze} trains it: its "
            "gradients would have to be shared out too. Set one of them to false or none."
        )
    if args.cache != "none":
        raise BadInput(
            f"train.cache={args.cache} reads the backbone once and trains without it, so there is nothing to shard: "
            "set --train.shard_backbone false, or --train.cache none."
        )


def _check_cache(recipe: Recipe) -> None:
    cache = f"train.cache={recipe.train.cache}"
    if recipe.source.stream:
        raise BadInput(f"{cache} reads every video once, in the archives' order: leave --source.stream out.")
    check_cacheable(method_class(recipe.method))
    if recipe.train.unfreeze != "none":
        raise BadInput(
            f"{cache} keeps what a frozen backbone says, and train.unfreeze={recipe.train.unfreeze} changes it: set "
            "--train.cache none, or --train.unfreeze none."
        )
    if recipe.train.fixed_views < 1:
        raise BadInput(f"{cache} trains on fixed draws: give --train.fixed_views 1 (or more) with it.")
    if recipe.train.mixup or recipe.train.cutmix:
        raise BadInput(
            f"{cache} keeps features and no pixels, so videos cannot be mixed: set --train.mixup 0 "
            "--train.cutmix 0, or --train.cache none."
        )
    if recipe.transform.swap_labels and recipe.transform.flip and recipe.train.cache == "memory":
        raise BadInput(
            "train.cache=memory keeps one label a video, so a mirrored one cannot have another: set "
            "--transform.flip 0, or --train.cache none, or disk, which keeps one a view."
        )
