"""Is a data set what it should be? Every file is read, and what is broken, odd, missing or there twice is told.

Files are read in several processes. What is found is added to `check.csv` file by file, so that a check that was
stopped goes on where it was, and one that is done reads only what has changed since.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from muybridge.errors import BadInput, UnknownName
from muybridge.structures import Item, SourceArgs
from muybridge.video.check_report import (
    CheckedFile,
    CheckReport,
    Duplicate,
    Problem,
    duplicates_in,
    is_lost,
    is_part,
    notes_on,
)
from muybridge.video.check_table import Log, read_facts, report_rows, unchanged, write_rows
from muybridge.video.examine import Beat, Facts, Key, digest, examine, key_of, unread
from muybridge.video.labels import write_labels
from muybridge.video.readers.formats import find
from muybridge.video.sources import Source, names_of_classes, read_part, read_source, with_notes
from muybridge.video.supervise import Lost, supervised

__all__ = ["CheckReport", "CheckedFile", "Duplicate", "Problem", "check_source", "read_anyway", "write_list"]

TABLE = "check.csv"
LISTED = ("path", "name", "label", "start", "end", "pattern", "first", "count", "rate", "offset", "size")


class Watcher(Protocol):
    """Who is told how far the check is; `muybridge.engine.progress.Progress` is one."""

    def start(self, title: str, total: float) -> None: ...
    def advance(self, amount: float, **figures: float | str) -> None: ...
    def finish(self) -> None: ...


def check_source(
    data: str | Path,
    args: SourceArgs | None = None,
    *,
    out: str | Path | None = None,
    quick: bool = False,
    workers: int = 2,
    watch: Watcher | None = None,
) -> CheckReport:
    """Read every file of a data set and report.

    Args:
        data: as `read_source` takes it; it need not be complete.
        args: how the data set is found and read. A file of which nothing comes for `args.seconds` is given up.
        out: folder in which `check.csv` is kept, one row a file. Files that stand there, are not broken and have
            not changed since are not read again. None: nothing is kept.
        quick: open every file, but do not decode every frame: truncated files may be missed.
        workers: processes that read; 0: this one, where a file that kills or stops its process does so to the check.
        watch: is told how far the check is.

    Raises:
        MuybridgeError: the data set cannot be understood, `out` has the check of another or cannot be written to, or
            no process can be started.
        KeyboardInterrupt: on Ctrl-C; what was read until then is kept.
    """
    args = args or SourceArgs()
    source, why = read_anyway(data, args)
    files = _files(source)
    now = {key: unread(items[0][1], args) for key, items in files.items()}
    table = Path(out) / TABLE if out is not None else None
    known = unchanged(read_facts(table, now), now, quick) if table else {}
    log = Log(table, list(known.values())) if table else None
    try:
        waiting = [key for key in files if key not in known]
        tasks = [_Examination(files[key][0][1], args, quick) for key in waiting]
        known |= _run(tasks, waiting, now, workers, args.seconds, log, watch, "reading")
        alike = _same_size(known, files)
        tasks = [_Examination(files[key][0][1], args, quick, known[key]) for key in alike]
        known |= _run(tasks, alike, now, workers, args.seconds, log, watch, "comparing files of equal size")
    finally:
        if log:
            log.close()
    report = _report(str(data), source, files, known, why)
    if table:
        write_rows(table, report_rows(report))
    return report


def read_anyway(data: str | Path, args: SourceArgs | None = None) -> tuple[Source, str]:
    """A data source as `read_source` reads it, also where it cannot be trained with.

    Returns:
        The videos, and why they cannot be trained with; empty: they can. Then all videos are in the half that they are
        listed in, or in `train` if there are no halves.

    Raises:
        MuybridgeError: the source cannot be understood, or not one video of a half is there.
    """
    args = args or SourceArgs()
    try:
        return read_source(data, args), ""
    except (BadInput, UnknownName) as error:
        why = str(error)
    found = find(data, args)
    written = {entry.label for half in found.halves.values() for entry in half}
    labels = found.labels
    if labels is None or (not found.numbers and not written <= set(labels)):
        labels = names_of_classes(written | set(labels or ()), found.numbers)
    # Of a source without a second half a part would be set aside.
    halves = {
        half: read_part(data, labels, half if "val" in found.halves else "all", args).items
        for half, entries in found.halves.items()
        if entries
    }
    train = halves.get("train", ()) + halves.get("all", ())
    missing = {"val" if half == "val" else "train": tuple(names) for half, names in found.missing.items()}
    how = with_notes(" and ".join(found.places.values()), found, found.missing)
    return Source(train, halves.get("val", ()), labels, how, missing), why


def write_list(report: CheckReport, folder: str | Path) -> tuple[int, int]:
    """Write the good videos of a checked data set as a data folder: `train.csv`, `val.csv` and `classes.txt`.

    Left out are videos that are broken or missing; of videos with the same content all but the first, and those in
    `train` if one is in `val`; and all of them if their classes differ. Suspicious videos stay.

    Args:
        report: of the check.
        folder: must not exist yet, or be empty.

    Returns:
        How many videos are in `train` and in `val`.

    Raises:
        BadInput: something is in the folder, no video is good, or the name of one is not text.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists already; nothing is written over. Give another --write-list.")
    halves = _kept(report)
    rows = {half: [_listed(item) for item in items] for half, items in halves.items()}
    everything = rows["train"] + rows["val"]
    if not everything:
        raise BadInput(f"Not one video of {report.data} is good; there is nothing to write.")
    columns = [column for column in LISTED if any(row.get(column, "") != "" for row in everything)]
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(folder / "classes.txt", report.labels)
    for half, members in rows.items():
        if members:
            cells = [[row.get(column, "") for column in columns] for row in members]
            write_rows(folder / f"{half}.csv", [columns, *cells])
    return len(rows["train"]), len(rows["val"])


