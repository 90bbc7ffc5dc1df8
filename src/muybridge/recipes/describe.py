"""What can be set, for `muybridge train --help`."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from inspect import getdoc
from typing import Any

from rich.table import Table

from muybridge.methods import METHODS
from muybridge.structures import Sampling, TrainArgs, Transform


def field_table() -> Table:
    """Every nested field with its default and what it means, as the dataclasses say it."""
    table = Table(title="Fields of a recipe", title_justify="left", show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column(overflow="fold")
    groups: dict[str, type] = {"sampling": Sampling, "transform": Transform, "train": TrainArgs}
    groups |= {name: kind.Config for name, kind in METHODS.items()}
    for name, kind in groups.items():
        meaning = attributes(kind)
        for field in fields(kind):
            default: Any = "" if field.default is MISSING else field.default
            table.add_row(f"--{name}.{field.name}", default_text(default), meaning.get(field.name, ""))
    return table


def default_text(default: Any) -> str:
    """A default as it would be typed: tuples with commas, pairs in them with hyphens, numbers in at most 4 digits."""
    if isinstance(default, tuple) and default and isinstance(default[0], tuple):
        return ",".join("-".join(map(default_text, pair)) for pair in default)
    if isinstance(default, tuple):
        return ",".join(default_text(part) for part in default)
    return f"{default:.4g}" if isinstance(default, float) else str(default)


def attributes(kind: type) -> dict[str, str]:
    """The texts of a docstring's `Attributes:` section by name."""
    _, _, section = (getdoc(kind) or "").partition("Attributes:\n")
    found = {}
    for entry in re.split(r"\n    (?=\w)", "\n" + section.split("\n\n")[0]):
        name, colon, text = entry.strip().partition(":")
        if colon:
            found[name] = " ".join(text.split())
    return found
