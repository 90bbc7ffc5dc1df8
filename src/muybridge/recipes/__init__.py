"""Recipes: complete settings as data, their files, and changing single fields by name."""

from muybridge.recipes.check import check
from muybridge.recipes.fields import from_dict, override, to_dict
from muybridge.recipes.files import fit_to_backbone, read_recipe, validate, write_recipe

__all__ = ["check", "fit_to_backbone", "from_dict", "override", "read_recipe", "to_dict", "validate", "write_recipe"]
