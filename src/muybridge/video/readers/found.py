"""What every reader is given and what it gives back: a place to look at, and the labelled videos that are there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from muybridge.errors import BadInput, MissingFile, unknown
from muybridge.structures import FrameFiles, SourceArgs
from muybridge.video.labels import known_labels
from muybridge.video.readers.class_files import names_in
from muybridge.video.readers.shelf import Shelf, frame_files_of
from muybridge.video.readers.tables import LISTS

# What the halves are called; of the words for the second half, those of an earlier line are taken first.
TRAIN = (("train", "training"),)
VAL = (("val",), ("validation", "validate", "valid"), ("test", "testing"))
HALVES = {"train": TRAIN, "val": VAL}
# Folders in which lists lie where they do not lie beside the videos.
# fmt: off
LIST_FOLDERS = frozenset({
    "annotations", "annotation", "labels", "lists", "splits", "ucftraintestlist", "testtrainmulti_7030_splits",
    "test_train_splits", "ucf101_annotations", "hmdb51_annotations", "epic-kitchens-100-annotations",
})
# fmt: on
CLASS_FILES = ("classes.txt", "labels.txt")
MOST_CLASSES = 100_000  # A larger index is something else: a year, a number of a video.


@dataclass(frozen=True)
class Entry:
    """A video as it was found: as `Item`, but with its label as written, and where that is written."""

    path: str
    name: str
    label: str
    where: str
    start: float = 0.0
    end: float | None = None
    frames: FrameFiles | None = None
    stored: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """What a data set holds, before labels are indices.

    Attributes:
        halves: the videos of `train` and `val`; of `all` where there is no split.
        places: what to call each of them in a message.
        labels: class names in the order of their indices; None if neither folders nor a class file tell.
        folders: the classes are folders.
        numbers: labels are written as class indices.
        missing: half -> names of the videos that are listed and not there.
        expected: half -> where the first of these should be.
        absent: half -> classes of these, as written.
        notes: what else one should know, one sentence each, without a full stop.
    """

    halves: dict[str, list[Entry]]
    places: dict[str, str]
    labels: tuple[str, ...] | None
    folders: bool = False
    numbers: bool = False
    missing: dict[str, list[str]] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    absent: dict[str, set[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a data set is looked for.

    Attributes:
        root: its folder.
        args: how it is to be read.
        chosen: the one list that was given instead of a folder; None: the folder was given.
    """

    root: Path
    args: SourceArgs
    chosen: Path | None = None

    def __str__(self) -> str:
        return str(self.chosen or self.root)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files that may be lists: in the folder and in its folders of lists; of a chosen list itself and its kin.

        Sorted by name. Kin are lists that are called the same but for the half, and files that are of no half.
        """
        folders = [self.root]
        if self.chosen is None:
            folders += [p for p in sorted(self.root.iterdir()) if p.name.lower() in LIST_FOLDERS and p.is_dir()]
        files = [p for folder in folders for p in sorted(folder.iterdir()) if _may_be_list(p)]
        if self.chosen is None:
            return tuple(files)
        chosen, half = self.chosen, half_of(self.chosen)
        kin = [p for p in files if half_of(p) is None or (half_of(p) != half and half and _kin(p, chosen))]
        return (chosen, *(p for p in kin if p != chosen))

    @cached_property
    def shelf(self) -> Shelf:
        """Where the videos are looked for."""
        if self.args.videos:
            folder = Path(self.args.videos)
            if not folder.is_dir():
                raise MissingFile(f"There is no folder {folder}; source.videos is the folder of the videos.")
            return Shelf([folder, folder / "videos"])
        roots = [self.root, self.root / "videos"]
        if self.root.name.lower() in LIST_FOLDERS:
            roots += [self.root.parent, self.root.parent / "videos"]
        return Shelf(roots)

    def halves(self, files: Sequence[Path], what: str) -> dict[str, Path]:
        """Which of `files` is the list of each half, for the fold that is asked for.

        Args:
            files: the candidates.
            what: what they are, for messages.

        Raises:
            BadInput: several are lists of the same half, or there is no such fold.
        """
        folds = {fold for file in files if (fold := fold_of(file)) is not None}
        usable = list(files)
        if folds and self.chosen is None:
            check_fold(self, folds)
            usable = [file for file in files if fold_of(file) in (None, self.args.fold)]
        taken = {}
        for half, ranks in HALVES.items():
            for exact in (True, False):
                for words in ranks:
                    fitting = [f for f in usable if (f.stem.lower() in words if exact else words_of(f) & set(words))]
                    if len(fitting) > 1 and half not in taken:
                        raise BadInput(
                            f"{self.root} has several lists of its half {half}: "
                            f"{', '.join(file.name for file in fitting)}. Give the {what} that is meant: "
                            f"--data {fitting[0]}"
                        )
                    if fitting and half not in taken:
                        taken[half] = fitting[0]
        if self.chosen is not None and not taken:
            return {"all": self.chosen}
        return taken

    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of their indices, from a file beside the lists; None: there is none.

        Raises:
            BadInput: there are several, or the one is not of a kind that can be read.
        """
        by_name = {file.name.lower(): file for file in reversed(self.files)}
        for name in (*CLASS_FILES, "classind.txt"):
            if name in by_name and by_name[name] != self.chosen:
                return names_in(by_name[name])
        alike = [
            file
            for file in self.files
            if file != self.chosen and half_of(file) is None and words_of(file) & {"labels", "classes", "label"}
        ]
        if len(alike) > 1:
            raise BadInput(
                f"{self.root} has several files of class names: {', '.join(file.name for file in alike)}; "
                "keep one, or call it classes.txt."
            )
        return names_in(alike[0]) if alike else None


