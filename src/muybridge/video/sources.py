"""Which videos there are and what they show: class folders, list files, and the split into training and validation.

    DIR/train/<class>/*  and  DIR/val/<class>/*       folders for both halves
    DIR/<class>/*                                     one tree; a part of every class is set aside for validation
    DIR/train.txt  and  DIR/val.txt                   a line for each video: its path, blanks, its label
    DIR/train.csv  and  DIR/val.csv                   the same in columns, `path,label`

Instead of `val` a half may be called `validation` or `test`; without any, a part of every class of the training half is
set aside. Beside lists, `classes.txt` or `labels.txt` names the classes in the order of their indices. No file is
opened but the lists: a video that is missing or broken is found when it is read.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from muybridge.errors import BadInput, MissingFile, unknown
from muybridge.structures import Item, SourceArgs
from muybridge.video.labels import read_labels

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
})
# fmt: on
HALVES = {"train": ("train",), "val": ("val", "validation", "test")}
CLASS_FILES = ("classes.txt", "labels.txt")
PATHS = ("path", "video", "file", "filename", "name")
LABELS = ("label", "class")


@dataclass(frozen=True)
class Source:
    """Labelled videos in two halves.

    Attributes:
        train: videos to learn from.
        val: videos to validate with.
        labels: class names; the place is the class index.
        how: one line on how the halves came about.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    labels: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class _Entry:
    """A video as it was found: its path, its name in lists, its label as written, and where that is written."""

    path: str
    name: str
    label: str
    where: str


@dataclass(frozen=True)
class _Found:
    """What a data folder holds, before labels are indices.

    Attributes:
        halves: the videos of `train` and `val`; of `all` where the folder has no split.
        places: what to call each of them in a message.
        labels: class names in the order of their indices; None if neither folders nor a class file tell.
        folders: the classes are folders.
        numbers: labels are written as class indices.
    """

    halves: dict[str, list[_Entry]]
    places: dict[str, str]
    labels: tuple[str, ...] | None
    folders: bool = False
    numbers: bool = False


def read_source(data: str | Path, args: SourceArgs | None = None) -> Source:
    """The videos of a data folder, to train with; what it may look like is told at the top of this file.

    Args:
        data: the folder.
        args: how the videos are found. `val_share` is set aside by the SHA-256 of the relative path, so that it is the
            same on every machine; a class with two videos or more has at least one on each side.

    Raises:
        MissingFile: the folder is not there, or not one of the videos that a list names.
        BadInput: the folder cannot be trained with; the message says why.
        UnknownName: a video has a class that the others or the class file do not have.
    """
    val_share = (args or SourceArgs()).val_share
    if not 0 < val_share < 1:
        raise BadInput(f"source.val_share is {val_share}; expected a share between 0 and 1, such as 0.2.")
    found = _find(Path(data))
    whole = _whole(found, data)
    place = found.places[whole]
    labels = _labels_of(found, whole)
    if len(labels) < 2:
        raise BadInput(f"{place} has one class only, '{labels[0]}'; a recogniser needs two or more.")
    train = _items(found, whole, labels)
    if "val" not in found.halves:
        train, val = _set_aside(train, val_share)
        if not val:
            raise BadInput(
                f"No class of {place} has two videos, so none can be set aside for validation; add a val half."
            )
        return Source(train, val, labels, f"{val_share:.0%} of each class of {place} set aside by the hash of the path")
    val = _items(found, "val", labels)
    if not val:
        raise BadInput(
            f"{found.places['val']} holds no video; fill it, or remove it to have a part of {place} set aside."
        )
    both = {item.path for item in train} & {item.path for item in val}
    if both:
        raise BadInput(f"{len(both)} videos are in {place} and in {found.places['val']} (first: {min(both)}).")
    return Source(train, val, labels, f"{place} and {found.places['val']}")


def read_items(
    data: str | Path, labels: Sequence[str], split: str = "val", args: SourceArgs | None = None
) -> tuple[Item, ...]:
    """The videos of a data folder, to evaluate a model that knows `labels`.

    Args:
        data: a folder as `read_source` takes it; it need not have every class.
        labels: the model's class names in the order of its outputs. Classes are matched by name; class indices in
            lists without a class file mean these.
        split: `train`, `val` or `all`; where the folder has no split, the parts are those of `read_source`.
        args: as in `read_source`.

    Raises:
        MissingFile: the folder is not there, or not one of the videos that a list names.
        BadInput: the folder has no such half, or no video in it.
        UnknownName: a class is not among `labels`, or there is no such split.
    """
    if split not in ("train", "val", "all"):
        raise unknown("split", split, ("train", "val", "all"))
    found, names = _find(Path(data)), tuple(labels)
    if split == "all":
        items = tuple(item for half in found.halves for item in _items(found, half, names))
    elif "val" in found.halves:
        if split not in found.halves:
            raise BadInput(f"{data} has {found.places['val']} only; expected the split val or all.")
        items = _items(found, split, names)
    else:
        items = _set_aside(_items(found, _whole(found, data), names), (args or SourceArgs()).val_share)[split == "val"]
    if not items:
        raise BadInput(f"{data} holds no video in its split {split}.")
    return items


