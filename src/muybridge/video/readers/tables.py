"""Annotation files as rows: csv, tsv, text and JSON, whatever they call their columns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muybridge.errors import BadInput, MissingFile

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
})
# What a column holds -> what it is called in files, the likeliest first.
COLUMNS = {
    "path": ("path", "video_path", "filepath", "file_path", "file", "filename", "file_name", "video", "frame_dir",
             "video_id", "vid_name"),
    "name": ("name",),
    "label": ("label", "class", "category", "label_name", "class_name", "label_idx", "label_id", "class_id"),
    "start": ("start", "start_time", "time_start", "start_timestamp", "start_seconds", "start_sec", "t_start"),
    "end": ("end", "stop", "end_time", "stop_time", "time_end", "end_timestamp", "stop_timestamp", "end_seconds",
            "end_sec", "t_end"),
    "count": ("count", "total_frames", "num_frames", "frames"),
    "split": ("split", "subset", "partition"),
    "pattern": ("pattern",),
    "first": ("first",),
    "rate": ("rate",),
    "offset": ("offset",),
    "size": ("size",),
}
# fmt: on
LISTS = (".csv", ".tsv", ".txt", ".json", ".jsonl")
ENDS_IN_VIDEO = re.compile(
    rf"(.*(?:{'|'.join(re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES))}))[ \t]+(.+)", re.IGNORECASE
)
Row = dict[str, str]


def seconds(text: str) -> float:
    """A time in seconds, from `12.5`, `1:02.5` or `00:01:02.500`.

    Raises:
        ValueError: it is none, or below zero.

    >>> seconds("00:01:02.5")
    62.5
    """
    parts = text.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", part) for part in parts):
        raise ValueError(f"{text!r} is no time")
    total = 0.0
    for part in parts:
        total = total * 60 + float(part)
    return total


def beginning(file: Path, size: int = 4096) -> str:
    """The first characters of a file, to see what it is; characters that are no UTF-8 are replaced."""
    with open(file, encoding="utf-8-sig", errors="replace") as stream:
        return stream.read(size)


def header_of(file: Path) -> list[str]:
    """The fields of the first line of a csv file, in lower case."""
    line = next((line for line in beginning(file).splitlines() if line.strip()), "")
    return [field.strip().lower() for field in next(csv.reader([line], delimiter=_delimiter(file, line) or ","), [])]


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, without the blanks around them, with their numbers from 1.

    Raises:
        MissingFile: there is no such file.
        BadInput: it is not text.
    """
    if not file.is_file():
        raise MissingFile(f"There is no file {file}.")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            yield from ((number, line.strip()) for number, line in enumerate(stream, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not a text file in UTF-8: {error}.") from error


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises MissingFile or BadInput."""
    if not file.is_file():
        raise MissingFile(f"There is no file {file}.")
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # No UTF-8, no JSON, or a number of thousands of digits.
        raise BadInput(f"{file} is not a JSON file: {error}.") from error


def read_columns(file: Path, *needed: str) -> Iterator[tuple[str, Row]]:
    """The rows of a csv file with a header: where each stands, and its fields by the names of the header in lower case.

    Args:
        file: separated by commas, semicolons or tabs.
        needed: columns without which it is not the file that it should be.

    Raises:
        MissingFile: there is no such file.
        BadInput: it is not text, one of the columns is not there, or a row is shorter than them.
    """
    header: list[str] = []
    for number, row in csv_rows(file):
        if not header:
            header = [field.strip().lower() for field in row]
            for name in needed:
                if name not in header:
                    raise BadInput(f"{file} has no column {name}; its first line is {','.join(row)!r}.")
            continue
        fields = dict(zip(header, (field.strip() for field in row), strict=False))
        for name in needed:
            if name not in fields:
                raise BadInput(f"{file}:{number} has {len(row)} fields; expected {len(header)} as in its first line.")
        yield f"{file}:{number}", fields


def csv_rows(file: Path, errors: str = "strict") -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file that are not empty, with the numbers of their lines.

    Args:
        file: separated by commas, semicolons or tabs.
        errors: what is done about bytes that are no text, as `open` takes it.

    Raises:
        MissingFile: there is no such file.
        BadInput: it is not text, or its quotes are not closed.
    """
    if not file.is_file():
        raise MissingFile(f"There is no file {file}.")
    try:
        line = next((line for line in beginning(file).splitlines() if line.strip()), "")
        with open(file, encoding="utf-8-sig", errors=errors, newline="") as stream:
            reader = csv.reader(stream, delimiter=_delimiter(file, line) or ",", strict=True)
            yield from ((reader.line_num, row) for row in reader if row and any(field.strip() for field in row))
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not a text file in UTF-8: {error}.") from error
    except csv.Error as error:
        raise BadInput(
            f"{file}, before line {reader.line_num + 1}, is not csv: {error}; is a quote not closed?"
        ) from error


def read_list(file: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a list of videos, of any of the suffixes in `LISTS`.

    Returns:
        For each row where it stands and its fields by the keys of `COLUMNS`; what a row does not tell is left out, and
        `path` (or `name`) and `label` are never left out.

    Raises:
        MissingFile: there is no such file.
        BadInput: the file or a row of it cannot be read; the message names the line and what was expected.
    """
    if file.suffix.lower() in (".json", ".jsonl"):
        yield from _read_json_list(file)
        return
    first = next((line for line in beginning(file).splitlines() if line.strip()), "") if file.is_file() else ""
    if _delimiter(file, first) is None:
        yield from _read_text_list(file)
        return
    places: dict[str, int] | None = None
    for number, row in csv_rows(file):
        fields = [field.strip() for field in row]
        if places is None:
            places = canonical(fields)
            if _tells(places):
                continue
            places = {"path": 0, "label": 1}
            if len(fields) == 4 and _is_part(fields[2], fields[3]):
                places |= {"start": 2, "end": 3}
        found = {key: fields[place] for key, place in places.items() if place < len(fields) and fields[place]}
        if not _tells(found):
            wanted = "path,label" if file.suffix == ".csv" else "a path, a tab and a label"
            raise BadInput(f"{file}:{number} is {','.join(row)!r}; expected {wanted}.")
        yield f"{file}:{number}", found


def _tells(row: Mapping[str, Any]) -> bool:
    """Whether a row or a header tells which video and which class."""
    return ("path" in row or "name" in row) and "label" in row


def _read_text_list(file: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a text file, each separated by tabs or by blanks."""
    names = {name for synonyms in COLUMNS.values() for name in synonyms}
    for place, (number, line) in enumerate(lines_of(file)):
        if place == 0 and set(words := line.lower().split()) <= names and _tells(canonical(words)):
            continue
        yield f"{file}:{number}", _of_text(file, number, line)


def canonical(names: Sequence[str]) -> dict[str, int]:
    """Which place of a header holds what; the keys are those of `COLUMNS`."""
    lower = [name.strip().lower() for name in names]
    found = {}
    for key, synonyms in COLUMNS.items():
        place = next((lower.index(name) for name in synonyms if name in lower), None)
        if place is not None:
            found[key] = place
    return found


def _delimiter(file: Path, line: str) -> str | None:
    """What separates the fields of a list whose first line is this; None: blanks, and paths may hold some."""
    suffix = file.suffix.lower()
    if suffix == ".tsv" or (suffix == ".csv" and "\t" in line):
        return "\t"
    if suffix == ".csv":
        # Some codes call a list `path label` a csv file.
        return next((mark for mark in ",;" if mark in line), None if re.search(r"\S\s+\S", line) else ",")
    # A path with a comma is likelier than a text file with commas between its fields.
    return "," if "," in line and not re.search(r"\s", line) else None


def _of_text(file: Path, number: int, line: str) -> Row:
    """A line `path label`, `path label start end` or `folder frames label`; the path may hold blanks.

    After a tab the label may, too.
    """
    if "\t" in line:
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == 4 and _is_part(fields[2], fields[3]):
            return {"path": fields[0], "label": fields[1], "start": fields[2], "end": fields[3]}
        path, label = line.rsplit("\t", 1)
        return {"path": path.strip(), "label": label.strip()}
    match = ENDS_IN_VIDEO.fullmatch(line)
    if match:
        path, rest = match[1], match[2].split()
        if len(rest) == 3 and _is_part(rest[1], rest[2]):
            return {"path": path, "label": rest[0], "start": rest[1], "end": rest[2]}
        return {"path": path, "label": match[2]}
    fields = line.rsplit(None, 2)
    if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal() and not Path(fields[0]).suffix:
        return {"path": fields[0], "count": fields[1], "label": fields[2]}
    fields = line.rsplit(None, 1)
    if len(fields) != 2:
        raise BadInput(f"{file}:{number} is {line!r}; expected a path, a blank and a label.")
    return {"path": fields[0], "label": fields[1]}


def _is_part(start: str, end: str) -> bool:
    """Whether two fields are the beginning and the end of a part of a video."""
    try:
        return seconds(start) < seconds(end)
    except ValueError:
        return False


def _read_json_list(file: Path) -> Iterator[tuple[str, Row]]:
    entries: list[tuple[str, Any]] = []
    if file.suffix.lower() == ".jsonl":
        for number, line in lines_of(file):
            try:
                entries.append((f"{file}:{number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{file}:{number} is not JSON: {error}.") from error
    else:
        content = read_json(file)
        if isinstance(content, dict) and isinstance(content.get("database"), dict):
            content = content["database"]
        if isinstance(content, dict):
            pairs = content.items()
            content = [{"path": k, **v} if isinstance(v, dict) else {"path": k, "label": v} for k, v in pairs]
        if not isinstance(content, list):
            raise BadInput(f"{file} holds one value; expected a list of objects with a path and a label.")
        entries = [(f"{file}, entry {place}", entry) for place, entry in enumerate(content, start=1)]
    for where, entry in entries:
        if isinstance(entry, list) and len(entry) in (2, 4):
            entry = dict(zip(("path", "label", "start", "end"), entry, strict=False))
        yield where, _of_object(where, entry)


def _of_object(where: str, entry: Any) -> Row:
    if not isinstance(entry, Mapping):
        raise BadInput(f"{where} is {json.dumps(entry)[:80]}; expected an object with a path and a label.")
    if isinstance(entry.get("annotations"), Mapping):
        entry = {**entry, **entry["annotations"]}
    keys = list(entry)
    row: Row = {}
    for key, place in canonical(keys).items():
        value = entry[keys[place]]
        if isinstance(value, list) and key == "label":
            if len(value) != 1:
                raise BadInput(f"{where} has {len(value)} labels; a recogniser learns one class a video.")
            value = value[0]
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
            row[key] = str(value).strip()
    if not _tells(row):
        raise BadInput(f"{where} has the keys {', '.join(keys)}; expected path and label.")
    return row
