"""Recipes: complete settings as data, published ones, their files, and changing single fields by name."""

from muybridge.recipes.check import check
from muybridge.recipes.fields import from_dict, override, to_dict
from muybridge.recipes.files import fit_to_backbone, read_recipe, validate, write_recipe
from muybridge.recipes.library import (
    PublishedRecipe,
    find_recipe,
    published_recipe,
    recipe_for_sha256,
    recipe_names,
    recipes_for_file,
)

__all__ = [
    "PublishedRecipe",
    "check",
    "find_recipe",
    "fit_to_backbone",
    "from_dict",
    "override",
    "published_recipe",
    "read_recipe",
    "recipe_for_sha256",
    "recipe_names",
    "recipes_for_file",
    "to_dict",
    "validate",
    "write_recipe",
]