class Gathering:
    """The videos of a data set while they are gathered: those that are there, and the names of those that are not."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.halves: dict[str, list[Entry]] = {}
        self.places: dict[str, str] = {}
        self.missing: dict[str, list[str]] = {}
        self.expected: dict[str, str] = {}
        self.absent: dict[str, set[str]] = {}

    def begin(self, half: str, place: str | Path) -> None:
        """What follows is of this half, which is called `place`."""
        self.halves.setdefault(half, [])
        self.places.setdefault(half, str(place))

    def add(self, half: str, entry: Entry) -> None:
        """A video that is there; of a folder of pictures the names are found out at the end."""
        self.halves[half].append(entry)

    def lacks(self, half: str, name: str, label: str, expected: str) -> None:
        """A video that is listed and not there; `expected` is where it should be, relative to the folder of videos."""
        self.missing.setdefault(half, []).append(name)
        self.absent.setdefault(half, set()).add(label)
        self.expected.setdefault(half, self.place.shelf.expected(expected))

    def written(self) -> set[str]:
        """The labels as they stand in the lists, also those of videos that are not there."""
        there = {entry.label for entries in self.halves.values() for entry in entries}
        return there.union(*self.absent.values())

    def done(
        self,
        own: tuple[str, ...] | None,
        known: Sequence[str] = (),
        numbers: bool = False,
        notes: Iterable[str] = (),
        rate: float = 0.0,
    ) -> Found:
        """Everything, with the names of pictures where a video is a folder of them.

        Args:
            own: class names of the data set's own label file; None: it has none.
            known: names of label sets that the classes may be of, the likeliest first.
            numbers: labels are class indices; these mean the data set's own label file, if it has one.
            notes: what else one should know.
            rate: frames a second of folders of pictures; 0: not known.

        Raises:
            BadInput: a half lists no video, or a label is no class index where all should be.
        """
        halves = {half: _with_frames(self.place.shelf, entries, rate) for half, entries in self.halves.items()}
        for half, entries in halves.items():
            if not entries and not self.missing.get(half):
                raise BadInput(f"{self.places[half]} names no video; expected a path and a label a line.")
        written = self.written()
        if numbers:
            self._check_indices(written)
        name = _known_as(written, own, known, numbers)
        if numbers and name:
            notes = (*notes, f"class names of {name}")
        return Found(
            halves,
            self.places,
            known_labels(name) if name else own,
            numbers=numbers,
            missing=self.missing,
            expected=self.expected,
            absent=self.absent,
            notes=tuple(notes),
        )

    def _check_indices(self, written: set[str]) -> None:
        odd = {label for label in written if not re.fullmatch(r"-?\d{1,12}", label) or int(label) >= MOST_CLASSES}
        if odd:
            entries = [entry for entries in self.halves.values() for entry in entries if entry.label in odd]
            where, label = (entries[0].where, entries[0].label) if entries else (f"A list of {self.place}", min(odd))
            raise BadInput(
                f"{where} has the label {label[:80]!r}; labels are class indices here: whole numbers from 0, "
                f"below {MOST_CLASSES:,}."
            )


def _with_frames(shelf: Shelf, entries: list[Entry], rate: float) -> list[Entry]:
    """Entries with the names of their pictures; a folder that holds none is kept, to be found when it is read."""
    wanted = [
        place for place, e in enumerate(entries) if e.frames is None and e.stored is None and shelf.is_folder(e.path)
    ]
    entries = list(entries)
    for place, frames in zip(wanted, frame_files_of([entries[p].path for p in wanted], rate), strict=True):
        entries[place] = replace(entries[place], frames=frames)
    return entries


def words_of(file: Path) -> set[str]:
    """The words in the name of a file, without its suffix.

    >>> sorted(words_of(Path("kinetics400_val_list.txt")))
    ['kinetics', 'list', 'val']
    """
    return set(re.findall(r"[a-z]+", file.stem.lower()))


def half_of(file: Path) -> str | None:
    """`train` or `val`, as the name of a list tells."""
    words = words_of(file)
    return next((half for half, ranks in HALVES.items() if any(words & set(rank) for rank in ranks)), None)


def fold_of(file: Path) -> int | None:
    """The fold that the name of a list tells, such as 2 of `ucf101_train_split_2_videos.txt`."""
    match = re.search(r"(?:split|fold)[_\-. ]?0*(\d+)", file.stem.lower())
    return int(match[1]) if match else None


def part_name(name: str, start: float, end: float | None) -> str:
    """What a part of a video goes by.

    >>> part_name("a.mp4", 1.5, 3.0)
    'a.mp4#1.5-3'
    """
    if not start and end is None:
        return name
    return f"{name}#{_clock(start)}-{'' if end is None else _clock(end)}"


def _known_as(written: Collection[str], own: tuple[str, ...] | None, known: Sequence[str], numbers: bool) -> str | None:
    """Which of the label sets `known` the classes are in the order of; None: of none, so that their own order counts.

    Args:
        written: labels as they stand in the lists.
        own, known, numbers: as `Gathering.done` takes them.
    """
    if numbers:
        highest = max(map(int, written), default=-1)
        return next((name for name in known if own is None and len(known_labels(name)) > highest), None)
    everything = {*written, *(own or ())}
    return next((name for name in known if everything <= set(known_labels(name))), None)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether all labels are written as class indices."""
    return all(re.fullmatch(r"-?\d+", label) for label in labels)


