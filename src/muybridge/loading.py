"""`muybridge.load`: a run, a published checkpoint or a state dict becomes a recogniser, strictly.

    load("runs/x")                                             # what `muybridge train` or `convert` wrote
    load("k400_vitb16_8f_dec4x768.pth")                        # recognised by keys, its recipe by file name or SHA-256
    load("mine.pth", recipe="zeroi2v_vitb16_k400_8f")          # what the tensors do not tell comes from a recipe
    load(state_dict, config={"adapter_scale": 0.5, ...})       # or is given
    load("org/name@v1")                                        # a model on the hub, if there is no such file

Nothing is guessed: a name that two recipes could have meant, a value that contradicts the tensors and a key that no
table lists are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muybridge.backbones.files import read_state_dict, sha256_of
from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES, backbone_info, load_backbone
from muybridge.engine.checkpoint import is_model, load_model, model_spec
from muybridge.errors import BadInput, CheckpointError, MissingFile, MuybridgeError, closest
from muybridge.hub.fetch import fetch, hub_name
from muybridge.methods.base import text_head
from muybridge.published.assemble import assemble, read_published, recognise
from muybridge.published.base import Published
from muybridge.recipes import (
    PublishedRecipe,
    find_recipe,
    published_recipe,
    recipe_for_sha256,
    recipe_names,
    recipes_for_file,
)
from muybridge.recogniser import Recogniser
from muybridge.structures import CLIP_MEAN, CLIP_STD, Recipe, Sampling, Transform
from muybridge.video.labels import known_labels

State = Mapping[str, Tensor]
# What OpenAI calls its archives, which people put beside a checkpoint of EVL.
ARCHIVES = {
    "clip_vitb32": "ViT-B-32.pt",
    "clip_vitb16": "ViT-B-16.pt",
    "clip_vitl14": "ViT-L-14.pt",
    "clip_vitl14_336": "ViT-L-14-336px.pt",
}


def load(
    source: str | Path | State,
    device: torch.device | str | None = None,
    weights: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    recipe: str | Path | None = None,
    labels: Sequence[str] | None = None,
    frames: int | None = None,
    image_size: tuple[int, int] | None = None,
    interpolate: bool = False,
) -> Recogniser:
    """A recogniser from a run, a published checkpoint or its state dict.

    Args:
        source: a run folder or its `model.safetensors`; a file in one of the published formats (EVL, ILA, DiST,
            ZeroI2V); such a file's state dict, key -> tensor; or, where there is nothing of that name on this machine,
            a model on the Hugging Face hub, `org/name` or `org/name@revision`.
        device: where it shall run; None: CUDA if there is one, else the CPU.
        weights: file of the image transformer, for a model without it (a slim run, EVL's published files).
        config: what a published file does not tell, in the authors' words or ours; given values must agree with the
            tensors.
        recipe: name of a published recipe or path of a recipe file that says the same, with sampling, transform and
            class names. By default it is found by the file's SHA-256 or name.
        labels: class names. A model with a linear head keeps its classes: as many names are expected. A model with a
            text head recognises these from now on.
        frames: T, if it is to read another number of frames than it was made for; needs `interpolate`.
        image_size: (height, width) in pixels, likewise.
        interpolate: allow tables over time and space to be interpolated.

    Raises:
        MissingFile: there is nothing at `source`.
        CheckpointError: the file is damaged, of no known format, or its keys, shapes or values disagree.
        BadInput: something that the tensors do not tell is not given; the recipes that fit are listed.
    """
    if isinstance(labels, str):
        raise BadInput("labels is one text; expected a list of class names.")
    if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise BadInput(f"labels are {', '.join(labels) or 'empty'}; expected at least 2 different names.")
    on_hub = hub_name(source)
    if on_hub is not None:
        source = fetch(*on_hub)
    if not isinstance(source, Mapping) and not Path(source).exists():
        alike = closest(str(source), recipe_names())
        raise MissingFile(
            f"There is nothing at {source}; expected a run folder, a file, or org/name of a model on the hub."
            + (f" Recipes of such a name, which the command line takes too: {', '.join(alike)}." if alike else "")
        )
    if not isinstance(source, Mapping) and (Path(source).is_dir() or is_model(source)):
        if config or recipe:
            raise BadInput(f"{source} says itself what it is; config and recipe are for published checkpoints.")
        method, spec, text = load_model(source, weights)
        recogniser = Recogniser(method, spec, device or _best(), text)
        recogniser.source = Path(source)
    else:
        recogniser = _load_published(source, device or _best(), weights, config, recipe, labels)
        labels = None
    if labels is not None:
        recogniser.relabel(labels, weights)
    return _at(recogniser, frames, image_size, interpolate)


def _best() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _at(
    recogniser: Recogniser, frames: int | None, image_size: tuple[int, int] | None, interpolate: bool
) -> Recogniser:
    spec = recogniser.spec
    frames, image_size = frames or spec.sampling.frames, image_size or spec.transform.size
    if (frames, image_size) == (spec.sampling.frames, spec.transform.size):
        return recogniser
    if not interpolate:
        raise BadInput(
            f"This model reads {spec.sampling.frames} frames of {spec.transform.size[0]}x{spec.transform.size[1]} px; "
            f"{frames} frames of {image_size[0]}x{image_size[1]} px are asked for. Its tables can be "
            "interpolated over time and space, which changes accuracy: allow it with --interpolate (interpolate=True)."
        )
    return recogniser.adapted(frames, image_size)


def _load_published(
    source: str | Path | State,
    device: torch.device | str,
    weights: str | Path | None,
    config: Mapping[str, Any] | None,
    recipe: str | Path | None,
    labels: Sequence[str] | None,
) -> Recogniser:
    what = "This state dict" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else read_state_dict(source)
    name = recognise(state, what)
    entry, setting, how = _setting(source, name, recipe)
    if setting is not None and setting.method != name:
        raise CheckpointError(f"{what} is a file of {name}, but the recipe is for {setting.method}.")
    told = dict(setting.options if setting is not None else {}) | dict(config or {})
    try:
        published = read_published(state, told)
    except BadInput as error:
        fitting = _fitting(state, name)
        if setting is not None or not fitting:
            raise
        raise BadInput(f"{what}: {error} Recipes that fit its tensors: {', '.join(fitting)}.") from None
    notes = [how] if how else []
    names = _names(published, entry, labels, what)
    frames = setting.sampling.frames if setting is not None else None
    backbone = None if published.clip else _backbone(source, setting, weights, what)
    tower = BACKBONES[setting.backbone].config if setting is not None and setting.backbone in BACKBONES else None
    try:
        model = assemble(published, len(names) if names else None, published.frames or frames, backbone, tower)
    except (BadInput, CheckpointError) as error:
        fitting = _fitting(state, name) if setting is None else []
        more = f" Recipes that fit its tensors: {', '.join(fitting)}." if fitting else ""
        raise type(error)(f"{what}: {error}{more}") from None
    method = model.method
    if setting is not None and setting.transform.size != method.image_size:
        raise CheckpointError(
            f"{what} reads {method.image_size[0]}x{method.image_size[1]} px; the recipe says "
            f"{setting.transform.size[0]}x{setting.transform.size[1]}."
        )
    if setting is not None and method.frames != setting.sampling.frames:
        raise CheckpointError(f"{what} has {method.frames} frames; the recipe says {setting.sampling.frames}.")
    if not names:
        names = tuple(f"class {index}" for index in range(method.classes))
        notes.append("The class names are not known: classes are numbered. Give them with --labels.")
    if setting is not None:
        sampling, transform = setting.sampling, setting.transform
    else:
        sampling = Sampling(frames=method.frames)
        transform, whose = _pixels(name)
        notes.append(f"No recipe tells how frames are sampled: one view of {method.frames}. Pixel statistics: {whose}.")
    transform = replace(
        transform, size=method.image_size, mean=transform.mean or CLIP_MEAN, std=transform.std or CLIP_STD
    )
    spec = model_spec(
        model.name, method, setting.backbone if setting is not None else "custom", names, sampling, transform
    )
    recogniser = Recogniser(method, spec, device, model.text, model, notes)
    has_words = labels is not None or entry is not None
    if text_head(method) is not None and has_words:
        recogniser.relabel(names, weights)
    return recogniser


def _setting(
    source: str | Path | State, name: str, recipe: str | Path | None
) -> tuple[PublishedRecipe | None, Recipe | None, str]:
    """The recipe of a file: given, or found by SHA-256 or file name; and a sentence on how it was found."""
    if recipe is not None:
        entry = published_recipe(str(recipe)) if str(recipe) in recipe_names() else None
        return entry, entry.recipe if entry else find_recipe(str(recipe)), ""
    if isinstance(source, Mapping):
        return None, None, ""
    known = any(file.sha256 for other in recipe_names(name) for file in published_recipe(other).files)
    by_hash = recipe_for_sha256(sha256_of(source)) if known else None
    if by_hash is not None:
        entry = published_recipe(by_hash)
        return entry, entry.recipe, f"Recipe {by_hash}, by the file's SHA-256."
    found = [other for other in recipes_for_file(str(source)) if published_recipe(other).recipe.method == name]
    if len(found) > 1:
        raise BadInput(f"{source}: its name is that of several recipes ({', '.join(found)}); say which with --recipe.")
    if found:
        entry = published_recipe(found[0])
        return entry, entry.recipe, f"Recipe {found[0]}, by the file's name."
    return None, None, ""


def _pixels(name: str) -> tuple[Transform, str]:
    """Pixel statistics that all published recipes of a method share; else CLIP's. And whose they are."""
    shared = {(r.mean, r.std) for r in (published_recipe(other).recipe.transform for other in recipe_names(name))}
    if len(shared) == 1:
        ((mean, std),) = shared
        if mean is not None and std is not None:
            return Transform(mean=mean, std=std), f"those of all published recipes of {name}"
    return Transform(mean=CLIP_MEAN, std=CLIP_STD), "CLIP's"


def _fitting(state: State, name: str) -> list[str]:
    """The recipes whose options the tensors do not contradict."""
    fitting = []
    for candidate in recipe_names(name):
        recipe = published_recipe(candidate).recipe
        try:
            published = read_published(state, recipe.options)
        except MuybridgeError:
            continue
        if published.frames in (None, recipe.sampling.frames) and _same_tower(published, recipe):
            fitting.append(candidate)
    return fitting


def _same_tower(published: Published, recipe: Recipe) -> bool:
    config = backbone_info(recipe.backbone).config
    rows = published.clip.get("visual.positional_embedding")
    kernel = published.clip.get("visual.conv1.weight")
    if rows is None or kernel is None:
        return True  # the file does not hold it
    tokens = config.grid[0] * config.grid[1] + 1
    return tuple(kernel.shape) == (config.width, 3, *config.patch) and tuple(rows.shape) == (tokens, config.width)


def _names(
    published: Published, entry: PublishedRecipe | None, labels: Sequence[str] | None, what: str
) -> tuple[str, ...]:
    """Class names: given, of the recipe's data set, or none."""
    if labels is not None:
        names = tuple(labels)
    elif entry is not None:
        names = known_labels(entry.dataset)
    else:
        return ()
    if published.classes is not None and published.classes != len(names):
        whose = f"the recipe's {entry.dataset} has" if labels is None and entry is not None else "the labels are"
        raise CheckpointError(
            f"{what} has {published.classes} classes, but {whose} {len(names)}. Give the right --recipe or --labels."
        )
    return names


def _backbone(source: str | Path | State, setting: Recipe | None, weights: str | Path | None, what: str) -> ViT:
    """The image transformer for a file that does not hold it: given, beside it, or fetched."""
    name = setting.backbone if setting is not None else None
    if weights is None and not isinstance(source, Mapping):
        folder = Path(source).parent
        beside = [
            folder / file
            for backbone, file in ARCHIVES.items()
            if (folder / file).is_file() and name in (None, backbone)
        ]
        if len(beside) == 1:
            weights = beside[0]
    if weights is None and name is None:
        raise MissingFile(
            f"{what} does not hold its image transformer. Give its file with --weights, put it beside "
            f"({', '.join(ARCHIVES.values())}), or name the recipe with --recipe."
        )
    return load_backbone(name, weights)[0]
