"""`muybridge cache`: what depends on frozen weights only, computed ahead of any number of trainings."""

from __future__ import annotations

import json as json_module
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Fields, Reading, Setup, app, complain
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.engine.store import Kept
    from muybridge.engine.writing import Spread
    from muybridge.structures import Recipe

READING, SETUP = Reading(), Setup()
SHOWN = 12  # characters of a key


@app.command
def cache(
    *,
    setup: Setup = SETUP,
    views: int | None = None,
    folder: Path | None = None,
    list: bool = False,
    clear: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    reading: Reading = READING,
    json: bool = False,
    fields: Fields = None,
) -> None:
    """Compute frozen features ahead, for `muybridge train --cache` with the same settings.

    Only methods whose backbone stays frozen and is read from outside have such features: evl, dist, probe. What was
    computed is found again by everything that it depends on; a command that was stopped goes on where it was.

    Args:
        views: fixed random draws of every training video; short for --train.fixed_views (default: 1).
        folder: of all features; short for --train.cache_folder (default: in the user's cache).
        list: show what is there.
        clear: remove the features with this key or its first characters, or 'all'.
        engine: 'local': this process, or those that torchrun starts; 'ray': workers of Ray, into a folder that all of
            them see.
        workers: how many workers Ray starts; by default as many as fit, with a GPU each or 4 CPUs.
        gpus_per_worker: GPUs of each of Ray's workers (default: 0).
        address: of a Ray cluster, or 'auto'; by default Ray is started on this machine.
        json: print as JSON.
    """
    from muybridge.engine.store import features_folder

    team = {"workers": workers, "gpus_per_worker": gpus_per_worker, "address": address}
    given = {name: value for name, value in team.items() if value is not None}
    if engine == "local" and given:
        raise BadInput(f"--{next(iter(given)).replace('_', '-')} is for workers of Ray: give --engine ray too.")

    named = setup.fields() | {"train.fixed_views": views, "train.cache_folder": folder}
    changes = {name: str(value) for name, value in named.items() if value is not None}
    for name, value in (*reading.fields().items(), *(fields or {}).items()):
        if name in changes:
            raise BadInput(f"--{name} and its short form are both given; give one.")
        changes[name] = value
    if list or clear is not None:
        if setup.data or (list and clear is not None):
            raise BadInput("Give one of --data, --list and --clear.")
        root = features_folder(changes.get("train.cache_folder", ""))
        _remove(root, clear, json) if clear is not None else _show(root, json)
        return
    _compute(changes, setup, json, given if engine == "ray" else None)


def with_disk_cache(setting: Recipe) -> Recipe:
    """The recipe with `train.cache=disk`, and one fixed draw of every video where it has fresh ones; which is told."""
    from muybridge.engine.processes import is_first

    args = replace(setting.train, cache="disk")
    if not args.fixed_views:
        args = replace(args, fixed_views=1)
        if is_first():
            complain(
                "cached features are of fixed draws: every video is cropped, and its frames are chosen, in one way "
                "(--train.fixed_views 1). More ways, each with features of its own: --train.fixed_views K."
            )
    return replace(setting, train=args)


