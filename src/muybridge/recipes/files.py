"""Recipe files: JSON in a run folder, JSON or YAML as input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from muybridge.backbones.weights import BACKBONES, Weights
from muybridge.errors import BadInput, MissingFile, unknown
from muybridge.methods import METHODS, method_class
from muybridge.recipes.fields import from_dict, to_dict
from muybridge.structures import IMAGENET_MEAN, IMAGENET_STD, Recipe

SCHEMA = 1


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a `.json`, `.yaml` or `.yml` file.

    Raises:
        MissingFile: no such file.
        BadInput: not JSON or YAML, a value of another type, or a newer schema than this version reads.
        UnknownName: a field or option that does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"There is no recipe file {path}.")
    try:
        text = path.read_text(encoding="utf-8")
        plain = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is not readable as {path.suffix.lstrip('.') or 'YAML'}: {error}") from None
    if not isinstance(plain, dict):
        raise BadInput(f"{path} holds no recipe: expected fields by name, such as 'method: evl'.")
    return parse_recipe(plain)


def parse_recipe(plain: dict[str, Any]) -> Recipe:
    """A recipe from its plain dict; see `read_recipe` for what is raised."""
    plain = dict(plain)
    schema = plain.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise BadInput(f"The recipe has schema {schema}; this version reads {SCHEMA}. Update muybridge.")
    method = plain.get("method", Recipe.method)
    method_class(method)
    if "options" in plain:
        raise unknown("field", "options", [method], hint=f"A method's options stand under its name: '{method}'.")
    for other in METHODS:
        if other != method and other in plain:
            raise BadInput(f"The recipe is for '{method}' but has options of '{other}'. Remove them.")
    options = plain.pop(method, None) or {}
    if not isinstance(options, Mapping):
        raise BadInput(f"'{method}' in the recipe is {options!r}; expected the method's options by name.")
    return validate(from_dict(Recipe, {**plain, "options": options}))


def validate(recipe: Recipe) -> Recipe:
    """The recipe with every option of its method written out and checked.

    Raises:
        UnknownName, BadInput: as `read_recipe`.
    """
    config: Any = from_dict(method_class(recipe.method).Config, recipe.options, recipe.method + ".")
    return replace(recipe, options=asdict(config))


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe as JSON, every field."""
    Path(path).write_text(json.dumps(to_dict(recipe), indent=2) + "\n", encoding="utf-8")


def fit_to_backbone(recipe: Recipe, info: Weights | None) -> Recipe:
    """The recipe for the backbone that was loaded: its name, and its normalisation of pixels where none is set.

    Args:
        recipe: the setting so far.
        info: of the backbone, as `load_backbone` returns it; None: by the recipe's name, else ImageNet's.
    """
    info = info or BACKBONES.get(recipe.backbone)
    mean, std = (info.mean, info.std) if info else (IMAGENET_MEAN, IMAGENET_STD)
    transform = replace(recipe.transform, mean=recipe.transform.mean or mean, std=recipe.transform.std or std)
    return replace(recipe, backbone=info.name if info else recipe.backbone, transform=transform)
