"""What cannot be trained, told before anything is written: numbers out of range, and what is not there yet."""

from __future__ import annotations

import math
from typing import Any

from muybridge.errors import BadInput
from muybridge.structures import Recipe

# Field -> smallest and largest value.
RANGES = {
    "sampling.frames": (1, math.inf),
    "sampling.stride": (1, math.inf),
    "sampling.views": (1, math.inf),
    "transform.size": (1, math.inf),
    "transform.resize": (0, math.inf),
    "transform.std": (1e-6, math.inf),
    "transform.scale": (1e-3, 1),
    "transform.ratio": (1e-2, 1e2),
    "transform.flip": (0, 1),
    "transform.color_jitter": (0, math.inf),
    "transform.color_jitter_probability": (0, 1),
    "transform.grayscale": (0, 1),
    "transform.erasing": (0, 1),
    "train.epochs": (1, math.inf),
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
    "train.mixup": (0, math.inf),
    "train.cutmix": (0, math.inf),
    "train.mix_probability": (0, 1),
    "train.cutmix_share": (0, 1),
    "train.fixed_views": (0, math.inf),
    "train.evaluate_every": (1, math.inf),
    "train.bad_share": (0, 1),
    "train.workers": (0, 1024),
}

# Published augmentations that a recipe can hold and that evaluation does not need, but that training cannot do yet:
# field -> the value that does without, which is the only one to be trained with (of `transform.crop`: all but one).
NOT_YET: dict[str, Any] = {
    "transform.crop": "random_resized",
    "transform.swap_labels": (),
    "transform.randaugment": "",
    "transform.color_jitter": (0.0, 0.0, 0.0, 0.0),
    "transform.grayscale": 0.0,
    "transform.erasing": 0.0,
    "train.mixup": 0.0,
    "train.cutmix": 0.0,
}
TRAINED_CROPS = ("random_resized", "random", "center")


def check(recipe: Recipe) -> None:
    """Raise BadInput if the recipe cannot be trained: a number out of its range, or fields of `NOT_YET`.

    The sentence names the field, its value, and what is expected or how to train without.
    """
    for name, (low, high) in RANGES.items():
        group, field = name.split(".")
        value = getattr(getattr(recipe, group), field)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
                raise BadInput(f"{name} is {number:g}; expected {expected}.")
    for name in ("scale", "ratio"):
        low, high = getattr(recipe.transform, name)
        if low > high:
            raise BadInput(f"transform.{name} is {low:g},{high:g}; expected the smaller number first.")
    if recipe.sampling.crops not in (1, 3):
        raise BadInput(f"sampling.crops is {recipe.sampling.crops}; expected 1 (centre) or 3 (along the long side).")
    if recipe.train.cache == "memory" and recipe.train.fixed_views < 1:
        raise BadInput("train.cache=memory trains on fixed draws: give --train.fixed_views 1 (or more) with it.")
    _check_not_yet(recipe)


def _check_not_yet(recipe: Recipe) -> None:
    asked, without = [], []
    for name, neutral in NOT_YET.items():
        group, field = name.split(".")
        value = getattr(getattr(recipe, group), field)
        if value != neutral and not (name == "transform.crop" and value in TRAINED_CROPS):
            asked.append(f"{name}={_text(value)}")
            without.append(f"--{name} {_text(neutral) or repr('')}")
            if name == "transform.swap_labels" and recipe.transform.flip:
                without.append("--transform.flip 0")  # else left would be taught as right
    if asked:
        them = "it" if len(asked) == 1 else "them"
        raise BadInput(
            f"This recipe asks for {' and '.join(asked)}, which training cannot do yet; "
            f"set {' '.join(without)} to train without {them}."
        )


def _text(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(_text(item) for item in value) if isinstance(value, tuple) else f"{value}"
