"""The one training loop.

    for each epoch:
        for each batch:  loss = cross entropy + the method's own losses;  step
        evaluate;  keep the best model;  save what is needed to go on

A run folder holds `recipe.json`, `labels.txt`, `split.csv`, `metrics.jsonl`, `model.safetensors` (best), `last/`,
`evaluation.json` and `predictions.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES, backbone_sha256, load_backbone
from muybridge.engine.batches import Batches
from muybridge.engine.checkpoint import load_model
from muybridge.engine.evaluate import Model
from muybridge.engine.freed import freed_memory
from muybridge.engine.init import START, start_from
from muybridge.engine.labels import label_features
from muybridge.engine.last import check_new, load_last
from muybridge.engine.processes import Processes, join_processes, own_gpu
from muybridge.engine.progress import Progress
from muybridge.engine.run import Run, TrainResult
from muybridge.engine.small_data import fit_to_data
from muybridge.engine.trackers import check_tracker
from muybridge.engine.unfreeze import unfreeze
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.methods import build_method
from muybridge.recipes import check, fit_to_backbone, read_recipe
from muybridge.recipes.fields import to_dict
from muybridge.recipes.files import validate
from muybridge.structures import Recipe
from muybridge.video.dataset import Source, read_source, read_split
from muybridge.video.stream import Archives

__all__ = ["TrainResult", "resume", "train"]


def train(
    recipe: Recipe,
    out: str | Path,
    source: Source | None = None,
    backbone: ViT | None = None,
    progress: Progress | None = None,
    batches: tuple[Batches, Batches] | None = None,
    texts: Sequence[str] | None = None,
    start: Model | None = None,
    until: int | None = None,
) -> TrainResult:
    """Train a recogniser.

    Args:
        recipe: the setting; its `data`, `backbone` and `weights` are used unless the next two are given.
        out: the run folder; it must not exist or be empty.
        source: the videos.
        backbone: the image transformer, instead of loading one.
        progress: told of every step.
        batches: of training and validation, instead of reading files: features that several trainings share.
        texts: what to call the classes for a method with a text head, in their order; None: their names.
        start: a trained model to start from, as `muybridge.load` gives it; the recipe must fit it, see
            `starting_recipe`. A recipe whose `init.model` names one needs it here.
        until: pause after this many epochs, where it is not finished by then; `resume` goes on. None: train to the end.

    Raises:
        BadInput: a setting, data set or folder that cannot be used; too many videos that cannot be decoded.
        Interrupted: Ctrl-C or SIGTERM; the run has saved and can be resumed.
        Paused: after `until` epochs; likewise.
    """
    out = Path(out)
    recipe = validate(recipe)
    check(recipe)
    check_tracker(recipe.train.tracker)
    processes = _join()
    processes.agree(lambda: check_new(out))
    progress = (progress if processes.first else None) or Progress()
    if source is None:
        source = read_source(recipe.data, recipe.source)
    beyond = max((label for pair in recipe.transform.swap_labels for label in pair), default=0)
    if beyond >= len(source.labels):
        raise BadInput(
            f"transform.swap_labels names class {beyond}, and the data set has {len(source.labels)} classes, 0 to "
            f"{len(source.labels) - 1}: give its own pairs, or none and --transform.flip 0."
        )
    if recipe.transform.flip and recipe.transform.swap_labels:
        # Indices are of the data set that the recipe was made for; a person sees whether they fit this one.
        pairs = "; ".join(f"{source.labels[a]} <-> {source.labels[b]}" for a, b in recipe.transform.swap_labels)
        progress.say(f"A mirrored video has the other label of its pair: {pairs}.")
    recipe, source = fit_to_data(recipe, source, processes.count)
    if recipe.source.stream:
        Archives(source.train)  # what it cannot read is told before anything is written
    info = None
    if start is not None:
        recipe = replace(recipe, init=replace(recipe.init, model=recipe.init.model or "a model in memory"))
    elif recipe.init.model:
        raise BadInput(
            f"The recipe starts from {recipe.init.model}: give that model too, train(..., start=muybridge.load(...)). "
            "The command line does so by itself."
        )
    elif backbone is None:
        backbone, info = load_backbone(recipe.backbone, recipe.weights or None)
    recipe = fit_to_backbone(recipe, info)
    texts = source.labels if texts is None else texts
    if len(texts) != len(source.labels):
        raise BadInput(f"{len(texts)} labels are given for {len(source.labels)} classes: {', '.join(source.labels)}.")
    with _own_generators():
        torch.manual_seed(recipe.train.seed)
        if start is not None:
            method = start_from(start, recipe, source.labels, texts, progress)
        else:
            assert backbone is not None
            features = label_features(recipe, texts, info or BACKBONES.get(recipe.backbone), progress)
            classes, frames, size = len(source.labels), recipe.sampling.frames, recipe.transform.size
            method = build_method(recipe.method, backbone, classes, frames, size, recipe.options, features)
        if trained := unfreeze(method, recipe.train.unfreeze):
            rate = recipe.train.backbone_lr
            progress.say(f"{trained / 1e6:.2f} M parameters of the backbone are trained too, at the rate {rate:g}.")
        recipe = replace(recipe, options=to_dict(method.config))  # what was `auto` is settled for a resumed run
        with freed_memory(saving=recipe.train.checkpoint_activations):
            return Run(recipe, out, source, method, progress, batches, processes).go(until=until)


def resume(
    folder: str | Path,
    backbone: ViT | None = None,
    progress: Progress | None = None,
    until: int | None = None,
) -> TrainResult:
    """Go on with an interrupted training, from where it saved last; otherwise as `train`.

    Raises:
        MissingFile: there is nothing to resume.
        CheckpointError: the files do not belong together.
    """
    folder = Path(folder)
    processes = _join()
    progress = (progress if processes.first else None) or Progress()
    if not (folder / "recipe.json").is_file():
        raise MissingFile(f"There is nothing to resume in {folder}: no recipe.json. Give a run folder.")
    recipe = read_recipe(folder / "recipe.json")
    state = load_last(folder, progress.say)
    if not (Path(recipe.data).exists() or "://" in recipe.data or "{" in recipe.data or "*" in recipe.data):
        raise MissingFile(f"The videos of this run are not at {recipe.data} any more; put them back there.")
    source = read_split(folder / "split.csv", recipe.data)
    if recipe.init.model and backbone is None:
        backbone = load_model(folder / START).method.backbone
    if backbone is None:
        backbone = load_backbone(recipe.backbone, recipe.weights or None)[0]
    if backbone_sha256(backbone) != state["backbone_sha256"]:
        raise CheckpointError(f"{folder} was trained with other backbone weights than '{recipe.backbone}' has now.")
    with _own_generators():
        torch.manual_seed(recipe.train.seed)
        method = build_method(
            recipe.method, backbone, len(source.labels), recipe.sampling.frames, recipe.transform.size, recipe.options
        )
        unfreeze(method, recipe.train.unfreeze)
        with freed_memory(saving=recipe.train.checkpoint_activations):
            return Run(recipe, folder, source, method, progress, processes=processes).go(state, until)


def _join() -> Processes:
    own_gpu()
    return join_processes()


def _own_generators() -> AbstractContextManager[None]:
    """Within: torch's generators may be seeded and drawn from; afterwards they are as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
