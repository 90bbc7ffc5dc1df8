"""Kinetics-400, -600 and -700 as their csv files tell, and Kinetics-710, the three joined, as lists."""

from __future__ import annotations

import os
import re
from pathlib import Path

from muybridge.errors import BadInput
from muybridge.video.readers.found import Entry, Found, Gathering, Place, half_of, words_of
from muybridge.video.readers.plain import are_lists, of_lists
from muybridge.video.readers.tables import Row, header_of, read_columns, read_list

SETS = ("kinetics400", "kinetics600", "kinetics700")
YOUTUBE = re.compile(r"([\w-]{11})(?:_\d+_\d+)?")
HALF_WORDS = {"train": {"train"}, "val": {"val", "validate", "validation", "test"}}


def official_files(place: Place) -> list[Path]:
    """The csv files with the columns of Kinetics."""
    return [file for file in place.files if file.suffix.lower() == ".csv" and "youtube_id" in header_of(file)]


def official(place: Place) -> Found:
    """`train.csv` and `validate.csv`: `label,youtube_id,time_start,time_end,split`."""
    gathering = Gathering(place)
    lists = place.halves(official_files(place), "list")
    if not lists:
        raise BadInput(f"{place} holds no csv file with the column youtube_id; expected train.csv and validate.csv.")
    for half, file in lists.items():
        if "label" not in header_of(file):
            raise BadInput(
                f"{file} has no labels, as the test half of Kinetics; expected a list with the column label."
            )
        gathering.begin(half, file)
        folders = [name for name in place.shelf.subfolders() if half in _halves_in(name)]
        folders += [f"videos/{name}" for name in ("train", "val", "test") if half in _halves_in(name)] + [""]
        below: dict[str, list[str]] = {}
        for where, row in read_columns(file, "label", "youtube_id"):
            label, youtube = row["label"].strip('"'), row["youtube_id"]
            if not label:
                raise BadInput(f"{where} has no label; expected a list with the column label filled in.")
            stems = _stems(youtube, row.get("time_start", ""), row.get("time_end", ""))
            if label not in below:
                own = ("", label, label.replace(" ", "_"))
                below[label] = [os.path.join(folder, name) for folder in folders for name in own]
            path = place.shelf.by_stem(stems, below[label])
            if path is None:
                gathering.lacks(half, stems[0], label, f"{half}/{label}/{stems[0]}.mp4")
            else:
                gathering.add(half, Entry(path, stems[0], label, where))
    return gathering.done(place.class_names(), _likeliest(place))


def lists_of_710(place: Place) -> list[Path]:
    """Lists that are of Kinetics-710 by their names or their folder's."""
    lists = [file for file in are_lists(place) if "youtube_id" not in header_of(file)]
    named = [file for file in lists if "710" in file.stem]
    return named or (lists if "710" in place.root.name else [])


def joined(place: Place) -> Found:
    """Lists `path label` with the indices of Kinetics-710; a half may have several, one for each Kinetics.

    A video that is in the second half of any of the three, by its name on YouTube, is left out of training: in the list
    of another Kinetics it may stand under `train`.
    """
    files = lists_of_710(place) or are_lists(place)
    files = [file for file in files if "youtube_id" not in header_of(file)]
    lists = {half: [file for file in files if half_of(file) == half] for half in ("train", "val")}
    if any("val" in words_of(f) or "validation" in words_of(f) for f in lists["val"]):
        lists["val"] = [file for file in lists["val"] if "test" not in words_of(file)]
    lists = {half: files for half, files in lists.items() if files}
    if not lists:
        raise BadInput(
            f"{place} holds no lists; expected lists `path label` of Kinetics-710 with train or val in names."
        )
    held = {name for file in place.files if half_of(file) == "val" for name in _names_in(file)}
    dropped: list[str] = []

    def keep(half: str, row: Row) -> bool:
        inside = half == "train" and _youtube(row.get("path") or row["name"]) in held
        if inside:
            dropped.append(row.get("path") or row["name"])
        return not inside

    found = of_lists(place, lists, keep, known=["kinetics710"])
    if dropped:
        found = Found(**{**vars(found), "notes": (*found.notes, f"{len(dropped)} left out of training: in a val half")})
    return found


def _names_in(file: Path) -> set[str | None]:
    """Names on YouTube of the videos that a list names."""
    if "youtube_id" in header_of(file):
        return {row["youtube_id"] for _, row in read_columns(file, "youtube_id")}
    return {_youtube(row.get("path") or row["name"]) for _, row in read_list(file)} - {None}


def _youtube(path: str) -> str | None:
    match = YOUTUBE.fullmatch(Path(path).stem)
    return match[1] if match else None


def _stems(youtube: str, start: str, end: str) -> list[str]:
    """What the file of a video may be called."""
    try:
        begin, stop = int(float(start)), int(float(end))
    except (ValueError, OverflowError):
        return [youtube]
    return [f"{youtube}_{begin:06d}_{stop:06d}", youtube, f"{youtube}_{begin}_{stop}"]


def _halves_in(folder: str) -> set[str]:
    words = set(re.findall(r"[a-z]+", folder.lower()))
    return {half for half, own in HALF_WORDS.items() if words & own}


def _likeliest(place: Place) -> list[str]:
    """The three label sets; the one first that the name of the folder or a list tells."""
    text = " ".join([place.root.name, *(file.stem for file in place.files)]).lower()
    return sorted(SETS, key=lambda name: not re.search(rf"k(inetics)?[-_]?{name[-3:]}", text))
