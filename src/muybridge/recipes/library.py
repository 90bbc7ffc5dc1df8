"""The published configurations: recipes/published/*.yaml, one file a method, as dataclasses.

    recipe_names("evl")                        # ('evl_vitb16_k400_8f', ...)
    published_recipe("evl_vitb16_k400_8f").recipe.train.lr
    find_recipe("evl_vitb16_k400_8f")          # or a path: the Recipe alone

A file has `common` (fields of all its entries) and `recipes` (name -> fields). An entry's fields stand over the common
ones, dicts are merged field by field, `notes` follow the common notes; everything else replaces. `ours` (figure ->
value) stands for entries of `stated` that nobody states: our own counts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from muybridge.errors import BadInput, unknown
from muybridge.recipes.fields import from_dict
from muybridge.recipes.files import parse_recipe, read_recipe
from muybridge.structures import Recipe

Figure = Literal[
    "own",
    "trainable",
    "backbone",
    "text",
    "total",
    "tower_and_own",
    "everything",
    "merged",
    "multiply_adds",
    "multiply_adds_merged",
]
OURS = "ours"


@dataclass(frozen=True)
class Stated:
    """A figure that somebody states of a published model, to be compared with our count.

    Attributes:
        figure: what is counted; the names are those of `muybridge.info.Info.figure`.
        value: as printed, such as `33,183,376`, `26.105 M` (parameters) or `151.3 G` (multiply-adds of one view).
        place: where it is stated; `ours`: nowhere, our own count, kept so that a change is noticed.
        extra: how much of it is in the published model and not in ours, by intention; `note` says what.
        note: what the figure includes or leaves out.
    """

    figure: Figure
    value: str
    place: str
    extra: int = 0
    note: str = ""

    @property
    def number(self) -> float:
        """`value` in ones."""
        text, _, unit = self.value.replace(",", "").partition(" ")
        return float(text) * {"": 1.0, "M": 1e6, "G": 1e9}[unit]

    @property
    def precision(self) -> float:
        """Half of the last printed digit, in ones."""
        text, _, unit = self.value.replace(",", "").partition(" ")
        digits = len(text.partition(".")[2])
        return 0.5 * {"": 1.0, "M": 1e6, "G": 1e9}[unit] / 10**digits


@dataclass(frozen=True)
class PublishedFile:
    """A file of published weights.

    Attributes:
        name: of the file.
        inferred: the name is a conclusion from the pattern of others, not seen.
        sha256: where known.
    """

    name: str
    inferred: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class PublishedRecipe:
    """One published configuration and what its authors say of it. Nothing of it was reproduced unless `reproduced`.

    Attributes:
        name: `<method>_<backbone>_<dataset>_<frames>f`.
        recipe: the setting, as far as it is known; what is inferred is in `notes`.
        dataset: name of the label list (`muybridge.video.labels`).
        classes: K.
        top1: published accuracy in percent; None: not found.
        top5: likewise.
        source: where the accuracy is printed.
        gflops: as printed; None: not found.
        gflops_means: what that number counts, in words.
        reproduced: a training with this library has reached the accuracy.
        files: of published weights; empty: none are known.
        stated: figures to compare our counts with.
        notes: quirks of the published code, and what in the recipe is inferred or differs.
    """

    name: str
    recipe: Recipe
    dataset: str
    classes: int
    top1: float | None = None
    top5: float | None = None
    source: str = ""
    gflops: float | None = None
    gflops_means: str = ""
    reproduced: bool = False
    files: tuple[PublishedFile, ...] = ()
    stated: tuple[Stated, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def views(self) -> int:
        """How many views of a video are averaged: temporal times spatial."""
        return self.recipe.sampling.views * self.recipe.sampling.crops


def recipe_names(method: str | None = None) -> tuple[str, ...]:
    """Names of the published recipes, of one method or of all, in the order of the files.

    Raises:
        UnknownName: no recipes are published for that method.
    """
    if method is not None and method not in methods_with_recipes():
        raise unknown("method with published recipes", method, methods_with_recipes())
    return tuple(name for name, (owner, _) in _entries().items() if method in (None, owner))


def methods_with_recipes() -> tuple[str, ...]:
    """The methods that have a file of published recipes."""
    return tuple(_files())


def published_recipe(name: str) -> PublishedRecipe:
    """The published recipe of that name.

    Raises:
        UnknownName: there is none; the closest are named.
    """
    entries = _entries()
    if name not in entries:
        raise unknown("recipe", name, entries)
    method, entry = entries[name]
    recipe = parse_recipe({"method": method, **entry["recipe"]})
    ours = [{"figure": figure, "value": value, "place": OURS} for figure, value in entry.get("ours", {}).items()]
    fields = {name: value for name, value in entry.items() if name != "ours"}
    fields |= {"name": name, "recipe": recipe, "stated": [*entry.get("stated", ()), *ours]}
    return from_dict(PublishedRecipe, fields, f"{name}.")


def find_recipe(text: str | Path) -> Recipe:
    """A published recipe by its name, or a recipe file by its path.

    Raises:
        UnknownName: neither a published name nor a file; the closest names are listed.
        BadInput: the file holds no recipe.
    """
    if str(text) in _entries():
        return published_recipe(str(text)).recipe
    path = Path(text)
    if path.is_file() or path.suffix in (".json", ".yaml", ".yml"):
        return read_recipe(path)
    raise unknown("recipe", str(text), _entries(), "A recipe file ends in .json or .yaml.")


def recipes_for_file(file_name: str) -> tuple[str, ...]:
    """Names of the recipes whose published weights are in a file of that name (folders before it do not count)."""
    wanted = Path(file_name).name
    return tuple(
        name
        for name, (_, entry) in _entries().items()
        if any(file["name"] == wanted for file in entry.get("files", ()))
    )


def recipe_for_sha256(digest: str) -> str | None:
    """Name of the recipe whose published weights have this SHA-256 (hexadecimal); None: not known."""
    for name, (_, entry) in _entries().items():
        if any(file.get("sha256") == digest.lower() for file in entry.get("files", ())):
            return name
    return None


def merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `common`: dicts field by field, `notes` after the common ones, everything else replaced."""
    merged = dict(common)
    for name, value in own.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = merge(merged[name], value)
        elif name == "notes":
            merged[name] = [*merged.get(name, ()), *value]
        else:
            merged[name] = value
    return merged


@functools.cache
def _files() -> dict[str, Any]:
    """Method -> what its file holds."""
    folder = resources.files("muybridge.recipes").joinpath("published")
    return {
        entry.name.removesuffix(".yaml"): yaml.safe_load(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


@functools.cache
def _entries() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (method, merged fields)."""
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for method, file in _files().items():
        for name, own in file["recipes"].items():
            if name in entries:
                raise BadInput(f"The recipe {name} stands twice in the published recipes.")
            entries[name] = (method, merge(file.get("common", {}), own))
    return entries
