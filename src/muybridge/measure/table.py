"""A CSV file to which figures are added row by row, under the columns that it began with."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from muybridge.errors import BadInput, MissingFile


def append_row(path: str | Path, row: Mapping[str, object]) -> None:
    """Add a row to a CSV file; a new file gets the names of its columns first.

    Args:
        path: the file; missing folders are made.
        row: column -> value, None for an empty cell. A file that is there keeps the order of its own columns.

    Raises:
        BadInput: the file has other columns, or is no file that can be added to; it is left as it is.
    """
    path = Path(path)
    columns = check_columns(path, row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        end = "\r\n" if b"\r\n" in before else "\n"
        text = io.StringIO()
        # A file that a person edited may end without a line break; the row must not join its last line.
        text.write(end if before and not before.endswith((b"\n", b"\r")) else "")
        writer = csv.DictWriter(text, columns or list(row), lineterminator=end)
        if not columns:
            writer.writeheader()
        writer.writerow(row)
        with path.open("ab") as file:
            # One piece, so that rows of two processes do not mix.
            file.write(text.getvalue().encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}. Name another file.") from error


def check_columns(path: str | Path, wanted: Collection[str]) -> list[str]:
    """The columns of a CSV file, in its order; none if there is no file yet.

    A measurement asks before it begins, so that no hour's work ends at a file that cannot take it.

    Args:
        path: the file.
        wanted: the columns that rows will have, in any order.

    Raises:
        BadInput: the file has other columns, or cannot be read as a table.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; expected a CSV file, or a name for a new one.")
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as a CSV file ({error}). Name another file.") from error
    if not columns or sorted(columns) == sorted(wanted):
        return columns
    missing = [name for name in wanted if name not in columns]
    others = [name for name in columns if name not in wanted]
    told = [
        f"{word} {', '.join(names)}" for word, names in (("it lacks", missing), ("it has besides", others)) if names
    ]
    raise BadInput(
        f"{path} has other columns than the rows to be added: {'; '.join(told) or 'one stands there twice'}. "
        "It was left as it is; name another file."
    )


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file, each by the names of its columns.

    Raises:
        MissingFile: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"There is no table {path}; expected a CSV file of figures.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