def split_rows(source: Source) -> Iterator[tuple[str, str, str]]:
    """(name, label, split) of every video, those of `train` first."""
    for split, items in (("train", source.train), ("val", source.val)):
        for item in items:
            yield item.name, source.labels[item.label], split


def write_split(path: str | Path, source: Source) -> None:
    """Write the split as a csv file with the columns name, label, split."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "label", "split"))
        writer.writerows(split_rows(source))


def read_split(path: str | Path, data: str | Path, labels: Sequence[str] | None = None) -> Source:
    """What `write_split` wrote: the same videos in the same halves, in the same order.

    Args:
        path: the csv file.
        data: the data folder, to which the names in the file are relative.
        labels: class names in the order of their indices; None: those of `labels.txt` beside the file, as in the
            folder of a run, else those in the file, sorted.

    Raises:
        MissingFile: there is no such file.
        BadInput: a row is malformed.
        UnknownName: a row has a class that is not among `labels`.
    """
    halves: dict[str, list[_Entry]] = {"train": [], "val": []}
    for number, row in _rows(Path(path)):
        if row == ["name", "label", "split"]:
            continue
        if len(row) != 3 or row[2] not in halves:
            raise BadInput(f"{path}:{number} is {','.join(row)!r}; expected name,label,split with split train or val.")
        halves[row[2]].append(_Entry(_locate(Path(data), row[0]), row[0], row[1], f"{path}:{number}"))
    if labels is None and (beside := Path(path).with_name("labels.txt")).is_file():
        labels = read_labels(beside)
    elif labels is None:
        labels = sorted({entry.label for half in halves.values() for entry in half})
    names = tuple(labels)
    found = _Found(halves, dict.fromkeys(halves, str(path)), names)
    return Source(_items(found, "train", names), _items(found, "val", names), names, f"as in {path}")


def _find(root: Path) -> _Found:
    """The videos of a data folder, whichever of the layouts it has."""
    if not root.exists():
        raise MissingFile(f"There is no folder {root}.")
    if not root.is_dir():
        raise BadInput(
            f"{root} is a file; expected a folder with class folders, with train and val, or with train.txt."
        )
    lists = {
        half: next((f for n in names for f in (root / f"{n}.txt", root / f"{n}.csv") if f.is_file()), None)
        for half, names in HALVES.items()
    }
    if any(lists.values()):
        return _find_lists(root, {half: file for half, file in lists.items() if file})
    # A class may be called `train`; only a folder of folders is a half.
    folders = {
        half: next((root / name for name in names if _visible(root / name, Path.is_dir)), None)
        for half, names in HALVES.items()
    }
    trees = {half: folder for half, folder in folders.items() if folder} or {"all": root}
    halves = {half: _read_tree(root, tree) for half, tree in trees.items()}
    first = next(iter(trees.values()))
    classes = tuple(folder.name for folder in _visible(first, Path.is_dir))
    if not classes:
        raise BadInput(f"{root} holds no class folders; expected {root}/<class>/<video>, or train.txt and val.txt.")
    return _Found(halves, {half: str(tree) for half, tree in trees.items()}, classes, folders=True)


def _find_lists(root: Path, lists: dict[str, Path]) -> _Found:
    halves = {half: list(_read_list(root, file)) for half, file in lists.items()}
    for half, entries in halves.items():
        if not entries:
            raise BadInput(f"{lists[half]} names no video; expected a path and a label a line.")
        if not any(os.path.exists(entry.path) for entry in entries):
            raise MissingFile(f"Not one video of {lists[half]} is there; the first should be {entries[0].path}.")
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    numbers = all(re.fullmatch(r"-?\d+", entry.label) for entries in halves.values() for entry in entries)
    places = {half: str(path) for half, path in lists.items()}
    return _Found(halves, places, read_labels(file) if file else None, numbers=numbers)


def _read_tree(root: Path, tree: Path) -> list[_Entry]:
    """The videos of `tree`/<class>/, named relative to `root`, in sorted order."""
    return [
        _Entry(os.path.abspath(video), video.relative_to(root).as_posix(), folder.name, str(folder))
        for folder in _visible(tree, Path.is_dir)
        for video in _visible(folder, lambda path: path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    ]


def _read_list(root: Path, file: Path) -> Iterator[_Entry]:
    """The videos that a list file names, in its order."""
    path_column, label_column = 0, 1
    for place, (number, row) in enumerate(_rows(file)):
        if place == 0 and file.suffix == ".csv":
            header = [field.strip().lower() for field in row]
            paths, labels = ([n for n, field in enumerate(header) if field in names] for names in (PATHS, LABELS))
            if paths and labels:
                path_column, label_column = paths[0], labels[0]
                continue
        fields = [field.strip() for field in row]
        if len(fields) <= max(path_column, label_column) or not fields[path_column] or not fields[label_column]:
            wanted = "path,label" if file.suffix == ".csv" else "a path, a blank and a label"
            raise BadInput(f"{file}:{number} is {','.join(row)!r}; expected {wanted}.")
        name = fields[path_column].removeprefix("./")
        yield _Entry(_locate(root, name), name, fields[label_column], f"{file}:{number}")


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, with its number from 1; of a text line two: path and label."""
    if not file.is_file():
        raise MissingFile(f"There is no file {file}.")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            if file.suffix == ".csv":
                reader = csv.reader(stream)
                yield from ((reader.line_num, row) for row in reader if row)
            else:
                # Paths may hold blanks. After a tab the label may, too.
                split = ((number, line.strip()) for number, line in enumerate(stream, start=1))
                yield from ((n, line.rsplit("\t" if "\t" in line else None, 1)) for n, line in split if line)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} is not a text file in UTF-8: {error}.") from error


