"""Data sets that people lay out themselves: class folders, and lists of videos or of folders of pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from muybridge.errors import BadInput
from muybridge.structures import FrameFiles
from muybridge.video.readers.found import (
    HALVES,
    Entry,
    Found,
    Gathering,
    Place,
    are_numbers,
    half_of,
    part_name,
)
from muybridge.video.readers.shelf import Shelf, frame_files
from muybridge.video.readers.tables import VIDEO_SUFFIXES, Row, read_list, seconds

# Names of lists that tell whose class indices they hold; MMAction2's and DiST's converters call them so.
KNOWN_LISTS = {
    r"(kinetics|k)[-_]?400": "kinetics400",
    r"(kinetics|k)[-_]?600": "kinetics600",
    r"(kinetics|k)[-_]?700": "kinetics700",
    r"(kinetics|k|mix)[-_]?710": "kinetics710",
    r"sth[-_]?v1|ssv1|something-something-v1": "something-something-v1",
    r"sth[-_]?v2|ssv2|something-something-v2": "something-something-v2",
    r"ucf101": "ucf101",
    r"hmdb51": "hmdb51",
    r"diving48": "diving48",
    r"jester": "jester",
}


def folders_found(place: Place) -> Found:
    """Class folders: `train/<class>/*` and `val/<class>/*`, or `<class>/*`."""
    root = place.root
    # A class may be called `train`; only a folder of folders is a half.
    there = {path.name.lower(): path for path in visible(root, Path.is_dir)}
    folders = {
        half: next((there[w] for rank in ranks for w in rank if w in there and visible(there[w], Path.is_dir)), None)
        for half, ranks in HALVES.items()
    }
    trees = {half: folder for half, folder in folders.items() if folder} or {"all": root}
    classes = tuple(folder.name for folder in visible(next(iter(trees.values())), Path.is_dir))
    if not classes:
        raise BadInput(f"{root} holds no class folders; expected {root}/<class>/<video>, or train.txt and val.txt.")
    others: list[str] = []
    halves = {half: _read_tree(root, tree, others) for half, tree in trees.items()}
    notes = [f"{len(others)} files and folders in class folders are no videos (first: {others[0]})"] if others else []
    places = {half: str(tree) for half, tree in trees.items()}
    return Found(halves, places, classes, folders=True, notes=tuple(notes))


def are_lists(place: Place) -> list[Path]:
    """Files that are lists by their names; a list that was chosen is one."""
    files = [file for file in place.files if half_of(file) is not None or file == place.chosen]
    # A test half alone, or what goes by such a name (test-answers.csv), does not make a data set of lists.
    return files if any(half_of(file) for file in files) or place.chosen else []


def lists_found(place: Place) -> Found:
    """Lists `path,label[,start,end]`, or `folder frames label` of folders of pictures."""
    lists = place.halves(are_lists(place), "list")
    if not lists:
        raise BadInput(f"{place.root} holds no lists; expected train.txt or train.csv and val.txt or val.csv.")
    return of_lists(place, {half: [file] for half, file in lists.items()})


def of_lists(
    place: Place,
    lists: dict[str, list[Path]],
    keep: Callable[[str, Row], bool] | None = None,
    known: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Found:
    """The videos of lists.

    Args:
        place: where they lie.
        lists: half -> its lists; the half `all` may have a column `split`.
        keep: whether a row counts, told its half; None: all do.
        known: names of label sets that the classes may be of; None: what the names of the lists tell.
        notes: what else one should know.
    """
    gathering, patterns = Gathering(place), dict[str, FrameFiles | None]()
    for half, files in lists.items():
        gathering.begin(half, " and ".join(map(str, files)))
        for file in files:
            first = None
            for where, row in read_list(file):
                first = first or (where, row)
                to = half
                if half == "all" and "split" in row:
                    to = _split_of(row["split"], where)
                    gathering.begin(to, f"{file} ({row['split']})")
                if keep is None or keep(to, row):
                    _add(gathering, to, row, where, patterns)
            if first:
                _refuse_header(gathering, *first)
    if len(gathering.halves) > 1 and "all" in gathering.halves:
        if gathering.halves["all"] or "all" in gathering.missing:
            raise BadInput(f"{gathering.places['all']} tells the split of some videos and not of others.")
        del gathering.halves["all"]
    if known is None:
        names = " ".join(file.stem.lower() for files in lists.values() for file in files)
        known = [label_set for pattern, label_set in KNOWN_LISTS.items() if re.search(pattern, names)]
    numbers, own = are_numbers(gathering.written()), place.class_names()
    return gathering.done(own, known, numbers, notes)


def _refuse_header(gathering: Gathering, where: str, row: Row) -> None:
    """Raise BadInput if the first row looks like a header whose names are not known, and not like a video."""
    listed, label = row.get("path") or row["name"], row["label"]
    absent = any(label in labels for labels in gathering.absent.values())
    if not absent or not re.fullmatch(r"[A-Za-z_ -]+", listed):
        return
    there = any(entry.label == label for entries in gathering.halves.values() for entry in entries)
    if not there and sum(names.count(listed) for names in gathering.missing.values()) == 1:
        raise BadInput(
            f"{where} is a video {listed!r} of the class {label!r}, which is not there. If it is a header, call its "
            "columns path and label."
        )


def _add(gathering: Gathering, half: str, row: Row, where: str, patterns: dict[str, FrameFiles | None]) -> None:
    """The video of a row, if it is there."""
    shelf = gathering.place.shelf
    listed = row.get("path") or row["name"]
    listed = listed.removeprefix("file://").removeprefix("./")
    try:
        start = seconds(row["start"]) if "start" in row else 0.0
        end = seconds(row["end"]) if "end" in row else None
        stored = (int(row["offset"]), int(row["size"])) if "offset" in row and "size" in row else None
        frames = None
        if "pattern" in row:
            frames = FrameFiles(row["pattern"], int(row["first"]), int(row["count"]), float(row.get("rate", 0)))
        count = int(row["count"]) if "count" in row else None
    except (ValueError, KeyError) as error:
        raise BadInput(
            f"{where} cannot be understood: {error}; expected times in seconds or hh:mm:ss.sss, and whole numbers."
        ) from None
    if end is not None and end <= start:
        raise BadInput(f"{where} begins at {row.get('start', '0')} and ends at {row['end']}; expected a later end.")
    if "://" in listed and stored is None:
        raise BadInput(
            f"{where} is {listed}; a video by itself is read from this machine only. Fetch it, or put it into a shard."
        )
    name = row["name"] if "path" in row and "name" in row else part_name(listed, start, end)
    path = _locate(shelf, listed)
    if path is None:
        gathering.lacks(half, name, row["label"], listed)
        return
    if frames is None and count is not None and shelf.is_folder(path):
        # The pictures of all folders of a list are called alike, and the list tells how many there are.
        if "" not in patterns:
            patterns[""] = frame_files(path)
        pattern = patterns[""]
        frames = pattern and FrameFiles(pattern.pattern, pattern.first, count)
    gathering.add(half, Entry(path, name, row["label"], where, start, end, frames, stored))


def _locate(shelf: Shelf, name: str) -> str | None:
    if "://" in name:
        return name
    path = shelf.exact(name)
    if path is None:
        # Without its suffix, or with that of before the files were converted.
        folder, base = os.path.split(name)
        stem, suffix = os.path.splitext(base)
        path = shelf.by_stem([stem if suffix.lower() in VIDEO_SUFFIXES else base], [folder])
    return path


def _split_of(text: str, where: str) -> str:
    word = text.lower()
    if word in ("train", "training"):
        return "train"
    if word in ("val", "validation", "validate", "valid", "test", "testing"):
        return "val"
    raise BadInput(f"{where} is of the split {text}; expected train or val.")


def _read_tree(root: Path, tree: Path, others: list[str]) -> list[Entry]:
    """The videos of `tree`/<class>/, named relative to `root`, in sorted order; what else is there is put in `others`.

    Hidden entries do not count.
    """
    videos = []
    for folder in visible(tree, Path.is_dir):
        path, inside = os.path.abspath(folder), folder.relative_to(root).as_posix()
        # Fast: 100,000 videos are found in 0.4 s instead of 1.2; `Path.is_file` asks the disk for each of them.
        with os.scandir(folder) as entries:
            shown = sorted((entry.name, entry.is_file()) for entry in entries if not entry.name.startswith("."))
        for name, is_file in shown:
            if is_file and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
                videos.append(Entry(os.path.join(path, name), f"{inside}/{name}", folder.name, str(folder)))
            else:
                others.append(f"{inside}/{name}")
    return videos


def visible(folder: Path, keep: Callable[[Path], bool]) -> list[Path]:
    """What `folder` holds, sorted by name, without hidden entries; nothing if it is no folder."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".") and keep(p)), key=lambda p: p.name)
