"""Settings of a run as a person reads them: flat, without the folders of a user, beside their defaults."""

from __future__ import annotations

from typing import Any

from muybridge.engine.sweeps import flat_fields
from muybridge.methods import METHODS
from muybridge.recipes import to_dict
from muybridge.report.environment import without_home
from muybridge.structures import Recipe


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every field by its dotted name; the home folder is written as `~`."""
    flat = flat_fields(to_dict(recipe))
    return {name: without_home(value) if isinstance(value, str) else value for name, value in flat.items()}


def defaults_of(method: str) -> dict[str, Any]:
    """The default of every field of a recipe for this method, its own options too."""
    options = to_dict(METHODS[method].Config()) if method in METHODS else {}
    return flat_fields(to_dict(Recipe(method=method, options=options)))


def changed(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Field -> (value, default) of those that differ; the default is None where a field has none."""
    default = defaults_of(recipe.method)
    return {
        name: (value, default.get(name))
        for name, value in settings_of(recipe).items()
        if name not in default or default[name] != value
    }


def value_text(value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value)) or "-"
    return str(value)
