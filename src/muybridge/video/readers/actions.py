"""UCF101 and HMDB51 with their three official splits, and Diving48."""

from __future__ import annotations

import re
from pathlib import Path

from muybridge.errors import BadInput
from muybridge.video.readers.class_files import names_in
from muybridge.video.readers.found import Entry, Found, Gathering, Place, check_fold, half_of
from muybridge.video.readers.tables import beginning, lines_of, read_json

UCF = re.compile(r"(train|test)list(\d+)\.txt", re.IGNORECASE)
HMDB = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
HMDB_HALVES = {"1": "train", "2": "val", "0": None}


def ucf_files(place: Place) -> list[Path]:
    """`trainlist01.txt`, `testlist01.txt` and so on."""
    return [file for file in place.files if UCF.fullmatch(file.name)]


def ucf101(place: Place) -> Found:
    """`classInd.txt`, `trainlistNN.txt`, `testlistNN.txt`; the class is the folder in the path."""
    by_fold: dict[int, dict[str, Path]] = {}
    for file in ucf_files(place):
        match = UCF.fullmatch(file.name)
        assert match is not None
        by_fold.setdefault(int(match[2]), {})["train" if match[1].lower() == "train" else "val"] = file
    if not by_fold:
        raise BadInput(f"{place} holds no trainlist01.txt and testlist01.txt of UCF101.")
    check_fold(place, by_fold)
    gathering = Gathering(place)
    for half, file in sorted(by_fold[place.args.fold].items()):
        gathering.begin(half, file)
        for number, line in lines_of(file):
            # Training lists have the class index, counted from 1, after the path; test lists do not.
            name = re.sub(r"\s+\d+$", "", line)
            label, slash, base = name.rpartition("/")
            if not slash:
                raise BadInput(f"{file}:{number} is {line!r}; expected <class>/<video>.avi.")
            stem = re.sub(r"\.\w+$", "", base)
            path = place.shelf.by_stem([stem], _class_folders(place, label))
            if path is None:
                gathering.lacks(half, name, label, name)
            else:
                gathering.add(half, Entry(path, name, label, f"{file}:{number}"))
    return gathering.done(place.class_names(), ["ucf101"])


def hmdb_files(place: Place) -> list[Path]:
    """`<class>_test_split1.txt` and so on."""
    return [file for file in place.files if HMDB.fullmatch(file.name)]


def hmdb51(place: Place) -> Found:
    """`<class>_test_split<1-3>.txt`: a video and 1 (train), 2 (test) or 0 (not in this split)."""
    by_fold: dict[int, dict[str, Path]] = {}
    for file in hmdb_files(place):
        match = HMDB.fullmatch(file.name)
        assert match is not None
        by_fold.setdefault(int(match[2]), {})[match[1]] = file
    if not by_fold:
        raise BadInput(f"{place} holds no files <class>_test_split1.txt of HMDB51.")
    check_fold(place, by_fold)
    gathering = Gathering(place)
    classes = by_fold[place.args.fold]
    for half, word in (("train", "1"), ("val", "2")):
        gathering.begin(half, f"{place} (fold {place.args.fold}, videos with {word})")
    for label, file in sorted(classes.items()):
        for number, line in lines_of(file):
            name, _, mark = line.rpartition(" ")
            if mark not in HMDB_HALVES or not name:
                raise BadInput(f"{file}:{number} is {line!r}; expected a video and 0, 1 or 2.")
            to = HMDB_HALVES[mark]
            if to is None:
                continue
            name = name.strip()
            path = place.shelf.by_stem([re.sub(r"\.\w+$", "", name)], _class_folders(place, label))
            if path is None:
                gathering.lacks(to, f"{label}/{name}", label, f"{label}/{name}")
            else:
                gathering.add(to, Entry(path, f"{label}/{name}", label, f"{file}:{number}"))
    return gathering.done(place.class_names(), ["hmdb51"])


def diving_files(place: Place) -> list[Path]:
    """The JSON lists of Diving48."""
    jsons = [file for file in place.files if file.suffix.lower() == ".json" and half_of(file)]
    return [file for file in jsons if '"vid_name"' in beginning(file)]


def diving48(place: Place) -> Found:
    """`Diving48_V2_train.json` and `Diving48_V2_test.json`: `vid_name` and a class index."""
    lists = place.halves(diving_files(place), "list")
    if not lists:
        raise BadInput(f"{place} holds no list of Diving48; expected Diving48_V2_train.json and Diving48_V2_test.json.")
    gathering = Gathering(place)
    vocabulary = [file for file in place.files if "vocab" in file.stem.lower() and file.suffix.lower() == ".json"]
    for half, file in lists.items():
        gathering.begin(half, file)
        content = read_json(file)
        for number, entry in enumerate(content if isinstance(content, list) else [content], start=1):
            where = f"{file}, entry {number}"
            if not isinstance(entry, dict) or not {"vid_name", "label"} <= set(entry):
                raise BadInput(f"{where} has no vid_name with a label.")
            name, label = str(entry["vid_name"]), str(entry["label"])
            path = place.shelf.by_stem([name], ["", "videos", "rgb", *place.shelf.subfolders()])
            if path is None:
                gathering.lacks(half, name, label, f"{name}.mp4")
            else:
                gathering.add(half, Entry(path, name, label, where))
    own = place.class_names()
    if own is None and vocabulary:
        own = names_in(vocabulary[0])
    return gathering.done(own, ["diving48"], numbers=True)


def _class_folders(place: Place, label: str) -> list[str]:
    """Where the videos of a class may lie."""
    return [label, *(f"{folder}/{label}" for folder in ("videos", *_collections(place))), "", *_collections(place)]


def _collections(place: Place) -> list[str]:
    """Folders that hold all classes' folders, such as `UCF-101` or `hmdb51_org`."""
    return [
        f for f in place.shelf.subfolders() if any(word in f.lower() for word in ("ucf", "hmdb", "video", "frames"))
    ]
