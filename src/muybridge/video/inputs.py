"""Which videos there are, whatever they show: files, folders, patterns, lists and archives become one sequence.

    films/a.mp4                        a file
    films/                             a folder: every video file and tar archive below it
    "films/**/*.mkv"                   a pattern of files
    list.txt, list.csv                 a list: a path a line, or a column `path` (and `start`, `end` in seconds)
    part-{000..009}.tar                archives, on this machine or behind an address

No video is opened. One that a list names and that is not there stays in the sequence: it is found when it is read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from muybridge.errors import BadInput, MissingFile
from muybridge.structures import Item
from muybridge.video.ranges import is_address
from muybridge.video.readers.formats import normal
from muybridge.video.readers.stored import SUFFIXES as ARCHIVES
from muybridge.video.readers.tables import ENDS_IN_VIDEO, VIDEO_SUFFIXES, canonical, csv_rows, lines_of, seconds
from muybridge.video.shards import expand, indices_of

LISTS = (".txt", ".csv", ".tsv")
NO_LABEL = -1
GLOB = "*?["


def find_videos(inputs: Sequence[str | Path]) -> tuple[Item, ...]:
    """The videos that the inputs mean, in their order, without labels; one that is meant twice comes once.

    Args:
        inputs: see the top of this file. The files of a folder and of a pattern are sorted by path.

    Returns:
        Items with absolute paths and the class index `NO_LABEL`. A video in an archive has the name `archive/key`, a
        part of a file `path [12-20 s]`, any other its path.

    Raises:
        MissingFile: an input or an archive is not there.
        BadInput: an input means no video, is an address of something else than an archive, or a list or an archive
            cannot be read.
    """
    unique: dict[Item, None] = {}
    for text in map(normal, inputs):
        before = len(unique)
        found = 0
        for item in _of_input(text):
            unique.setdefault(item)
            found += 1
        if not found and len(unique) == before:
            raise BadInput(
                f"{text} holds no video; expected a video file, a folder or a pattern of them, a list of paths "
                f"({', '.join(LISTS)}) or a tar archive."
            )
    return tuple(unique)


def key_of(item: Item) -> str:
    """What a video is called in its archive; empty: it lies in none."""
    return item.name.removeprefix(f"{_base(item.path)}/") if item.stored is not None else ""


def _of_input(text: str) -> Iterator[Item]:
    if not text:
        raise BadInput("An input is empty; expected a file, a folder, a pattern, a list or an archive.")
    if os.path.isdir(text):
        yield from _in_folder(text)
    elif os.path.exists(text) or is_address(text):
        yield from _of_list(Path(text)) if text.lower().endswith(LISTS) and not is_address(text) else _of_entry(text)
    elif "{" in text and text.lower().endswith(ARCHIVES):
        yield from _in_archives(expand(text))
    elif any(mark in text for mark in GLOB):
        for path in sorted(glob.glob(text, recursive=True)):
            if os.path.isfile(path):
                yield from _of_entry(path)
    else:
        raise MissingFile(f"There is nothing at {text}; expected a file, a folder, a pattern, a list or an archive.")


def _of_entry(path: str) -> Iterator[Item]:
    """The videos of one file that is named: an archive, or a video."""
    if path.partition("?")[0].lower().endswith(ARCHIVES):
        yield from _in_archives(expand(path) if is_address(path) else [path])
    elif is_address(path):
        raise BadInput(
            f"{path} is an address and no tar archive; fetch the file, or put videos into .tar archives, which are "
            "read from where they are."
        )
    else:
        yield _file(path)


def _in_folder(folder: str) -> Iterator[Item]:
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would be walked for ever.
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            lower = name.lower()
            if not name.startswith(".") and lower.endswith((*VIDEO_SUFFIXES, ".tar")):
                yield from _of_entry(os.path.join(root, name))


def _in_archives(shards: Sequence[str]) -> Iterator[Item]:
    absent = [shard for shard in shards if not is_address(shard) and not os.path.isfile(shard)]
    if absent:
        raise MissingFile(f"{len(absent)} of {len(shards)} archives are not there; first: {absent[0]}.")
    for shard, videos in zip(shards, indices_of(shards, labelled=False), strict=True):
        path = shard if is_address(shard) else os.path.abspath(shard)
        for video in videos:
            yield Item(path, NO_LABEL, f"{_base(path)}/{video.key}", stored=(video.offset, video.size))


def _of_list(file: Path) -> Iterator[Item]:
    """The videos of a list; relative paths are relative to its folder."""
    entries = _text_lines(file) if file.suffix.lower() == ".txt" else _table_rows(file)
    for path, start, end in entries:
        if is_address(path) or path.lower().endswith(".tar"):
            yield from _of_entry(path if is_address(path) else os.path.join(file.parent, path))
        else:
            yield _file(os.path.join(file.parent, path), start, end)


def _text_lines(file: Path) -> Iterable[tuple[str, float, float | None]]:
    for _, line in lines_of(file):
        # A list of a data set has a label behind the path.
        labelled = ENDS_IN_VIDEO.fullmatch(line)
        if labelled and not os.path.exists(os.path.join(file.parent, line)):
            line = labelled[1]
        yield line, 0.0, None


def _table_rows(file: Path) -> Iterable[tuple[str, float, float | None]]:
    places: dict[str, int] | None = None
    for number, row in csv_rows(file):
        fields = [field.strip() for field in row]
        if places is None:
            places = canonical(fields)
            if "path" in places or "name" in places:
                continue
            places = {"path": 0}
        told = {key: fields[place] for key, place in places.items() if place < len(fields) and fields[place]}
        path = told.get("path", told.get("name"))
        if path is None:
            raise BadInput(f"{file}:{number} is {','.join(row)!r}; expected a path.")
        try:
            start, end = seconds(told.get("start", "0")), seconds(told["end"]) if "end" in told else None
        except ValueError as error:
            raise BadInput(f"{file}:{number}: {error}; expected start and end in seconds.") from None
        yield path, start, end


def _file(path: str, start: float = 0.0, end: float | None = None) -> Item:
    path = os.path.abspath(path)
    whole = not start and end is None
    name = path if whole else f"{path} [{start:g}-{'' if end is None else f'{end:g}'} s]"
    return Item(path, NO_LABEL, name, start, end)


def _base(archive: str) -> str:
    return archive.partition("?")[0].rpartition("/")[2]
