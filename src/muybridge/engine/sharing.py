"""Frozen features that many trainings share: how many sets they need, how large they are, and computing them once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from muybridge.backbones.vit import ViT
from muybridge.engine.caching import cache_features
from muybridge.engine.progress import Progress
from muybridge.engine.setting import draws_seed, was_bytes
from muybridge.engine.small_data import fit_to_data
from muybridge.errors import BadInput
from muybridge.methods import build_method, method_class
from muybridge.methods.base import Method, check_cacheable
from muybridge.recipes import check
from muybridge.recipes.fields import to_dict
from muybridge.structures import Recipe
from muybridge.video.sources import Source


@dataclass(frozen=True)
class FeatureSet:
    """Features that are computed once.

    Attributes:
        recipe: of one of the trainings that read them.
        source: its videos.
        key: fields that decide what they are, by their dotted names.
        bytes: their size on disk.
    """

    recipe: Recipe
    source: Source
    key: dict[str, Any]
    bytes: int


def with_shared_features(recipes: Sequence[Recipe]) -> tuple[list[Recipe], str]:
    """The recipes with `train.cache=disk` and fixed draws that do not depend on `train.seed`, if all can have it.

    Returns:
        The recipes; and why they are as they were, empty if they are not.
    """
    try:
        check_cacheable(method_class(recipes[0].method))
    except BadInput:
        return list(recipes), f"{recipes[0].method} trains within or between the backbone's blocks"
    shared = []
    for recipe in recipes:
        args = recipe.train
        args = replace(args, cache="disk", fixed_views=args.fixed_views or 1, draws_seed=draws_seed(args))
        shared.append(replace(recipe, train=args))
        try:
            check(shared[-1])
        except BadInput as error:
            return list(recipes), str(error).rstrip(".")
    return shared, ""


def feature_sets(recipes: Sequence[Recipe], source: Source, backbone: ViT) -> list[FeatureSet]:
    """The sets of features that these trainings read, each once, in the order of the first that reads them.

    Args:
        recipes: with `train.cache=disk`.
        source: the videos.
        backbone: the image transformer; nothing is computed.
    """
    sets: dict[str, FeatureSet] = {}
    built: dict[str, Method] = {}
    for recipe in recipes:
        method = empty_method(recipe, source, backbone, built)
        key = _key(recipe, method)
        text = json.dumps(key, sort_keys=True)
        if text not in sets:
            fitted, fitting = fit_to_data(recipe, source)
            sets[text] = FeatureSet(fitted, fitting, key, _bytes(fitted, fitting, method))
    return list(sets.values())


def compute_sets(
    sets: Sequence[FeatureSet], backbone: ViT, progress: Progress, texts: Sequence[str] | None = None
) -> None:
    """Compute the features that are not on disk yet; what is needed is said before.

    Raises:
        BadInput: as `cache_features`.
    """
    size = megabytes_text(sum(one.bytes for one in sets))
    if len(sets) == 1:
        progress.say(
            f"All settings read the same frozen features, about {size}, computed once, before the first training. "
            f"Fixed random draws of every training video: {sets[0].recipe.train.fixed_views} (train.fixed_views)."
        )
    else:
        differ = [name for name in sets[0].key if any(one.key[name] != sets[0].key[name] for one in sets)]
        progress.say(
            f"{', '.join(differ)} decide what is computed of a video: {len(sets)} sets of frozen features, about "
            f"{size} in all, each computed once, before the first training."
        )
    for one in sets:
        cache_features(one.recipe, one.source, backbone, progress, texts)


def megabytes_text(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def empty_method(recipe: Recipe, source: Source, backbone: ViT, built: dict[str, Method]) -> Method:
    """The recipe's method without content, to see whether it can be built.

    Args:
        recipe: `method`, its options, frames and size are read.
        source: the classes.
        backbone: its shape is read.
        built: those that were built before; this one joins them.

    Raises:
        BadInput: it cannot.
    """
    frames, size = recipe.sampling.frames, recipe.transform.size
    wanted = json.dumps([recipe.options, frames, size], sort_keys=True)
    if wanted not in built:
        built[wanted] = _build_empty(recipe, backbone, len(source.labels), frames, size)
    return built[wanted]


def _build_empty(recipe: Recipe, backbone: ViT, classes: int, frames: int, size: tuple[int, int]) -> Method:
    with torch.device("meta"):
        vit = ViT(backbone.config)
        try:
            return build_method(recipe.method, vit, classes, frames, size, recipe.options)
        except BadInput:
            if recipe.options.get("head") != "auto":
                raise
            # It may become a text head; the text tower is not loaded yet.
            with suppress(BadInput):
                return build_method(recipe.method, vit, classes, frames, size, {**recipe.options, "head": "text"})
            raise


def _key(recipe: Recipe, method: Method) -> dict[str, Any]:
    # As `frozen_setting` has it, without what is the same for all trainings of a sweep.
    groups: dict[str, Mapping[str, Any]] = {
        recipe.method: method.frozen_key(),
        "sampling": to_dict(recipe.sampling),
        "transform": to_dict(recipe.transform),
    }
    key = {f"{group}.{name}": to_dict(value) for group, fields in groups.items() for name, value in fields.items()}
    args = recipe.train
    for name in ("fixed_views", "cache_precision", "balanced_sampling"):
        key[f"train.{name}"] = getattr(args, name)
    return key | {"train.draws_seed": draws_seed(args)}


@torch.no_grad()
def _bytes(recipe: Recipe, source: Source, method: Method) -> int:
    """Size of the features on disk, from their shapes."""
    video = torch.empty(1, method.frames, 3, *method.image_size, device="meta")
    features = method.frozen(video)
    assert features is not None
    each = 0
    for feature in features.values():
        if feature.shape == video.shape and was_bytes(recipe.transform):
            each += feature.numel()
        elif recipe.train.cache_precision == "half" and feature.is_floating_point():
            each += 2 * feature.numel()
        else:
            each += feature.nbytes
    views = recipe.sampling.views * recipe.sampling.crops
    return each * (len(source.train) * recipe.train.fixed_views + len(source.val) * views)
