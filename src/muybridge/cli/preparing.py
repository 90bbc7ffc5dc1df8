"""What a command that trains sets up: the recipe, the videos, the backbone or the model to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muybridge.cli.app import Reading
from muybridge.cli.cache import with_disk_cache
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.backbones.vit import ViT
    from muybridge.engine.progress import Progress
    from muybridge.recogniser import Recogniser
    from muybridge.structures import Recipe
    from muybridge.video.sources import Source

# Short options and the fields that they stand for.
SHORT = {
    "epochs": "train.epochs",
    "unfreeze": "train.unfreeze",
    "cache": "train.cache",
    "init": "init.model",
    "keep_classes": "init.keep_classes",
    "interpolate": "init.interpolate",
}
NOT_TOLD = ("data", "source.videos", "init.model", "weights", "transform.mean", "transform.std", "schema")


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs.

    Attributes:
        setting: with absolute paths, so that it works from any folder.
        source: the videos.
        backbone: the image transformer.
        start: the model to start from, if there is one; `backbone` is its own then.
    """

    setting: Recipe
    source: Source
    backbone: ViT
    start: Recogniser | None


def gather(named: Mapping[str, object], reading: Reading, given: Mapping[str, str] | None) -> dict[str, str]:
    """All that was given as fields of a recipe.

    Args:
        named: options by name, None where one was not given; short ones of `SHORT` become their fields.
        reading: options of data sets.
        given: fields by their own names.

    Raises:
        BadInput: something is given twice.
    """
    changes = {SHORT.get(name, name): str(value) for name, value in named.items() if value is not None}
    short = {field: name for name, field in SHORT.items()}
    for name, value in (*reading.fields().items(), *(given or {}).items()):
        if name in changes:
            brief = short.get(name, name.removeprefix("source."))
            raise BadInput(f"--{name} and its short form --{brief.replace('_', '-')} are both given; give one.")
        changes[name] = value
    return changes


def prepare(changes: dict[str, str], recipe: str | None, progress: Progress) -> Prepared:
    """Set up a training; what was chosen is told.

    Args:
        changes: fields of the recipe, from `gather`.
        recipe: a published recipe's name or a recipe file to which they are changes; None: the defaults, or those of
            the model to start from.
        progress: told.

    Raises:
        MuybridgeError: anything that cannot be used as given.
    """
    from muybridge.backbones.weights import load_backbone
    from muybridge.engine.init import starting_recipe
    from muybridge.engine.store import features_folder
    from muybridge.recipes import check, find_recipe, fit_to_backbone, override, validate
    from muybridge.structures import Recipe
    from muybridge.video.sources import absolute, read_source

    base = find_recipe(recipe) if recipe is not None else None
    start = None
    init = changes.get("init.model") or (base.init.model if base is not None else "")
    if init:
        start = _load(init, changes.get("weights"), recipe)
        for sentence in start.notes:
            progress.say(sentence)
        if "init.model" in changes:
            base = starting_recipe(start.spec, base)
    setting = validate(override(base or Recipe(), changes))
    if changes.get("train.cache") == "disk":
        setting = with_disk_cache(setting)
    check(setting)
    if not setting.data:
        raise BadInput("Give the videos with --data DIR, for example a folder with one folder of files per class.")
    kept, videos = setting.train.cache_folder, setting.source.videos
    setting = replace(
        setting,
        data=absolute(setting.data),
        source=replace(setting.source, videos=str(Path(videos).absolute()) if videos else ""),
        weights=str(Path(setting.weights).absolute()) if setting.weights else "",
        init=replace(setting.init, model=_absolute(setting.init.model)),
        train=replace(setting.train, cache_folder=str(features_folder(kept)) if kept else ""),
    )
    source = read_source(setting.data, setting.source)
    if start is not None:
        return Prepared(setting, source, start.trained.backbone, start)
    asked = setting.backbone if "backbone" in changes or recipe or not setting.weights else None
    vit, info = load_backbone(asked, setting.weights or None)
    return Prepared(fit_to_backbone(setting, info), source, vit, None)


def _load(init: str, weights: str | None, recipe: str | None) -> Recogniser:
    from muybridge.engine.checkpoint import is_model
    from muybridge.engine.init import find_init
    from muybridge.loading import load
    from muybridge.recipes import recipe_names

    path = find_init(init)
    told = next((name for name in (init, recipe) if name in recipe_names()), None)
    ours = path.is_dir() or is_model(path)
    return load(path, device="cpu", weights=weights, recipe=None if ours else told)


def _absolute(text: str) -> str:
    return str(Path(text).absolute()) if text and Path(text).exists() else text


def tell(prepared: Prepared, folder: Path, progress: Progress) -> None:
    """Say what is going to be trained on what, what differs from the defaults, and about how much memory it takes."""
    from muybridge.engine.small_data import auto_epochs

    setting, source = prepared.setting, prepared.source
    args = setting.train
    progress.say(source.how)
    epochs = str(args.epochs) if args.epochs else f"{auto_epochs(len(source.train), args)} (auto)"
    progress.say(
        f"{setting.method} on {setting.backbone}: {setting.sampling.frames} frames of "
        f"{setting.transform.size[0]}x{setting.transform.size[1]} px, {epochs} epochs of "
        f"{len(source.train)} videos, batch {args.batch_size}, lr {args.lr:g} -> {folder}"
    )
    changed = differences(setting)
    progress.say(
        "Settings that differ from the defaults: "
        + (", ".join(f"{name} {value}" for name, value in changed.items()) or "none")
        + f". All are kept in {folder / 'recipe.json'}."
    )
    gigabytes, trained = estimate(setting, prepared.backbone, len(source.labels))
    progress.say(
        f"{trained:,} parameters are trained. A step of {args.batch_size} videos takes about "
        f"{gigabytes:.1f} GB in fp32, less in bf16 or fp16 (an estimate; without the videos that wait)."
    )


def differences(setting: Recipe) -> dict[str, str]:
    """Fields that are not what they are by default, as one would type them; of a method, its options."""
    from muybridge.recipes import validate
    from muybridge.recipes.describe import default_text
    from muybridge.structures import Recipe

    default = validate(replace(Recipe(), method=setting.method))
    found: dict[str, str] = {}

    def compare(name: str, value: Any, usual: Any) -> None:
        if is_dataclass(value):
            for field in fields(value):
                inner = f"{name}.{field.name}" if name else field.name
                compare(inner, getattr(value, field.name), getattr(usual, field.name))
        elif isinstance(value, dict):
            for key in value:
                compare(f"{setting.method}.{key}", value[key], usual[key])
        elif value != usual and name not in NOT_TOLD:
            found[name] = default_text(value)

    compare("", setting, default)
    return found


def estimate(setting: Recipe, backbone: ViT, classes: int) -> tuple[float, int]:
    """GB of a training step in fp32, and how many numbers are trained; counted without computing anything."""
    import torch

    from muybridge.backbones.vit import ViT
    from muybridge.engine.unfreeze import unfreeze
    from muybridge.info.counting import training_memory
    from muybridge.methods import build_method
    from muybridge.methods.base import count

    frames, size = setting.sampling.frames, setting.transform.size
    options = dict(setting.options)
    if options.get("head") == "auto":
        options["head"] = "linear"
    with torch.device("meta"):
        model = build_method(setting.method, ViT(backbone.config), classes, frames, size, options)
    unfreeze(model, setting.train.unfreeze)
    memory = training_memory(model, setting.train.batch_size)
    return memory.total / 1e9, count(model.parameters(), trainable_only=True)