def _locate(root: Path, name: str) -> str:
    """The absolute path of a listed video: below the data folder, else below its folder `videos`."""
    path = root / name
    if not path.exists() and (root / "videos" / name).exists():
        path = root / "videos" / name
    return os.path.abspath(path)


def _visible(folder: Path, keep: Callable[[Path], bool]) -> list[Path]:
    """What `folder` holds, sorted by name, without hidden entries; nothing if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".") and keep(p)), key=lambda p: p.name)


def _whole(found: _Found, data: str | Path) -> str:
    """The half from which a part can be set aside."""
    for half in ("train", "all"):
        if half in found.halves:
            return half
    raise BadInput(f"{data} has {found.places['val']} but nothing to train with; expected train beside it.")


def _labels_of(found: _Found, whole: str) -> tuple[str, ...]:
    """Class names in the order of their indices. Raises BadInput for a class without a video."""
    written = Counter(entry.label for entry in found.halves[whole])
    if found.labels is not None and not found.folders:
        return found.labels  # A class file may name more classes than this data set has videos of.
    if found.labels is not None:
        labels = found.labels
    elif found.numbers:
        labels = tuple(str(index) for index in range(max(int(label) for label in written) + 1))
    else:
        labels = tuple(sorted(written))
    empty = [label for label in labels if not written[label]]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise BadInput(
            f"The class '{empty[0]}'{more} has no video in {found.places[whole]}; add some or remove the class."
        )
    return labels


def _items(found: _Found, half: str, labels: tuple[str, ...]) -> tuple[Item, ...]:
    """The videos of a half with class indices. Raises for a class that is not among `labels`."""
    # Indices in lists are those of the class file, if there is one, and `labels` may be in another order.
    names = found.labels if found.numbers and found.labels else labels
    index = {label: place for place, label in enumerate(labels)}
    items = []
    for entry in found.halves[half]:
        label = entry.label
        if found.numbers:
            if not 0 <= int(label) < len(names):
                raise BadInput(f"{entry.where} has the label {label}; expected 0 to {len(names) - 1}.")
            label = names[int(label)]
        if label not in index:
            raise unknown("class", label, labels, f"It stands in {entry.where}.")
        items.append(Item(entry.path, index[label], entry.name))
    return tuple(items)


def _set_aside(items: tuple[Item, ...], share: float) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Items in two halves, each in the order given: of every class the share with the lowest hashes is the second."""
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    aside: set[str] = set()
    for members in classes.values():
        if len(members) > 1:
            members.sort(key=lambda item: hashlib.sha256(item.name.encode()).digest())
            count = min(max(round(len(members) * share), 1), len(members) - 1)
            aside.update(item.name for item in members[:count])
    return (
        tuple(item for item in items if item.name not in aside),
        tuple(item for item in items if item.name in aside),
    )
