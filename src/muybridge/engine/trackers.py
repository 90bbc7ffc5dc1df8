"""Figures of a training sent to a tracker, through accelerate. `metrics.jsonl` is written whatever is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muybridge.errors import BadInput
from muybridge.recipes.fields import to_dict
from muybridge.structures import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "muybridge"


def check_tracker(name: str) -> None:
    """Raise BadInput if the tracker's library is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise BadInput(
            f"train.tracker {name} needs a library: pip install 'muybridge[{name}]', or --train.tracker none."
        )


class Tracker:
    """Where the figures of one run go; does nothing if `train.tracker` is `none`.

    Args:
        accelerator: of the run.
        recipe: whose `train.tracker` is read; all its fields are sent as the setting.
        folder: of the run; TensorBoard's files lie in `tensorboard` there.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, folder: Path) -> None:
        name = recipe.train.tracker
        self.on = name != "none"
        self.accelerator = accelerator
        if not self.on:
            return
        from accelerate.utils import LoggerType, ProjectConfiguration

        check_tracker(name)
        accelerator.log_with = [LoggerType(name)]
        accelerator.project_configuration = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder))
        project = "tensorboard" if name == "tensorboard" else PROJECT
        kinds: dict[str, dict[str, Any]] = {
            "tensorboard": {},
            "trackio": {"name": folder.name, "resume": "allow"},
            "wandb": {"name": folder.name, "dir": str(folder), "resume": "allow"},
        }
        accelerator.init_trackers(project, flat(to_dict(recipe)), {name: kinds[name]})

    def log(self, line: Mapping[str, float]) -> None:
        """The figures of an epoch; `line["epoch"]` is the step."""
        if self.on:
            figures = {name: value for name, value in line.items() if name != "epoch"}
            self.accelerator.log(figures, step=int(line["epoch"]))

    def finish(self) -> None:
        """Everything is sent."""
        if self.on:
            self.accelerator.end_training()
            self.on = False


def flat(plain: Mapping[str, Any], before: str = "") -> dict[str, str | int | float | bool]:
    """Nested fields by their dotted names, as trackers take them: numbers, truth values and text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif isinstance(value, (str, int, float, bool)):
            found[before + name] = value
        else:
            found[before + name] = "" if value is None else ",".join(str(part) for part in value)
    return found
