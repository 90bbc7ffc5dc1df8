"""`muybridge sweep`: the few-shot protocol."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Fields, Reading, app, parse_labels
from muybridge.cli.preparing import gather, prepare
from muybridge.errors import BadInput

READING = Reading()


@app.command
def sweep(
    *,
    shots: str = "1,2,4,8,16",
    seeds: int = 3,
    data: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    recipe: str | None = None,
    labels: str | None = None,
    out: Path | None = None,
    reading: Reading = READING,
    json: bool = False,
    fields: Fields = None,
) -> None:
    """Few-shot: train on K videos a class for several K and seeds, evaluate on the whole validation half.

    A sweep that was stopped goes on with the same command; more shots and seeds may be asked for later. All fields of
    `muybridge train` can be given (--train.epochs 50).

    Args:
        shots: every K, separated by commas.
        seeds: how many, counted from --train.seed.
        data: the videos, as for `train`.
        method: a name of `muybridge list methods` (default: evl).
        backbone: a name of `muybridge list backbones` (default: clip_vitb16).
        weights: a file with the backbone's weights.
        recipe: where to start: a published recipe's name or a JSON or YAML file.
        labels: as for `train`: what to call the classes, for a method that compares videos with texts.
        out: folder for the runs and the tables (default: runs/few_shot_<method>_<data>).
        json: print the result as JSON.
    """
    from muybridge.engine.progress import ProgressBar
    from muybridge.engine.protocols import few_shot
    from muybridge.video.sources import short_name

    wanted = [word.strip() for word in shots.split(",") if word.strip()]
    if not wanted or not all(word.isdecimal() and int(word) > 0 for word in wanted):
        raise BadInput(f"shots is '{shots}'; expected numbers of videos a class, such as 1,2,4,8,16.")
    progress = ProgressBar()
    changes = gather({"data": data, "method": method, "backbone": backbone, "weights": weights}, reading, fields)
    prepared = prepare(changes, recipe, progress)
    setting, source, vit = prepared.setting, prepared.source, prepared.backbone
    if prepared.start is not None:
        raise BadInput("A sweep trains from fresh parameters; --init.model is for `muybridge train`.")
    folder = out or Path("runs") / f"few_shot_{setting.method}_{short_name(setting.data)}"
    progress.say(source.how)
    result = few_shot(
        setting, folder, [int(word) for word in wanted], seeds, source, vit, progress, parse_labels(labels)
    )
    if json:
        print(json_module.dumps(result.summary()))
        return
    table = Table(title=f"{setting.method}, {seeds} seeds, {len(source.val)} validation videos", title_justify="left")
    for column in ("videos a class", "top-1", "top-5", "mean over classes"):
        table.add_column(column, justify="right")
    for k in result.shots:
        table.add_row(str(k), *(str(result.spread(k, figure)) for figure in ("top1", "top5", "mean_class")))
    Console().print(table)
    print(f"Mean ± standard deviation over the seeds. Every run and both tables: {folder}")