def _compute(
    changes: dict[str, str],
    setup: Setup,
    json: bool,
    team: dict[str, Any] | None,
) -> None:
    from muybridge.backbones.weights import load_backbone
    from muybridge.engine.caching import cache_features
    from muybridge.engine.processes import is_first
    from muybridge.engine.progress import Progress, ProgressBar
    from muybridge.recipes import check, find_recipe, fit_to_backbone, override, validate
    from muybridge.structures import Recipe
    from muybridge.video.sources import read_source

    start = find_recipe(setup.recipe) if setup.recipe is not None else Recipe()
    setting = with_disk_cache(validate(override(start, changes)))
    check(setting)
    if setting.init.model:
        raise BadInput(
            f"What the backbone of {setting.init.model} says is not computed ahead; a training with --init and --cache "
            "does so at its start."
        )
    if not setting.data:
        raise BadInput("Give the videos with --data DIR, for example a folder with one folder of files per class.")
    source = read_source(setting.data, setting.source)
    asked = setting.backbone if setup.backbone or setup.recipe or not setting.weights else None
    vit, info = load_backbone(asked, setting.weights or None)
    setting = fit_to_backbone(setting, info)
    progress = ProgressBar() if is_first() else Progress()
    progress.say(source.how)
    summary: dict[str, Any] = {"method": setting.method, "backbone": setting.backbone}
    with _spread(team) as spread:
        halves = cache_features(setting, source, vit, progress, setup.texts(), spread)
    if not is_first():
        return
    for half, batches in zip(("train", "val"), halves, strict=True):
        store = batches.store
        summary[half] = {
            "key": store.folder.name,
            "folder": str(store.folder),
            "videos": batches.count,
            "views": batches.views,
            "megabytes": round(store.bytes / 1e6, 3),
            "unreadable": list(dict.fromkeys(store.errors.values())),
        }
        for sentence in summary[half]["unreadable"]:
            complain(f"left out: {sentence}")
    if json:
        print(json_module.dumps(summary, ensure_ascii=False))
    else:
        for half in ("train", "val"):
            kept = summary[half]
            print(f"{half}: {kept['videos']} videos x {kept['views']}, {kept['megabytes']:,.0f} MB, {kept['folder']}")
        print("Train with the same settings and --cache.")


def _spread(team: dict[str, Any] | None) -> AbstractContextManager[Spread | None]:
    """Workers of Ray, as `through_ray` takes them; None: there are none."""
    if team is None:
        return nullcontext()
    from muybridge.engine.ray_cache import through_ray

    return through_ray(**team)


def _show(root: Path, json: bool) -> None:
    from muybridge.engine.store import kept_features

    rows = [_row(kept) for kept in kept_features(root)]
    if json:
        print(json_module.dumps({"folder": str(root), "features": rows}, ensure_ascii=False))
        return
    table = Table(title=f"Features in {root}", title_justify="left")
    for column in ("key", "method", "backbone", "of", "rows", "precision", "GB"):
        table.add_column(column, justify="right" if column in ("rows", "GB") else "left", no_wrap=column == "key")
    for row in rows:
        done = str(row["rows"]) if row["done"] == row["rows"] else f"{row['done']} of {row['rows']}"
        cells = (row["key"][:SHOWN], row["method"], row["backbone"][:SHOWN], row["of"], done, row["precision"])
        table.add_row(*cells, f"{row['bytes'] / 1e9:,.2f}")
    Console().print(table)
    print(f"{sum(row['bytes'] for row in rows) / 1e9:,.2f} GB. Remove with: muybridge cache --clear KEY|all")


def _row(kept: Kept) -> dict[str, Any]:
    setting = kept.setting
    return {
        "key": kept.key,
        "method": setting["method"],
        "backbone": setting["backbone"],
        "of": "validation" if setting["seed"] is None else f"training, seed {setting['seed']}",
        "done": kept.done,
        "rows": kept.rows,
        "precision": setting["precision"],
        "bytes": kept.bytes,
        "setting": setting,
    }


def _remove(root: Path, which: str, json: bool) -> None:
    from muybridge.engine.store import clear_features, kept_features

    keys = [kept.key for kept in kept_features(root)]
    chosen = [key for key in keys if which == "all" or (which and key.startswith(which))]
    if not chosen and which != "all":
        there = ", ".join(key[:SHOWN] for key in keys[:5]) or "none"
        raise BadInput(f"{root} has no features whose key begins with '{which}'; it has: {there}. Or give 'all'.")
    removed, busy = clear_features(root, chosen)
    if json:
        print(json_module.dumps({"removed": [key for key in chosen if key not in busy], "bytes": removed}))
    else:
        print(f"{len(chosen) - len(busy)} removed, {removed / 1e9:,.2f} GB.")
    for key in busy:
        complain(f"{key[:SHOWN]} is being written by another process and stays.")
