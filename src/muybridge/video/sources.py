"""Which videos there are and what they show: a data source in two halves, to train with and to validate with.

    DIR/train/<class>/*  and  DIR/val/<class>/*       folders for both halves
    DIR/<class>/*                                     one tree; a part of every class is set aside for validation
    DIR/train.csv  and  DIR/val.csv                   lists, `path,label[,start,end]`: csv, tsv, txt, json or jsonl
    LIST.csv                                          one list; the other half lies beside it, or is set aside
    DIR with the official files of a data set         Kinetics, Something-Something, UCF101, EPIC-KITCHENS, ...
    DIR/train-{000..009}.tar                          archives, on this machine or behind an address

Instead of `val` a half may be called `validation` or `test`; without any, a part of every class of the training half is
set aside. `readers.formats` finds out which format it is. No video is opened: one that is listed and not there is left
out and counted, and one that is broken is found when it is read.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muybridge.errors import BadInput, MissingFile, unknown
from muybridge.structures import FrameFiles, Item, SourceArgs
from muybridge.video.aside import set_aside
from muybridge.video.labels import read_labels
from muybridge.video.readers.formats import find, normal
from muybridge.video.readers.found import Found
from muybridge.video.readers.tables import LISTS, csv_rows

PLAIN = ("name", "label", "split")
EXTRA = ("path", "start", "end", "pattern", "first", "count", "rate", "offset", "size")


@dataclass(frozen=True)
class Source:
    """Labelled videos in two halves.

    Attributes:
        train: videos to learn from.
        val: videos to validate with.
        labels: class names; the place is the class index.
        how: one line on how the halves came about.
        missing: half -> names of the videos that are listed and not there.
        data: the folder that names are relative to; empty: not known.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    labels: tuple[str, ...]
    how: str
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a data source, to evaluate on.

    Attributes:
        items: its videos.
        how: one line on where they are from.
        missing: names of the videos that are listed and not there.
    """

    items: tuple[Item, ...]
    how: str
    missing: tuple[str, ...] = ()


def read_source(data: str | Path, args: SourceArgs | None = None) -> Source:
    """The videos of a data source, to train with; what it may look like is told at the top of this file.

    Args:
        data: a folder, a list, or a pattern or address of archives.
        args: how the videos are found. `val_share` is set aside by the SHA-256 of the relative path, so that it is the
            same on every machine; a class with two videos or more has at least one on each side.

    Raises:
        MissingFile: nothing is there, or not one of the videos that a list names.
        BadInput: the source cannot be trained with; the message says why.
        UnknownName: a video has a class that the others or the class file do not have; there is no such format or fold.
    """
    args = args or SourceArgs()
    _check_share(args.val_share)
    found = find(data, args)
    whole = _whole(found, data)
    place = found.places[whole]
    labels = _labels_of(found, whole)
    train = _checked(found, whole, labels)
    if len(labels) < 2:
        raise BadInput(f"{place} has one class only, '{labels[0]}'; a recogniser needs two or more.")
    missing = {half: tuple(names) for half, names in found.missing.items()}
    if "val" not in found.halves:
        train, val = set_aside(train, args.val_share)
        if not val:
            raise BadInput(
                f"No class of {place} has two videos, so none can be set aside for validation; add a val half."
            )
        how = f"{args.val_share:.0%} of each class of {place} set aside by the hash of the path"
        missing = {"train": missing[whole]} if whole in missing else {}
    else:
        val = _checked(found, "val", labels)
        if not val:
            raise BadInput(
                f"{found.places['val']} holds no video; fill it, or remove it to have a part of {place} set aside."
            )
        both = {_content(item) for item in train} & {_content(item) for item in val}
        if both:
            raise BadInput(f"{len(both)} videos are in {place} and in {found.places['val']} (first: {min(both)[0]}).")
        how = f"{place} and {found.places['val']}"
    return Source(train, val, labels, with_notes(how, found, missing), missing, _root(data))


def read_items(
    data: str | Path, labels: Sequence[str], split: str = "val", args: SourceArgs | None = None
) -> tuple[Item, ...]:
    """The videos of `read_part` alone."""
    return read_part(data, labels, split, args).items


def read_part(data: str | Path, labels: Sequence[str], split: str = "val", args: SourceArgs | None = None) -> Part:
    """The videos of a data source, to evaluate a model that knows `labels`.

    Args:
        data: as `read_source` takes it; it need not have every class.
        labels: the model's class names in the order of its outputs. Classes are matched by name; class indices in
            lists without class names mean these.
        split: `train`, `val` or `all`; where the source has no split, the parts are those of `read_source`.
        args: as in `read_source`.

    Raises:
        MissingFile: nothing is there, or not one of the videos that a list names.
        BadInput: the source has no such half, or no video in it.
        UnknownName: a class is not among `labels`, or there is no such split, format or fold.
    """
    if split not in ("train", "val", "all"):
        raise unknown("split", split, ("train", "val", "all"))
    args, names = args or SourceArgs(), tuple(labels)
    _check_share(args.val_share)
    found = find(data, args)
    halves = list(found.halves)
    if split == "all":
        items = tuple(item for half in halves for item in _checked(found, half, names))
    elif "val" in found.halves:
        if split not in found.halves:
            raise BadInput(f"{data} has {found.places['val']} only; expected the split val or all.")
        halves = [split]
        items = _checked(found, split, names)
    else:
        halves = [_whole(found, data)]
        items = set_aside(_checked(found, halves[0], names), args.val_share)[split == "val"]
    if not items:
        raise BadInput(f"{data} holds no video in its split {split}.")
    missing = {half: tuple(found.missing[half]) for half in halves if half in found.missing}
    how = with_notes(" and ".join(found.places[half] for half in halves), found, missing)
    return Part(items, how, tuple(name for absent in missing.values() for name in absent))


def data_is_there(data: str | Path) -> bool:
    """Whether a data source is where it was; of archives behind an address or in a pattern this is found on reading."""
    text = normal(data)
    return os.path.exists(text) or "://" in text or "{" in text


def absolute(data: str | Path) -> str:
    """A data source that means the same from any folder; an address stays as it is."""
    text = normal(data)
    return text if "://" in text else os.path.abspath(text)


def short_name(data: str | Path) -> str:
    """What to call a data source in the name of a folder.

    >>> short_name("https://host/shards/train-{000..009}.tar")
    'shards'
    """
    parts = normal(data).partition("?")[0].replace("://", "/").rstrip("/").split("/")
    is_file = parts[-1].lower().endswith((*LISTS, ".tar"))
    name = parts[-2] if is_file and len(parts) > 1 else parts[-1]
    return re.sub(r"[^\w.-]+", "_", name) or "data"


def split_rows(source: Source) -> Iterator[tuple[str, str, str]]:
    """(name, label, split) of every video, those of `train` first."""
    for split, items in (("train", source.train), ("val", source.val)):
        for item in items:
            yield item.name, source.labels[item.label], split


def write_split(path: str | Path, source: Source) -> None:
    """Write the split as a csv file with the columns name, label, split, and those of `EXTRA` that are needed.

    A video whose path is not its name below the data folder has its path there too, relative to that folder if it is
    in it; a part of a video its start and end in seconds; a folder of pictures their pattern, the first number, their
    count and rate; a video in an archive its offset and size in bytes.
    """
    items = (*source.train, *source.val)
    extras = [_extra(item, source.data) for item in items]
    columns = [column for column in EXTRA if any(column in extra for extra in extras)]
    # Names of files may hold bytes that are no text.
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*PLAIN, *columns))
        for row, extra in zip(split_rows(source), extras, strict=True):
            writer.writerow((*row, *(extra.get(column, "") for column in columns)))


def read_split(path: str | Path, data: str | Path, labels: Sequence[str] | None = None) -> Source:
    """What `write_split` wrote: the same videos in the same halves, in the same order.

    Args:
        path: the csv file.
        data: the data source, to whose folder the names in the file are relative.
        labels: class names in the order of their indices; None: those of `labels.txt` beside the file, as in the
            folder of a run, else those in the file, sorted.

    Raises:
        MissingFile: there is no such file.
        BadInput: a row is malformed.
        UnknownName: a row has a class that is not among `labels`.
    """
    root, header = _root(data), list(PLAIN)
    rows: list[tuple[str, dict[str, str]]] = []
    for number, fields in csv_rows(Path(path), errors="surrogateescape"):
        if fields[:3] == list(PLAIN) and not rows:
            header = fields
            continue
        if len(fields) != len(header) or fields[2] not in ("train", "val"):
            raise BadInput(
                f"{path}:{number} is {','.join(fields)!r}; expected {','.join(header)} with split train or val."
            )
        rows.append((f"{path}:{number}", dict(zip(header, fields, strict=True))))
    if labels is None and (beside := Path(path).with_name("labels.txt")).is_file():
        labels = read_labels(beside)
    elif labels is None:
        labels = sorted({row["label"] for _, row in rows})
    index = {label: place for place, label in enumerate(labels)}
    halves: dict[str, list[Item]] = {"train": [], "val": []}
    for where, row in rows:
        if row["label"] not in index:
            raise unknown("class", row["label"], labels, f"It stands in {where}.")
        halves[row["split"]].append(_item(row, index[row["label"]], root, where))
    return Source(tuple(halves["train"]), tuple(halves["val"]), tuple(labels), f"as in {path}", {}, root)


def _item(row: Mapping[str, str], label: int, root: str, where: str) -> Item:
    """The video of a row of a split file."""
    path = row.get("path") or _locate(root, row["name"])
    if "://" not in path:
        path = os.path.abspath(os.path.join(root, path))
    try:
        frames = None
        if row.get("pattern"):
            frames = FrameFiles(row["pattern"], int(row["first"]), int(row["count"]), float(row["rate"]))
        stored = (int(row["offset"]), int(row["size"])) if row.get("offset") else None
        start, end = float(row.get("start") or 0), float(row["end"]) if row.get("end") else None
    except (ValueError, KeyError) as error:
        raise BadInput(f"{where} cannot be understood: {error}; the file is not as it was written.") from None
    return Item(path, label, row["name"], start, end, frames, stored)


def _extra(item: Item, data: str) -> dict[str, str]:
    """The columns besides `PLAIN` that tell this video."""
    extra: dict[str, str] = {}
    if item.path != os.path.abspath(os.path.join(data, item.name)):
        inside = data and item.path.startswith(os.path.join(data, ""))
        extra["path"] = os.path.relpath(item.path, data) if inside else item.path
    if item.start:
        extra["start"] = repr(item.start)
    if item.end is not None:
        extra["end"] = repr(item.end)
    if item.frames is not None:
        frames = item.frames
        extra |= {"pattern": frames.pattern, "first": str(frames.first), "count": str(frames.count)}
        extra["rate"] = repr(frames.rate)
    if item.stored is not None:
        extra["offset"], extra["size"] = map(str, item.stored)
    return extra


def _root(data: str | Path) -> str:
    """The folder that names are relative to; empty for archives behind addresses."""
    text = normal(data)
    if "://" in text:
        return ""
    path = os.path.abspath(text)
    return path if os.path.isdir(path) else os.path.dirname(path)


def _locate(root: str, name: str) -> str:
    """Where a video is that has no path of its own: below the data folder, else below its folder `videos`."""
    path = os.path.join(root, name)
    if not os.path.exists(path) and os.path.exists(inside := os.path.join(root, "videos", name)):
        path = inside
    return os.path.abspath(path)


def _whole(found: Found, data: str | Path) -> str:
    """The half from which a part can be set aside."""
    for half in ("train", "all"):
        if half in found.halves:
            return half
    raise BadInput(f"{data} has {found.places['val']} but nothing to train with; expected train beside it.")


def _labels_of(found: Found, whole: str) -> tuple[str, ...]:
    """Class names in the order of their indices. Raises BadInput for a class without a video."""
    # Those of videos that are missing count, so that the classes are the same on every machine.
    written = {entry.label for entry in found.halves[whole]} | found.absent.get(whole, set())
    if found.labels is not None and not found.folders:
        return found.labels  # A class file may name more classes than this data set has videos of.
    if found.labels is not None:
        labels = found.labels
    else:
        labels = names_of_classes(written, found.numbers)
    if found.numbers:
        written = {str(int(label)) for label in written}
    empty = [label for label in labels if label not in written]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        mend = "add some or remove the class."
        if found.numbers:
            mend = "labels that are numbers are class indices, from 0 without a gap. Names must not be numbers."
        raise BadInput(f"The class '{empty[0]}'{more} has no video in {found.places[whole]}; {mend}")
    return labels


def names_of_classes(written: Collection[str], numbers: bool) -> tuple[str, ...]:
    """Class names where nothing but the labels of the videos tells them: in sorted order, or the indices as text."""
    if numbers:
        return tuple(str(index) for index in range(max(map(int, written), default=-1) + 1))
    return tuple(sorted(written))


def _checked(found: Found, half: str, labels: tuple[str, ...]) -> tuple[Item, ...]:
    """The videos of a half with class indices; at least one of those that are listed is there."""
    if not found.halves[half] and found.missing.get(half):
        raise MissingFile(
            f"Not one video of {found.places[half]} is there; the first should be {found.expected[half]}. "
            "If the videos lie elsewhere, give their folder: --videos DIR"
        )
    return _items(found, half, labels)


def _items(found: Found, half: str, labels: tuple[str, ...]) -> tuple[Item, ...]:
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
        items.append(Item(entry.path, index[label], entry.name, entry.start, entry.end, entry.frames, entry.stored))
    return tuple(items)


def _content(item: Item) -> tuple[str, float, float, tuple[int, int]]:
    """What is the same if two items are the same part of the same file."""
    frames = (item.frames.first, item.frames.count) if item.frames else (0, 0)
    return item.path, item.start, -1.0 if item.end is None else item.end, item.stored or frames


def with_notes(how: str, found: Found, missing: Mapping[str, Collection[str]]) -> str:
    """`how` with what else one should know of the source; `missing`: half -> names of videos that are not there."""
    notes = list(found.notes)
    for half, names in missing.items():
        where = half if half in found.places else "all"
        listed = len(names) + len(found.halves[where])
        notes.append(f"{len(names)} of {listed} videos of {Path(found.places[where]).name} are missing")
    return "; ".join([how, *notes])


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise BadInput(f"source.val_share is {share}; expected a share between 0 and 1, such as 0.2.")
