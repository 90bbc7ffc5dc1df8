"""Many settings of one recipe, trained one after the other and compared on the validation half.

    search(recipe, ["train.lr=1e-4,3e-4,1e-3", "evl.dropout=0,0.5"], "sweeps/evl")

A folder holds `sweep.json` (what is tried and what came of it), `sweep.csv` (a line a setting, best first), `best.yaml`
(the recipe of the best setting) and a run folder for every setting and seed, `setting-<n>/seed-<s>`. Everything that is
known of a training lies in its run folder, so a search that was stopped at any moment goes on with the same call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import load_backbone, unchanging
from muybridge.engine.alone import alone_in
from muybridge.engine.checkpoint import write_json
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.outcomes import TABLE, SearchResult
from muybridge.engine.predictions import hash_of_items
from muybridge.engine.processes import how_many
from muybridge.engine.progress import Progress, duration
from muybridge.engine.sharing import compute_sets, empty_method, feature_sets, with_shared_features
from muybridge.engine.small_data import fit_to_data
from muybridge.engine.space import Axis, identity, parse_axis, points
from muybridge.engine.sweeps import SWEEP, check_sweep_folder, flat_fields, read_json, told_differences
from muybridge.engine.trackers import check_tracker
from muybridge.engine.trainings import Quiet, Setting, Todo, words
from muybridge.errors import BadInput
from muybridge.methods.base import Method
from muybridge.recipes import check, override
from muybridge.recipes.fields import to_dict
from muybridge.recipes.files import fit_to_backbone, validate
from muybridge.structures import Recipe
from muybridge.video.sources import Source, read_source

__all__ = ["SearchResult", "search"]


def search(
    recipe: Recipe,
    tried: Sequence[str],
    out: str | Path,
    trials: int | None = None,
    seeds: int = 1,
    halving: int = 0,
    share: bool = True,
    source: Source | None = None,
    backbone: ViT | None = None,
    progress: Progress | None = None,
    texts: Sequence[str] | None = None,
) -> SearchResult:
    """Train many settings and compare them.

    Args:
        recipe: what all settings have in common; `train.seed` is the first seed, and that of the draws of settings.
        tried: fields with what is tried for them, as `muybridge sweep --try` takes them; see `engine.space`.
        out: folder of the search; new, or that of the same search, which goes on. Values, `trials` and `seeds` may be
            more than they were.
        trials: how many settings are drawn; None: every combination of the values.
        seeds: trainings of each setting; they are counted from `train.seed`.
        halving: successive halving (Jamieson and Talwalkar, AISTATS 2016) with this factor: of all settings trained for
            a part of their epochs only the best 1 / halving go on, and so forth; 0: all are trained to the end.
        share: compute frozen features once, on disk, where the method has such.
        source, backbone, texts: as in `train`.
        progress: told of every step.

    Returns:
        The settings, best first. A training that fails (a loss that is not finite, no memory) is among them.

    Raises:
        BadInput: a setting that cannot be trained, told before anything is; a folder with something else; all trainings
            failed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    out, progress, begun = Path(out), progress or Progress(), time.monotonic()
    if seeds < 1:
        raise BadInput(f"seeds is {seeds}; expected at least 1.")
    if halving and halving < 2:
        raise BadInput(f"halving is {halving}; expected 2 or more (3: the better third goes on), or 0 for none.")
    if how_many() > 1:
        raise BadInput("A sweep's many trainings run one after the other, in one process: start it by itself.")
    recipe = validate(recipe)
    if recipe.train.cache == "memory":
        raise BadInput("train.cache=memory keeps features for one training; a sweep shares them on disk: leave it out.")
    if recipe.init.model:
        raise BadInput("A sweep trains from fresh parameters; --init.model is for `muybridge train`.")
    check_tracker(recipe.train.tracker)
    info = None
    if backbone is None:
        backbone, info = load_backbone(recipe.backbone, recipe.weights or None)
    recipe = fit_to_backbone(recipe, info)
    axes = [parse_axis(text, recipe) for text in tried]
    source = source or read_source(recipe.data, recipe.source)
    about = _about(recipe, axes, trials, seeds, halving, source, texts)
    known = _known(out, about)
    settings, why_not = _settings(recipe, axes, trials, known, share)
    _check_buildable(settings, source, backbone)
    if trials is not None and len(settings) < trials:
        progress.say(f"There are only {len(settings)} different settings to be drawn, not {trials}.")
    rungs = _rungs(settings, halving, source)
    with alone_in(out), unchanging(backbone):
        write_json(out / SWEEP, {**(known or {}), "setting": about, "settings": [one.tried for one in settings]})
        if settings[0].recipe.train.cache != "disk":
            progress.say(f"Every setting is trained from the videos{f': {why_not}' if why_not else ''}.")
        todo = Todo(settings, range(recipe.train.seed, recipe.train.seed + seeds), out, about, source, progress)
        _train_all(todo, rungs, backbone, texts)
        result = todo.write()
    if all(one.state == "failed" for outcome in result.outcomes for one in outcome.trainings):
        raise BadInput(
            f"All {len(todo.all)} trainings failed, as {out / TABLE} says; the first: "
            f"{result.outcomes[0].trainings[0].reason} To have them tried again, remove {out}."
        )
    if todo.spent:
        spent = duration(time.monotonic() - begun)
        progress.say(f"{len(todo.all)} trainings of {len(settings)} settings; this took {spent}.")
    else:
        progress.say(f"All {len(todo.all)} trainings were done before.")
    return result


