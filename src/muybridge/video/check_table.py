"""The table of a check: a csv file with one row a file, to which rows are added while the check is running."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TextIO

from muybridge.errors import BadInput
from muybridge.video.check_report import CheckReport
from muybridge.video.examine import Facts, Key

_FACTS = tuple(one.name for one in fields(Facts))
_BLANK = Facts("")
_DERIVED = ("name", "half", "label", "status", "notes")


class Log:
    """The table while the check is running: a row is added for each file that was read.

    Args:
        path: of the table; its folder is made.
        facts: what is known already.

    Raises:
        BadInput: nothing can be written there.
    """

    def __init__(self, path: Path, facts: Sequence[Facts]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written anew, because the last row of a check that was killed may not be whole.
            write_rows(path, [_FACTS, *map(_row, facts)])
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror or error}. Give another --out.") from error
        self._file: TextIO = open(path, "a", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, facts: Facts) -> None:
        self._writer.writerow(_row(facts))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _row(facts: Facts) -> list[Any]:
    return [int(value) if isinstance(value, bool) else value for value in asdict(facts).values()]


def report_rows(report: CheckReport) -> Iterator[Sequence[Any]]:
    """The finished table."""
    yield (*_DERIVED, *_FACTS)
    for file in report.files:
        half = _one({half for half, _ in file.items})
        label = _one({report.labels[item.label] for _, item in file.items})
        yield (file.name, half, label, file.status, ", ".join(file.notes), *_row(file.facts))


def _one(names: set[str]) -> str:
    """The name, or how many there are: parts of a file may be of several classes."""
    return names.pop() if len(names) == 1 else f"({len(names)})"


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a csv file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Names of files may hold bytes that are no text.
        with open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_facts(path: Path, now: dict[Key, Facts]) -> dict[Key, Facts]:
    """What an earlier check found. Raises BadInput if the file is something else, or the check of other videos."""
    found: dict[Key, Facts] = {}
    if not path.exists():
        return found
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            if not set(_FACTS) <= set(reader.fieldnames or ()):
                raise BadInput(f"{path} is not the table of a check; nothing is written over. Give another --out.")
            for row in reader:
                if (facts := _parse(row)) is not None:
                    found[facts.key] = facts
    except (OSError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}. Give another --out.") from error
    if found and not found.keys() & now.keys():
        raise BadInput(f"{path} is the check of other videos, such as {next(iter(found))[0]}. Give another --out.")
    return found


def _parse(row: dict[str, Any]) -> Facts | None:
    """A row of the table; None if it is not whole."""
    if None in row or any(row.get(name) is None for name in _FACTS) or len(row["sha256"]) not in (0, 64):
        return None
    values: dict[str, Any] = {}
    try:
        for name in _FACTS:
            default = getattr(_BLANK, name)
            values[name] = bool(int(row[name])) if isinstance(default, bool) else type(default)(row[name])
    except ValueError:
        return None
    return Facts(**values)


def unchanged(found: dict[Key, Facts], now: dict[Key, Facts], quick: bool) -> dict[Key, Facts]:
    """Of earlier findings those that still hold and are as thorough as asked for; what was broken is tried again."""
    return {
        key: facts
        for key, facts in found.items()
        if key in now
        and not facts.broken
        and (facts.bytes, facts.modified, facts.settings) == (now[key].bytes, now[key].modified, now[key].settings)
        and (quick or not facts.quick)
    }
