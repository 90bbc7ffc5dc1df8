"""`muybridge sweep`: many trainings in one command, over settings of a recipe or over the number of videos a class."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Fields, Reading, Setup, app
from muybridge.cli.preparing import Prepared, gather, prepare
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.engine.progress import Progress

READING, SETUP = Reading(), Setup()
SHOTS = "1,2,4,8,16"
SHOWN = 20  # settings in the table that is printed


@app.command
def sweep(
    *,
    tried: Annotated[list[str] | None, Parameter(name="--try", negative="")] = None,
    trials: int | None = None,
    shots: str | None = None,
    seeds: int | None = None,
    halving: int = 0,
    setup: Setup = SETUP,
    out: Path | None = None,
    reading: Reading = READING,
    json: bool = False,
    fields: Fields = None,
) -> None:
    """Train many times and compare: with other settings (--try), or on few videos a class (--shots).

    For example

      muybridge sweep --data DIR --try train.lr=1e-4,1e-3 --try evl.dropout=0,0.5
      muybridge sweep --data DIR --try train.lr=1e-5..1e-2 --trials 20
      muybridge sweep --data DIR --shots 1,2,4,8,16

    With --try every combination of the values is trained, or, with --trials, as many as that are drawn. Features
    of a frozen backbone (evl, dist, probe) are computed once and kept on disk, unless --train.cache none is given. The
    best setting becomes a recipe, best.yaml.

    With --shots (the default: 1,2,4,8,16) K videos a class are drawn for several K and seeds, and the whole validation
    half judges.

    A sweep that was stopped goes on with the same command; more values, trials, shots and seeds may be asked for later.
    All fields of `muybridge train` can be given (--train.epochs 50).

    Args:
        tried: a field of the recipe and what to try for it, FIELD=VALUE,VALUE,... or FIELD=LOW..HIGH; several times for
            several fields. Values with commas of their own are separated by semicolons.
        trials: how many settings are drawn, by --train.seed; log-uniformly from a range whose ends are above 0 and 100
            times apart, else uniformly.
        shots: every K, separated by commas.
        seeds: trainings of each, counted from --train.seed (default: 1 with --try, 3 with --shots).
        halving: with --try: train all settings for a part of their epochs, go on with the best 1 in N, and so forth; 0:
            train all to the end.
        out: folder for the runs and the tables (default: runs/sweep_<method>_<data> or runs/few_shot_<method>_<data>).
        json: print the result as JSON.
    """
    from muybridge.engine.progress import ProgressBar

    if tried and shots is not None:
        raise BadInput("--try compares settings and --shots numbers of videos a class; give one of them.")
    if not tried and (trials is not None or halving):
        raise BadInput("--trials and --halving are about settings; give what to try with --try FIELD=VALUES.")
    wanted = [] if tried else _numbers(shots or SHOTS)
    progress = ProgressBar()
    changes = gather(setup.fields(), reading, fields)
    prepared = prepare(changes, setup.recipe, progress)
    if prepared.start is not None:
        raise BadInput("A sweep trains from fresh parameters; --init.model is for `muybridge train`.")
    progress.say(prepared.source.how)
    texts = setup.texts()
    if not tried:
        _few_shot(prepared, wanted, 3 if seeds is None else seeds, texts, out, json, progress)
        return
    share = changes.get("train.cache") != "none"
    _settings(prepared, tried, trials, 1 if seeds is None else seeds, halving, share, texts, out, json, progress)


def _numbers(shots: str) -> list[int]:
    wanted = [word.strip() for word in shots.split(",") if word.strip()]
    if not wanted or not all(word.isdecimal() and int(word) > 0 for word in wanted):
        raise BadInput(f"shots is '{shots}'; expected numbers of videos a class, such as 1,2,4,8,16.")
    return [int(word) for word in wanted]


def _few_shot(
    prepared: Prepared,
    shots: list[int],
    seeds: int,
    texts: tuple[str, ...] | None,
    out: Path | None,
    json: bool,
    progress: Progress,
) -> None:
    from muybridge.engine.protocols import few_shot
    from muybridge.video.sources import short_name

    setting, source = prepared.setting, prepared.source
    folder = out or Path("runs") / f"few_shot_{setting.method}_{short_name(setting.data)}"
    result = few_shot(setting, folder, shots, seeds, source, prepared.backbone, progress, texts)
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


def _settings(
    prepared: Prepared,
    tried: list[str],
    trials: int | None,
    seeds: int,
    halving: int,
    share: bool,
    texts: tuple[str, ...] | None,
    out: Path | None,
    json: bool,
    progress: Progress,
) -> None:
    from muybridge.engine.outcomes import BEST, TABLE
    from muybridge.engine.search import search
    from muybridge.engine.space import value_text
    from muybridge.video.sources import short_name

    setting, source = prepared.setting, prepared.source
    folder = out or Path("runs") / f"sweep_{setting.method}_{short_name(setting.data)}"
    result = search(setting, tried, folder, trials, seeds, halving, share, source, prepared.backbone, progress, texts)
    if json:
        print(json_module.dumps(result.summary(), ensure_ascii=False))
        return
    count = len(result.outcomes)
    table = Table(
        title=f"{setting.method}, {count} settings, {len(source.val)} validation videos", title_justify="left"
    )
    names = tuple(result.outcomes[0].tried)
    for column in ("", *names, "top-1", "top-5", "epochs"):
        table.add_column(column, justify="right")
    for rank, outcome in enumerate(result.outcomes[:SHOWN], 1):
        figures = [str(outcome.spread(name) or "") for name in ("top1", "top5")]
        if outcome.state == "failed":
            figures = ["failed", ""]
        table.add_row(str(rank), *map(value_text, outcome.tried.values()), *figures, str(outcome.epochs))
    Console().print(table)
    if count > SHOWN:
        print(f"... and {count - SHOWN} more in {folder / TABLE}.")
    for outcome in result.outcomes:
        why = next((one.why for one in outcome.trainings if one.state == "failed"), "")
        if why:
            print(f"failed: {', '.join(f'{k} {value_text(v)}' for k, v in outcome.tried.items())}: {why}")
    print(
        f"The best of {count} is judged by the validation half that chose it: an optimistic figure. Every run and "
        f"{TABLE}: {folder}"
    )
    if result.best is not None:
        print(f"Train the best again: muybridge train --recipe {folder / BEST} --out RUN")