def _train_all(
    todo: Todo, rungs: Sequence[tuple[float | None, int]], backbone: ViT, texts: Sequence[str] | None
) -> None:
    """Compute what the trainings share, and train those that are left; raises Interrupted on Ctrl-C or SIGTERM."""
    recipes = [one.recipe for one in todo.settings]
    cached = recipes[0].train.cache == "disk"
    try:
        for until, keep in rungs:
            if cached and todo.left(until):
                cached = False
                sets = feature_sets(recipes, todo.source, backbone)
                compute_sets(sets, backbone, Quiet(todo.progress), texts)
            todo.run(backbone, texts, until)
            if keep:
                todo.halve(until, keep)
    except KeyboardInterrupt:
        todo.progress.finish()
        done = len(todo.all) - len(todo.left(None))
        raise Interrupted(
            f"Stopped; {done} of {len(todo.all)} trainings are finished. Go on with the same command."
        ) from None


def _about(
    recipe: Recipe,
    axes: Sequence[Axis],
    trials: int | None,
    seeds: int,
    halving: int,
    source: Source,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """All that decides what a search does, as plain values."""
    tried = {axis.name: list(axis.values) if axis.values else {"from": axis.low, "to": axis.high} for axis in axes}
    about = {
        "recipe": to_dict(recipe),
        "tried": tried,
        "trials": trials,
        "seeds": seeds,
        "halving": halving,
        "videos": {"train": hash_of_items(source.train), "val": hash_of_items(source.val)},
        "texts": list(texts or ()),
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _known(out: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the folder knows of this search; None: it is new.

    Raises:
        BadInput: it holds something else, or another search.
    """
    check_sweep_folder(out)
    if not (out / SWEEP).is_file():
        return None
    known = read_json(out / SWEEP)
    if "setting" not in known:
        raise BadInput(f"{out} is a sweep of shots (--shots), not of settings. Give another --out.")
    # What may grow is taken for the same where it has.
    there, now = dict(known["setting"]), dict(about)
    for name in ("trials", "seeds"):
        if there[name] is not None and now[name] is not None and now[name] >= there[name]:
            there[name] = now[name]
    there["tried"], now["tried"] = dict(there["tried"]), dict(now["tried"])
    for name, values in there["tried"].items():
        more = now["tried"].get(name)
        if isinstance(values, list) and isinstance(more, list) and all(value in more for value in values):
            there["tried"][name] = more
    if there != now:
        told = told_differences(flat_fields(there), flat_fields(now))
        raise BadInput(
            f"{out} is a sweep of another setting: {told}. More values, trials and seeds can be asked for later; for "
            "anything else give another --out."
        )
    return known


def _settings(
    recipe: Recipe, axes: Sequence[Axis], trials: int | None, known: Mapping[str, Any] | None, share: bool
) -> tuple[list[Setting], str]:
    """The settings, those that the folder knows first, all checked; and why they share no features."""
    found = {identity(point): point for point in (known["settings"] if known else ())}
    for point in points(axes, trials, recipe.train.seed):
        if trials is None or len(found) < trials:
            found.setdefault(identity(point), point)
    recipes = [validate(override(recipe, point)) for point in found.values()]
    for point, one in zip(found.values(), recipes, strict=True):
        try:
            check(one)
        except BadInput as error:
            raise BadInput(f"With {words(point)}: {error}") from None
    why_not = ""
    if share:
        recipes, why_not = with_shared_features(recipes)
    # A frozen backbone is the same in all of them: it need not be written for each.
    recipes = [replace(one, train=replace(one.train, slim=one.train.unfreeze == "none")) for one in recipes]
    pairs = zip(found.values(), recipes, strict=True)
    return [Setting(number, point, one) for number, (point, one) in enumerate(pairs, 1)], why_not


def _check_buildable(settings: Sequence[Setting], source: Source, backbone: ViT) -> None:
    built: dict[str, Method] = {}
    for setting in settings:
        try:
            empty_method(setting.recipe, source, backbone, built)
        except BadInput as error:
            raise BadInput(f"With {words(setting.tried)}: {error}") from None


def _rungs(settings: Sequence[Setting], halving: int, source: Source) -> list[tuple[float | None, int]]:
    """How far the settings are trained before some are given up: (share of the epochs, how many go on).

    The last is (None, 0): to the end.
    """
    rungs: list[tuple[float | None, int]] = [(None, 0)]
    if not halving:
        return rungs
    epochs = min(fit_to_data(one.recipe, source)[0].train.epochs for one in settings)
    left, steps = len(settings), 0
    while left // halving >= 1 and epochs >= halving ** (steps + 1):
        left, steps = left // halving, steps + 1
    if not steps:
        raise BadInput(
            f"With {len(settings)} settings of {epochs} epochs there is nothing to halve by {halving}; expected at "
            f"least {halving} of each."
        )
    first = epochs // halving**steps
    late = [every for one in settings if (every := one.recipe.train.evaluate_every) > first]
    if late:
        raise BadInput(
            f"train.evaluate_every is {late[0]}, and after {first} epochs it is decided who goes on; set it to 1."
        )
    left, before = len(settings), []
    for step in range(steps, 0, -1):
        left //= halving
        before.append((1 / halving**step, left))
    return before + rungs
