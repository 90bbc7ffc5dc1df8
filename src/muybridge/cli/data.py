"""`muybridge data check` and `muybridge data show`: what a data set holds, and whether it can be read."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App
from rich.console import Console
from rich.table import Table

from muybridge.cli.app import Fields, Reading, app
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.video.check import CheckReport

DEFAULT = Reading()
FAULTY = 1  # exit code: the data set cannot be used as it is
WIDTH = 100
CLASSES, PROBLEMS, DUPLICATES, ROWS = 12, 20, 10, 5  # how many are printed

data_app = App(name="data", help="Look at a data set before training: show, check.", help_format="plaintext")
app.command(data_app)


@data_app.command
def check(
    source: str,
    /,
    *,
    reading: Reading = DEFAULT,
    seconds: float | None = None,
    quick: bool = False,
    workers: int | None = None,
    out: Path | None = None,
    write_list: Path | None = None,
    json: bool = False,
    fields: Fields = None,
) -> int:
    """Read every file of a data set and report what is broken, odd, missing or there twice.

    The same command again goes on where it was stopped, and reads only what was broken or has changed since.

    The exit code is 1 if a video is broken or missing or the data set cannot be trained with, else 0. All fields of
    --source, such as --source.megapixels, can be given as to `train`.

    Args:
        source: the videos, as `train --data` takes them.
        seconds: a file of which nothing comes for so long is given up (--source.seconds, default: 120).
        quick: open every file, but do not decode every frame: truncated files may be missed.
        workers: processes that read (default: one for each core).
        out: folder for check.csv, one row a file (default: checks/<source>).
        write_list: a new folder to be written, with lists of the good videos; `train --data` takes it.
        json: print the report as JSON.
    """
    from muybridge.engine.device import cores_allowed
    from muybridge.engine.progress import ProgressBar
    from muybridge.video.check import TABLE, check_source
    from muybridge.video.check import write_list as write
    from muybridge.video.sources import short_name

    given = dict(fields or {})
    if seconds is not None and given.setdefault("source.seconds", str(seconds)) != str(seconds):
        raise BadInput("--source.seconds and its short form --seconds are both given; give one.")
    args = reading.args(given)
    if workers is not None and workers < 0:
        raise BadInput(f"--workers is {workers}; expected 0 (this process) or more.")
    if write_list is not None and write_list.exists() and (not write_list.is_dir() or any(write_list.iterdir())):
        raise BadInput(f"{write_list} exists already; nothing is written over. Give another --write-list.")
    folder = out or Path("checks") / short_name(source)
    processes = cores_allowed()
    report = check_source(
        source,
        args,
        out=folder,
        quick=quick,
        workers=processes if workers is None else workers,
        watch=ProgressBar(),
    )
    written = write(report, write_list) if write_list is not None else None
    summary = report.summary()
    if json:
        print(_printable(json_module.dumps(summary, ensure_ascii=False)))
    else:
        console = _console()
        _print_report(console, report, summary)
        console.print()
        _say(console, f"Every file: {folder / TABLE}")
        if written is not None:
            train, val = written
            _say(
                console,
                f"{_count(train, 'good video')} to train with, {val} to validate with. Use: --data {write_list}",
            )
    return 0 if report.ok else FAULTY


@data_app.command
def show(source: str, /, *, reading: Reading = DEFAULT, json: bool = False, fields: Fields = None) -> None:
    """How a data set is understood: its halves, classes and first videos. No video is opened.

    All fields of --source, such as --source.val_share, can be given as to `train`.

    Args:
        source: the videos, as `train --data` takes them.
        json: print as JSON.
    """
    from collections import Counter

    from muybridge.video.check import read_anyway

    found, why = read_anyway(source, reading.args(fields))
    halves = {"train": found.train, "val": found.val}
    counts = {half: Counter(item.label for item in items) for half, items in halves.items()}
    missing = found.missing
    classes = {label: {half: counts[half][index] for half in halves} for index, label in enumerate(found.labels)}
    if json:
        shown: dict[str, Any] = {
            "data": str(source),
            "how": found.how,
            "why": why,
            "videos": {half: len(items) for half, items in halves.items()},
            "missing": {half: list(names) for half, names in missing.items()},
            "classes": classes,
        }
        print(_printable(json_module.dumps(shown, ensure_ascii=False)))
        return
    console = _console()
    _say(console, f"{source}: {found.how}")
    _say(console, f"{_count(len(found.train), 'video')} to train with, {len(found.val)} to validate with.")
    if why:
        _say(console, f"It cannot be trained with: {why}")
    if any(missing.values()):
        _say(console, f"Not found: {', '.join(f'{len(names)} of {half}' for half, names in missing.items())}.")
    rows = [(label, str(count["train"]), str(count["val"])) for label, count in classes.items()]
    _table(console, _count(len(rows), "class"), ("class", "train", "val"), rows, CLASSES)
    first = [(half, item.name, found.labels[item.label]) for half, items in halves.items() for item in items[:ROWS]]
    _table(console, "first videos", ("half", "video", "class"), first, len(first))


def _print_report(console: Console, report: CheckReport, summary: dict[str, Any]) -> None:
    _say(console, f"{report.data}: {report.how}")
    counts = {name: summary[name] for name in ("good", "suspicious", "broken", "missing") if summary[name]}
    verdict = ", ".join(f"{count} {name}" for name, count in counts.items())
    _say(
        console, f"{_count(summary['videos'], 'video')} in {_count(summary['files'], 'file')}: {verdict or 'nothing'}."
    )
    if report.why:
        _say(console, f"It cannot be trained with: {report.why}")
    remarks = summary["remarks"]
    # What is odd comes first, since not all may be printed.
    classes = sorted(summary["classes"].items(), key=lambda entry: entry[0] not in remarks)
    _table(
        console,
        _count(len(classes), "class"),
        ("class", "train", "val", "broken", "remark"),
        [
            (label, str(count["train"]), str(count["val"]), str(count["broken"] or ""), remarks.get(label, ""))
            for label, count in classes
        ],
        max(CLASSES, min(len(remarks), 2 * CLASSES)),
    )
    ranges = (
        ("seconds", "seconds", ".1f"),
        ("frames", "frames", ".0f"),
        ("frames a second", "rate", ".4g"),
        ("width", "width", ".0f"),
        ("height", "height", ".0f"),
        ("megabytes", "megabytes", ".3g"),
    )
    rows = [
        (title, *(format(summary[name][at], form) for at in ("min", "median", "max")))
        for title, name, form in ranges
        if summary[name]
    ]
    if rows:
        _table(console, "a file", ("", "least", "median", "most"), rows, len(rows))
    for title, name in (("containers", "containers"), ("codecs", "codecs"), ("sizes", "sizes"), ("rates", "rates")):
        if summary[name]:
            _say(console, f"{title}: {_frequent(summary[name])}")
    problems = [(problem.kind, problem.name, problem.what) for problem in report.problems]
    if problems:
        _table(console, _count(len(problems), "problem"), ("", "video", "what"), problems, PROBLEMS)
    groups = sorted(report.duplicates, key=lambda group: (len(group.labels) < 2, len(group.halves) < 2))
    if groups:
        rows = [
            (
                "\n".join(f"{half}: {item.name}" for half, item in group.items[:4])
                + (f"\nand {len(group.items) - 4} more" if len(group.items) > 4 else ""),
                ", ".join(
                    [f"classes differ: {', '.join(group.labels)}"] * (len(group.labels) > 1)
                    + ["in both halves" if len(group.halves) > 1 else f"in {group.halves[0]}"]
                ),
            )
            for group in groups
        ]
        _table(console, f"there more than once: {_count(len(groups), 'video')}", ("video", "what"), rows, DUPLICATES)


def _console() -> Console:
    console = Console()
    # A table of names is easier to read when its columns stand close together.
    return Console(width=min(console.width, WIDTH)) if console.is_terminal else Console(width=WIDTH)


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> None:
    """Print the first `count` rows, and how many there are more."""
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, header_style="bold", title_style="bold", pad_edge=False)
    for column in columns:
        numbers = column in ("train", "val", "broken", "least", "median", "most")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows[:count]:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console.print()
    console.print(table)
    if len(rows) > count:
        _say(console, f"... and {len(rows) - count} more")


def _say(console: Console, text: str) -> None:
    console.print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def _frequent(counts: dict[str, int], most: int = 6) -> str:
    first = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    rest = sum(list(counts.values())[most:])
    return ", ".join(first + ([f"others {rest}"] if rest else []))


def _count(number: int, noun: str) -> str:
    """`1 class`, `2 classes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text; these cannot be printed."""
    return text.encode("utf-8", "replace").decode()