def one_file(place: Place, files: Sequence[Path], what: str) -> Path:
    """The one file that is meant. Raises MissingFile or BadInput if there is none or there are several."""
    if not files:
        raise MissingFile(f"There is no {what} in {place}.")
    if len(files) > 1:
        raise BadInput(f"{place} has several files that may be {what}: {', '.join(f.name for f in files)}; keep one.")
    return files[0]


def check_fold(place: Place, folds: Collection[int]) -> None:
    """Raise UnknownName if there is no such fold."""
    if place.args.fold not in folds:
        raise unknown(
            "fold", str(place.args.fold), [str(fold) for fold in sorted(folds)], f"It is looked for in {place}."
        )


def _may_be_list(path: Path) -> bool:
    return path.suffix.lower() in LISTS and not path.name.startswith(".") and path.is_file()


def _kin(file: Path, chosen: Path) -> bool:
    """Whether two lists are called the same but for the half."""

    def plain(path: Path) -> str:
        every = [word for ranks in HALVES.values() for rank in ranks for word in rank]
        return re.sub(rf"(?<![a-z])({'|'.join(sorted(every, key=len, reverse=True))})(?![a-z])", "*", path.name.lower())

    return plain(file) == plain(chosen)


def _clock(time: float) -> str:
    return f"{time:.3f}".rstrip("0").rstrip(".")
