"""Starting from a trained video model in place of fresh parameters.

Its head (or its features of class names) is replaced for the new classes, everything else is loaded strictly. Which
tensors belong to the classes is found out, not listed: those that change their shape with the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.engine.evaluate import Model
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, MissingFile, key_difference, shape_text
from muybridge.methods import build_method
from muybridge.methods.base import Method, text_head
from muybridge.recipes import published_recipe, recipe_names
from muybridge.structures import ModelSpec, Recipe

START = "start.safetensors"  # in a run folder: the model as the training began


def find_init(text: str) -> Path:
    """The file or folder that `init.model` names: a path, or a published recipe whose file is in the current folder.

    Raises:
        MissingFile: there is none; of a recipe, the names of its files are told.
    """
    path = Path(text)
    if path.exists():
        return path.absolute()
    if text not in recipe_names():
        raise MissingFile(
            f"There is nothing at {text} to start from; expected a run folder, a file of a model, or the name of a "
            "published recipe (muybridge list recipes)."
        )
    names = [file.name for file in published_recipe(text).files]
    for name in names:
        if Path(name).is_file():
            return Path(name).absolute()
    if not names:
        raise MissingFile(f"No file of weights is known for {text}; give one with --init FILE --recipe {text}.")
    raise MissingFile(
        f"The weights of {text} are not here; expected {' or '.join(names)} in the current folder. Fetch it from its "
        "authors, or give its path: --init FILE."
    )


def starting_recipe(spec: ModelSpec, base: Recipe | None = None) -> Recipe:
    """A recipe that fits a trained model.

    Args:
        spec: of the model. Method, options and backbone are its own.
        base: the rest; None: defaults, and sampling and transform of the model too. With it, only the number of frames
            and the size and statistics of pixels are the model's.

    Raises:
        BadInput: `base` is for another method.
    """
    transform = spec.transform
    if base is None:
        base = replace(Recipe(), sampling=spec.sampling, transform=transform)
        if transform.swap_labels:  # of classes that are no more
            base = replace(base, transform=replace(transform, swap_labels=(), flip=0.0))
    elif base.method != spec.method:
        raise BadInput(f"The model to start from is of {spec.method}, and the recipe is for {base.method}.")
    return replace(
        base,
        method=spec.method,
        options=dict(spec.options),
        backbone=spec.backbone,
        sampling=replace(base.sampling, frames=spec.sampling.frames),
        transform=replace(base.transform, size=transform.size, mean=transform.mean, std=transform.std),
    )


def start_from(
    model: Model, recipe: Recipe, labels: Sequence[str], texts: Sequence[str], progress: Progress | None = None
) -> Method:
    """A method that begins where `model` ended, for other classes.

    Args:
        model: from `muybridge.load`. One with a text head recognises `texts` from then on.
        recipe: of the training; see `starting_recipe`.
        labels: names of the new classes.
        texts: what to call them for a text head.
        progress: told what was replaced and what was kept.

    Returns:
        The method, on the CPU. Its backbone is the model's own, or a resized copy. New rows of a head are drawn from
        torch's generator.

    Raises:
        BadInput: another method, backbone, number of frames or size than the model has; options that change tensors.
    """
    progress = progress or Progress()
    spec = model.spec
    _check_same(recipe, spec)
    old_labels = spec.labels
    if text_head(model.trained) is not None:
        model.relabel(texts)
    old = model.trained.cpu()
    frames, size = recipe.sampling.frames, recipe.transform.size
    if (frames, size) != (old.frames, old.image_size):
        if not recipe.init.interpolate:
            raise BadInput(
                f"The model to start from reads {old.frames} frames of {old.image_size[0]}x{old.image_size[1]} px; "
                f"{frames} frames of {size[0]}x{size[1]} px are asked for. Its tables can be "
                "interpolated: --interpolate."
            )
        old = old.adapted(frames, size)
        progress.say(f"Tables over time and space are interpolated to {frames} frames of {size[0]}x{size[1]} px.")
    head = text_head(old)
    features = None if head is None else head.features.clone()
    method = build_method(recipe.method, old.backbone, len(labels), frames, size, recipe.options, features)
    state, fresh = old.own_state(), method.own_state()
    replaced = class_tensors(recipe, old.backbone, len(labels))
    common = [label for label in labels if label in old_labels] if recipe.init.keep_classes else []
    for name, dim in replaced.items():
        if head is None and name in state and name in fresh:
            state[name] = _rows(state[name], fresh[name], dim, labels, old_labels, common)
    difference = key_difference(_shapes(fresh), _shapes(state))
    if difference:
        raise BadInput(
            f"The options of {recipe.method} do not fit the model to start from: {difference}. Leave out those that "
            "change tensors."
        )
    method.load_own(state)
    progress.say(
        f"Start: {recipe.init.model or 'a model'}, {spec.method} on {spec.backbone}, {len(old_labels)} classes."
    )
    names = ", ".join(f"{name} {shape_text(fresh[name].shape)}" for name in replaced)
    whence = "from their names" if head is not None else "anew"
    progress.say(
        f"Replaced for {len(labels)} classes, {whence}: {names}. The other {len(state) - len(replaced)} tensors and "
        "the backbone are the model's."
    )
    _say_common(labels, old_labels, common, recipe.init.keep_classes and head is None, head is None, progress)
    return method


def class_tensors(recipe: Recipe, backbone: ViT, classes: int) -> dict[str, int]:
    """Tensors of a method whose shape depends on the number of classes, and in which dimension."""
    shapes = []
    with torch.device("meta"):
        for number in (classes, classes + 1):
            frames, size = recipe.sampling.frames, recipe.transform.size
            twin = build_method(recipe.method, ViT(backbone.config), number, frames, size, recipe.options)
            shapes.append(_shapes(twin.own_state()))
    return {
        name: next(dim for dim, (a, b) in enumerate(zip(shape, shapes[1][name], strict=True)) if a != b)
        for name, shape in shapes[0].items()
        if shape != shapes[1][name]
    }


def _check_same(recipe: Recipe, spec: ModelSpec) -> None:
    for what, asked, has in (("method", recipe.method, spec.method), ("backbone", recipe.backbone, spec.backbone)):
        if asked != has:
            raise BadInput(
                f"The model to start from has the {what} {has}, and {asked} is asked for; leave --{what} out."
            )


def _rows(
    old: Tensor, fresh: Tensor, dim: int, labels: Sequence[str], old_labels: Sequence[str], common: Sequence[str]
) -> Tensor:
    """The fresh tensor with the old one's rows of the common classes."""
    rows = fresh.clone()
    if common:
        there = torch.tensor([labels.index(label) for label in common])
        here = torch.tensor([old_labels.index(label) for label in common])
        rows.index_copy_(dim, there, old.index_select(dim, here).to(rows))
    return rows


def _say_common(
    labels: Sequence[str], old: Sequence[str], kept: Sequence[str], keeps: bool, linear: bool, progress: Progress
) -> None:
    common = [label for label in labels if label in old]
    if keeps:
        some = f" ({', '.join(kept[:5])}{', ...' if len(kept) > 5 else ''})" if kept else ""
        progress.say(f"{len(kept)} of {len(labels)} classes are kept by their names{some}.")
    elif common and linear:
        progress.say(f"{len(common)} of the classes are known to the model by name; --keep-classes would keep them.")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
