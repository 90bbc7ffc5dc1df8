"""What both kinds of sweeps share: one training after the other, in a folder that knows what it is of."""

from __future__ import annotations

import copy
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from muybridge.backbones.vit import ViT
from muybridge.engine.alone import is_empty
from muybridge.engine.last import can_resume
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput, CheckpointError
from muybridge.structures import Recipe
from muybridge.video.sources import Source

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Spread:
    """Several measurements of a figure: mean and standard deviation (of a sample; None if there is one only)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of one value or more."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.1%}" + (f" ± {self.deviation * 100:.1f}" if self.deviation is not None else "")


def check_sweep_folder(out: Path) -> None:
    """Raise BadInput if there is something in a folder that is no sweep."""
    if not (out / SWEEP).is_file() and out.exists() and not (out.is_dir() and is_empty(out)):
        raise BadInput(f"{out} exists already and is no sweep; nothing is written over. Give another --out.")


def train_or_resume(
    recipe: Recipe,
    folder: Path,
    source: Source,
    backbone: ViT | None,
    progress: Progress,
    texts: Sequence[str] | None,
    until: int | None = None,
) -> None:
    """One training of a sweep, which goes on where it was if it was stopped; otherwise as `train`."""
    if backbone is not None and recipe.train.unfreeze != "none":
        backbone = copy.deepcopy(backbone)  # the next training starts from it as it was
    if can_resume(folder):
        resume(folder, backbone, progress, until)
        return
    # Stopped before its first checkpoint: there is nothing in it but its setting.
    shutil.rmtree(folder, ignore_errors=True)
    train(recipe, folder, source, backbone, progress, texts=texts, until=until)


def told_differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first three fields that differ, in words."""
    differ = [key for key in {**there, **asked} if there.get(key) != asked.get(key)]
    return "; ".join(f"{key} was {there.get(key)}, now {asked.get(key)}" for key in differ[:3])


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a sweep holds; raises CheckpointError where that is no object."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); move {path.parent} away, and run again.") from None


def as_dict(spread: Spread) -> dict[str, Any]:
    """For JSON."""
    return {"mean": spread.mean, "deviation": spread.deviation, "count": spread.count}


def flat_fields(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dicts in a dict as dotted names: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flat_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
