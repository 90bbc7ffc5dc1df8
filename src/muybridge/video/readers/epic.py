"""EPIC-KITCHENS-100: a sample is a segment of a long video, and has a verb and a noun."""

from __future__ import annotations

from pathlib import Path

from muybridge.errors import BadInput
from muybridge.structures import FrameFiles
from muybridge.video.readers.class_files import names_in
from muybridge.video.readers.found import Entry, Found, Gathering, Place, half_of
from muybridge.video.readers.shelf import frame_files
from muybridge.video.readers.tables import Row, header_of, read_columns, seconds

LABEL_SETS = {"verb": "epic-kitchens-100-verbs", "noun": "epic-kitchens-100-nouns"}
OFFICIAL = ("epic_100_train", "epic_100_validation")


def segment_files(place: Place) -> list[Path]:
    """The csv files with the columns of the segments, also those of the other challenges and without labels."""
    csvs = [file for file in place.files if file.suffix.lower() == ".csv" and half_of(file)]
    return [file for file in csvs if {"narration_id", "video_id"} <= set(header_of(file))]


def epic(place: Place) -> Found:
    """`EPIC_100_train.csv` and `EPIC_100_validation.csv`; `source.label` says which of the two labels is learnt."""
    kind = place.args.label
    if kind not in LABEL_SETS:
        raise BadInput(
            f"The videos of {place} have a verb and a noun; say which of the two is to be recognised: "
            "--label verb or --label noun."
        )
    files = segment_files(place)
    files = [file for file in files if file.stem.lower() in OFFICIAL] or files
    labelled = [file for file in files if f"{kind}_class" in header_of(file)]
    if files and not labelled:
        raise BadInput(f"{files[0]} has no column {kind}_class, as the test half; expected EPIC_100_validation.csv.")
    lists = place.halves(labelled, "list")
    if not lists:
        raise BadInput(f"{place} holds no EPIC_100_train.csv and EPIC_100_validation.csv.")
    gathering, pictures = Gathering(place), dict[str, FrameFiles | None]()
    needed = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", f"{kind}_class")
    for half, file in lists.items():
        gathering.begin(half, file)
        for where, row in read_columns(file, *needed):
            label = row[f"{kind}_class"]
            entry = _segment(place, row, label, where, pictures)
            if entry is None:
                participant = row.get("participant_id") or row["video_id"].partition("_")[0]
                gathering.lacks(half, row["narration_id"], label, f"{participant}/videos/{row['video_id']}.MP4")
            else:
                gathering.add(half, entry)
    classes = [file for file in place.files if file.stem.lower() == f"epic_100_{kind}_classes"]
    own = names_in(classes[0]) if classes else None
    return gathering.done(own, [LABEL_SETS[kind]], numbers=True)


def _segment(place: Place, row: Row, label: str, where: str, pictures: dict[str, FrameFiles | None]) -> Entry | None:
    """The segment of a row; None: its video is not there."""
    video = row["video_id"]
    participant = row.get("participant_id") or video.partition("_")[0]
    tops = ("", "EPIC-KITCHENS/", "EPIC-KITCHENS-100/", "videos/")
    inner = (f"{participant}/videos", f"{participant}/rgb_frames", participant, "rgb_frames", "")
    path = place.shelf.by_stem([video], [f"{top}{folder}" for top in tops for folder in inner])
    if path is None:
        return None
    try:
        start, end = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
    except ValueError as error:
        raise BadInput(f"{where}: {error}; expected hh:mm:ss.ss.") from None
    if end <= start:
        raise BadInput(f"{where} begins at {row['start_timestamp']} and ends at {row['stop_timestamp']}.")
    name = row["narration_id"]
    if not place.shelf.is_folder(path):
        return Entry(path, name, label, where, start, end)
    # Pictures are counted from 1, as are start_frame and stop_frame; the segment is those between.
    if path not in pictures:
        pictures[path] = frame_files(path)
    whole = pictures[path]
    try:
        first, last = int(row["start_frame"]), int(row["stop_frame"])
    except (KeyError, ValueError):
        raise BadInput(f"{where} has no start_frame and stop_frame, which a folder of pictures needs.") from None
    if whole is None:
        return Entry(path, name, label, where, start, end)
    first = max(first, whole.first)
    return Entry(path, name, label, where, frames=FrameFiles(whole.pattern, first, max(last - first + 1, 1)))
