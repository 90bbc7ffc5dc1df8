"""Something-Something v1 and v2, and Jester."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from muybridge.errors import BadInput
from muybridge.video.labels import known_labels
from muybridge.video.readers.found import Entry, Found, Gathering, Place, half_of, words_of
from muybridge.video.readers.tables import beginning, lines_of, read_json

RATE = 12.0  # frames a second, of the pictures of v1 and Jester and of the videos of v2
V2_FOLDER, V1_FOLDER, JESTER_FOLDER = "20bn-something-something-v2", "20bn-something-something-v1", "20bn-jester-v1"


def v2_files(place: Place) -> list[Path]:
    """The JSON lists with the keys of v2."""
    jsons = [file for file in place.files if file.suffix.lower() == ".json" and half_of(file)]
    return [f for f in jsons if '"id"' in (text := beginning(f)) and ('"template"' in text or '"label_idx"' in text)]


def v2(place: Place) -> Found:
    """`train.json` and `validation.json` with templates, or with `label_idx` as DiST has them."""
    gathering = Gathering(place)
    lists = place.halves(v2_files(place), "list")
    if not lists:
        tests = [file for file in place.files if file.suffix.lower() == ".json" and half_of(file)]
        if tests:
            raise BadInput(f"{tests[0]} has no labels (template or label_idx), as the test half; expected validation.")
        raise BadInput(f"{place} holds no list of Something-Something v2; expected train.json and validation.json.")
    numbers, folders = False, _folders(place, V2_FOLDER)
    for half, file in lists.items():
        gathering.begin(half, file)
        for where, name, label, is_number in _v2_rows(file):
            numbers |= is_number
            _add(gathering, half, name, label, where, folders)
    return gathering.done(place.class_names(), ["something-something-v2"], numbers)


def _v2_rows(file: Path) -> Iterator[tuple[str, str, str, bool]]:
    """(where, name, label, whether that is an index) of every entry."""
    content = read_json(file)
    if not isinstance(content, list):
        raise BadInput(f"{file} is not a list of objects with id and template.")
    for number, entry in enumerate(content, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict) or "id" not in entry or not ("template" in entry or "label_idx" in entry):
            raise BadInput(f"{where} has no id with a template or label_idx; has the test half no labels?")
        if "template" in entry:
            label = str(entry["template"]).replace("[", "").replace("]", "")
            yield where, str(entry["id"]), label, False
        else:
            yield where, str(entry["id"]), str(entry["label_idx"]), True


def v1_files(place: Place) -> list[Path]:
    """The lists `id;label` of v1."""
    return [file for file in _semicolon_files(place) if not _is_jester(file)]


def jester_files(place: Place) -> list[Path]:
    """The lists `id;label` of Jester."""
    return [file for file in _semicolon_files(place) if _is_jester(file)]


def v1(place: Place) -> Found:
    """`something-something-v1-train.csv`: `id;label`; a video is a folder of pictures."""
    return _semicolons(place, v1_files(place), "something-something-v1", V1_FOLDER)


def jester(place: Place) -> Found:
    """`jester-v1-train.csv`: as v1."""
    return _semicolons(place, jester_files(place), "jester", JESTER_FOLDER)


def _semicolons(place: Place, files: list[Path], known: str, folder: str) -> Found:
    files = files or _semicolon_files(place)
    gathering = Gathering(place)
    # Test lists have no labels; where there is a validation half they are not looked at.
    lists = place.halves(files, "list")
    if not lists:
        raise BadInput(f"{place} holds no lists with lines `id;label`; expected {known}-train.csv.")
    folders = _folders(place, folder)
    for half, file in lists.items():
        gathering.begin(half, file)
        for number, line in lines_of(file):
            name, mark, label = line.partition(";")
            if not mark or not label.strip():
                raise BadInput(f"{file}:{number} is {line!r}; expected id;label. The test half has no labels.")
            _add(gathering, half, name.strip(), label.strip(), f"{file}:{number}", folders)
    return gathering.done(place.class_names(), [known], rate=RATE)


def _add(gathering: Gathering, half: str, name: str, label: str, where: str, folders: list[str]) -> None:
    path = gathering.place.shelf.by_stem([name], folders)
    if path is None:
        gathering.lacks(half, name, label, f"{folders[0]}/{name}")
    else:
        gathering.add(half, Entry(path, name, label, where))


def _folders(place: Place, official: str) -> list[str]:
    """Where the videos may lie, below the folder of the data set."""
    alike = [f for f in place.shelf.subfolders() if any(word in f.lower() for word in ("20bn", "something", "jester"))]
    return [official, *alike, "", "webm", "mp4", "frames", "rawframes", "videos_webm", "videos_mp4"]


def _semicolon_files(place: Place) -> list[Path]:
    """Lists of a half whose first line is a number, a semicolon and something."""
    found = []
    for file in place.files:
        # The test half's answers (test-answers.csv) have the same lines in v2, but are no half to evaluate on.
        if file.suffix.lower() in (".csv", ".txt") and half_of(file) and "answers" not in words_of(file):
            first = beginning(file).partition("\n")[0].strip()
            if first.partition(";")[0].isdecimal() and ";" in first:
                found.append(file)
    return found


def _is_jester(file: Path) -> bool:
    if "jester" in file.name.lower() or "something" in file.name.lower():
        return "jester" in file.name.lower()
    labels = {line.partition(";")[2].strip() for line in beginning(file).splitlines()[:-1]}
    return bool(labels) and labels <= set(known_labels("jester"))
