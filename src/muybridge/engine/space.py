"""Which settings are tried: fields of a recipe with lists of values, or with ranges to draw from.

train.lr=1e-4,3e-4,1e-3                  these values
train.lr=1e-5..1e-2                      drawn, log-uniformly since both ends are above 0 and far apart
train.weight_decay=0..0.2                drawn uniformly
transform.scale=0.5,1;0.8,1              values that are lists themselves
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from muybridge.errors import BadInput
from muybridge.recipes import override
from muybridge.recipes.fields import to_dict
from muybridge.recipes.files import validate
from muybridge.structures import Recipe

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
WIDE = 100  # times the low end from which on a range is drawn log-uniformly
DIGITS = 4  # of a number that is drawn
DRAWS = 100  # for every setting that is wanted, before there are taken to be no more
LIKE = "train.lr=1e-4,3e-4,1e-3, or train.lr=1e-5..1e-2 with --trials"

# What is not tried -> why.
ONE_A_SWEEP = "all settings of a sweep are compared on the same videos and backbone, by one method"
SAME_RESULT = "it does not change the result"
SEEDS = "several seeds of every setting are --seeds N"
REFUSED = {
    **dict.fromkeys(("method", "backbone", "weights", "data", "source", "init", "schema"), ONE_A_SWEEP),
    **dict.fromkeys(("train.seed", "train.draws_seed"), SEEDS),
    **dict.fromkeys(("train.cache", "train.cache_folder", "train.workers", "train.tracker"), SAME_RESULT),
    **dict.fromkeys(("train.save_every", "train.slim"), SAME_RESULT),
}


@dataclass(frozen=True)
class Axis:
    """A field and what is tried for it.

    Attributes:
        name: such as `train.lr`.
        values: plain values; empty: it is drawn.
        low, high: the ends that it is drawn between; whole numbers are drawn if both are `int`.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether the logarithm of a range is drawn uniformly, not the number itself."""
        return self.low is not None and self.high is not None and self.low > 0 and self.high >= WIDE * self.low

    def draw(self, rng: np.random.Generator) -> Any:
        """One value: of the list, or of the range, both ends included; numbers have `DIGITS` digits."""
        if self.low is None or self.high is None:
            return self.values[int(rng.integers(len(self.values)))]
        whole = isinstance(self.low, int)
        if whole and not self.logarithmic:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        ends = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        drawn = float(rng.uniform(*ends))
        drawn = math.exp(drawn) if self.logarithmic else drawn
        drawn = min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)
        return round(drawn) if whole else drawn

    def __str__(self) -> str:
        if self.low is not None:
            return f"{self.low:g}..{self.high:g}"
        between = ";" if any(isinstance(value, list) for value in self.values) else ","
        return between.join(value_text(value) for value in self.values)


def parse_axis(text: str, base: Recipe) -> Axis:
    """What `--try` says.

    Args:
        text: `FIELD=VALUES`.
        base: the recipe that is varied, validated.

    Raises:
        BadInput: not of that form, a field that is no matter of a sweep, a value of another type.
        UnknownName: no such field; the closest are named.
    """
    name, _, rest = text.partition("=")
    name, rest = name.strip().removeprefix("--").replace("-", "_"), rest.strip()
    if not name or not rest:
        raise BadInput(f"--try is '{text}'; expected FIELD=VALUES, such as {LIKE}.")
    for refused, why in REFUSED.items():
        if name == refused or (name.startswith(f"{refused}.") and "." not in refused):
            raise BadInput(f"--try {name}: {why}.")
    found = RANGE.fullmatch(rest)
    if found:
        low, high = (_coerced(name, end, base) for end in found.groups())
        if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in (low, high)):
            raise BadInput(f"--try {text}: {name} is no number; expected its values, separated by commas.")
        if low >= high:
            raise BadInput(f"--try {text}: expected the smaller number first.")
        return Axis(name, low=low, high=high)
    words = [word.strip() for word in rest.split(";" if ";" in rest else ",")]
    if ";" not in rest and _is_list(base, name):
        raise BadInput(
            f"--try {text}: {name} has commas of its own, so separate what is to be tried by semicolons, as in "
            "'transform.scale=0.5,1;0.8,1'."
        )
    values = [_coerced(name, word, base) for word in words]
    return Axis(name, tuple(value for i, value in enumerate(values) if value not in values[:i]))


def _is_list(base: Recipe, name: str) -> bool:
    try:
        return isinstance(value_of(base, name), list)
    except (KeyError, AttributeError):
        return False  # there is no such field, which is told by its closest names later


def _coerced(name: str, text: str, base: Recipe) -> Any:
    """The plain value of a field from its text."""
    return value_of(validate(override(base, {name: text})), name)


def value_of(recipe: Recipe, name: str) -> Any:
    """The plain value of a field by its dotted name."""
    owner, _, inner = name.partition(".")
    if owner == recipe.method:
        return to_dict(recipe.options)[inner]
    group = getattr(recipe, owner)
    return to_dict(getattr(group, inner) if inner else group)


def value_text(value: Any) -> str:
    """A plain value as one types it."""
    if isinstance(value, (list, tuple)):
        return ",".join(value_text(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def points(axes: Sequence[Axis], trials: int | None, seed: int) -> list[dict[str, Any]]:
    """The settings to be tried: fields with their plain values, no two the same.

    Without `trials` every combination. With it that many are drawn: the draws depend on the seed, their number and the
    field only, so those of a smaller `trials` come first among those of a larger one. There may be fewer where there
    are no more.

    Args:
        axes: what is tried for each field.
        trials: how many are drawn.
        seed: of the draws.

    Raises:
        BadInput: no field, one that is given twice, a range without `trials`, `trials` below 1.
    """
    names = [axis.name for axis in axes]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BadInput(f"--try {twice} is given twice; give all of its values at once.")
    if not axes:
        raise BadInput(f"Nothing is tried; give at least one --try FIELD=VALUES, such as {LIKE}.")
    if trials is None:
        ranges = [axis.name for axis in axes if axis.low is not None]
        if ranges:
            raise BadInput(f"{', '.join(ranges)} is drawn from a range: say how often with --trials N.")
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]
    if trials < 1:
        raise BadInput(f"trials is {trials}; expected at least 1.")
    drawn: dict[str, dict[str, Any]] = {}
    for number in range(trials * DRAWS):
        point = {axis.name: axis.draw(_generator(seed, axis.name, number)) for axis in axes}
        drawn.setdefault(identity(point), point)
        if len(drawn) == trials:
            break
    return list(drawn.values())


def identity(point: Mapping[str, Any]) -> str:
    """The same text for the same setting."""
    return json.dumps(dict(point), sort_keys=True)


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    digest = hashlib.sha256(f"search/{seed}/{name}/{number}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