def _listed(item: Item) -> dict[str, Any]:
    """A row of a list. Raises BadInput for a name that no list can hold."""
    text = f"{item.path}{item.name}"
    if text.encode(errors="replace").decode() != text or {item.path, item.name} != {
        item.path.strip(),
        item.name.strip(),
    }:
        raise BadInput(f"The name {item.path!r} cannot stand in a list; rename the file.")
    # The index, because a class whose name is a number would be taken for one.
    row: dict[str, Any] = {"path": item.path, "label": item.label}
    if item.start or item.end is not None:
        row |= {"name": item.name, "start": item.start, "end": "" if item.end is None else item.end}
    if item.frames is not None:
        row |= {"name": item.name, **asdict(item.frames)}
    if item.stored is not None:
        row |= {"name": item.name, "offset": item.stored[0], "size": item.stored[1]}
    return row


@dataclass(frozen=True)
class _Examination:
    """The task of a worker: to read a file, or, where it is known already, to compute its digest."""

    item: Item
    args: SourceArgs
    quick: bool
    known: Facts | None = None


def _examine(task: _Examination, beat: Beat) -> Facts:
    if task.known is not None:
        return replace(task.known, sha256=digest(task.item, beat))
    return examine(task.item, task.args, task.quick, beat)


def _run(
    tasks: Sequence[_Examination],
    keys: Sequence[Key],
    now: dict[Key, Facts],
    workers: int,
    limit: float,
    log: Log | None,
    watch: Watcher | None,
    title: str,
) -> dict[Key, Facts]:
    """Do the tasks, one for each key; what is found is written to the log at once."""
    found: dict[Key, Facts] = {}
    if not tasks:
        return found
    broken = 0
    if watch:
        watch.start(title, len(tasks))
    try:
        # Twice the time, so that a reader that is able to gives up by itself, and tells more.
        with closing(supervised(_examine, tasks, min(workers, len(tasks)), 2 * limit)) as results:
            for place, result in results:
                if isinstance(result, Lost):
                    result = replace(now[keys[place]], quick=tasks[place].quick, broken=result.reason)
                found[keys[place]] = result
                broken += bool(result.broken)
                if log:
                    log.add(result)
                if watch:
                    watch.advance(1, broken=str(broken))
    except KeyboardInterrupt:
        kept = "The same command goes on from there." if log else "Nothing was kept, since there is no folder for it."
        raise KeyboardInterrupt(f"Stopped after {len(found)} of {len(tasks)} files. {kept}") from None
    finally:
        if watch:
            watch.finish()
    return found


def _files(source: Source) -> dict[Key, list[tuple[str, Item]]]:
    """The files of a data set, each with the videos that are this file or parts of it."""
    files: dict[Key, list[tuple[str, Item]]] = defaultdict(list)
    for half, items in (("train", source.train), ("val", source.val)):
        for item in items:
            files[key_of(item)].append((half, item))
    return dict(files)


def _same_size(known: dict[Key, Facts], files: dict[Key, list[tuple[str, Item]]]) -> list[Key]:
    """Files that may have the content of another, and whose digest is not known."""
    sizes: dict[int, list[Key]] = defaultdict(list)
    for key in files:
        facts = known[key]
        if facts.bytes and not facts.broken:
            sizes[facts.bytes].append(key)
    return [key for keys in sizes.values() if len(keys) > 1 for key in keys if not known[key].sha256]


def _report(
    data: str, source: Source, files: dict[Key, list[tuple[str, Item]]], known: dict[Key, Facts], why: str
) -> CheckReport:
    usual = median([facts.seconds for facts in known.values() if facts.seconds] or [0.0])
    checked = []
    for key, items in files.items():
        facts = known[key]
        parts = any(is_part(item) for _, item in items)
        name = os.path.basename(key[0]) if parts else items[0][1].name
        notes = () if facts.broken else tuple(notes_on(facts, 0.0 if parts else usual))
        checked.append(CheckedFile(name, facts, tuple(items), notes))
    missing = {half: names for half, names in source.missing.items() if names}
    duplicates = tuple(duplicates_in(checked, source.labels))
    return CheckReport(data, source.how, source.labels, tuple(checked), missing, duplicates, why)


def _kept(report: CheckReport) -> dict[str, list[Item]]:
    """The videos of each half that are worth keeping."""
    out: set[int] = set()
    for group in report.duplicates:
        first = next((item for half, item in group.items if half == "val"), group.items[0][1])
        stay = first if len(group.labels) == 1 else None
        out |= {id(item) for _, item in group.items if item is not stay}
    halves: dict[str, list[Item]] = {"train": [], "val": []}
    for file in report.files:
        for half, item in file.items:
            if id(item) not in out and not is_lost(item, file):
                halves[half].append(item)
    return halves
