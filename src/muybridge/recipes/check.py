"""Numbers of a recipe that cannot work, told before anything is written."""

from __future__ import annotations

import math

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
    "train.epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.accumulate": (1, math.inf),
    "train.lr": (0, 1e6),
    "train.weight_decay": (0, 1e6),
    "train.betas": (0, 1 - 1e-9),
    "train.warmup": (0, math.inf),
    "train.min_lr": (0, 1e6),
    "train.clip_grad": (0, math.inf),
    "train.label_smoothing": (0, 0.999),
    "train.fixed_views": (0, math.inf),
    "train.evaluate_every": (1, math.inf),
    "train.bad_share": (0, 1),
    "train.workers": (0, 1024),
}


def check(recipe: Recipe) -> None:
    """Raise BadInput, naming field, value and what is expected, if a number of the recipe is out of its range."""
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
