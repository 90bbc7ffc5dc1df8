"""What a check of a data set found: a result object, and what it counts as odd."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import median
from typing import Any, Literal

from muybridge.structures import Item
from muybridge.video.examine import NO_FILE, Facts, key_of

Status = Literal["good", "suspicious", "broken", "missing"]

FAST_RATE, SLOW_RATE = 240.0, 1.0  # frames a second
SHORT, LONG = 0.3, 3600.0  # seconds
OUTLIER = 20.0  # times as long, or as short, as the median of the data set
NARROW, HUGE = 32, 4320  # pixels: the short side is below, the long side above
CUT = 0.9  # of the announced length is there, at least
STRIP = 4.0  # width / height or height / width
FEW = 5  # training videos of a class
UNBALANCED = 10.0  # times as many as the median class, or as few


@dataclass(frozen=True)
class CheckedFile:
    """A file of a data set.

    Attributes:
        name: what it goes by.
        facts: what was found in it.
        items: (half, video) of the data set that are this file, or parts of it.
        notes: what is odd about it, a phrase each.
    """

    name: str
    facts: Facts
    items: tuple[tuple[str, Item], ...]
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        if self.facts.broken:
            return "missing" if self.facts.broken == NO_FILE else "broken"
        return "suspicious" if self.notes else "good"


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: with which video or file, of which kind, and what."""

    name: str
    kind: Status
    what: str


@dataclass(frozen=True)
class Duplicate:
    """Videos with the same content.

    Attributes:
        items: (half, video) of each.
        labels: the names of their classes, each once, sorted.
    """

    items: tuple[tuple[str, Item], ...]
    labels: tuple[str, ...]

    @property
    def halves(self) -> tuple[str, ...]:
        """The halves they are in; two: the data set is validated on what it was trained with."""
        return tuple(sorted({half for half, _ in self.items}))


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        data: the data set.
        how: how its halves came about.
        labels: class names by index.
        files: every file that was looked at, in the order of the data set.
        missing: half -> names of the videos that the data set lists and that its reader did not find.
        duplicates: videos with the same content.
        why: why the data set cannot be trained with as it is; empty: it can.
    """

    data: str
    how: str
    labels: tuple[str, ...]
    files: tuple[CheckedFile, ...]
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    duplicates: tuple[Duplicate, ...] = ()
    why: str = ""

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """What is missing, broken and suspicious, in this order; duplicates are not among them."""
        found = [Problem(name, "missing", "not found") for names in self.missing.values() for name in names]
        for file in self.files:
            if file.facts.broken:
                found.append(Problem(file.name, file.status, file.facts.broken))
                continue
            lost = (item for _, item in file.items if is_lost(item, file))
            found += [Problem(item.name, "broken", _outside(item, file)) for item in lost]
            if file.notes:
                found.append(Problem(file.name, "suspicious", ", ".join(file.notes)))
        order = ("missing", "broken", "suspicious", "good")
        return tuple(sorted(found, key=lambda problem: order.index(problem.kind)))

    @property
    def ok(self) -> bool:
        """Whether no video is broken or missing, and the data set can be trained with."""
        return not self.why and not any(problem.kind in ("broken", "missing") for problem in self.problems)

    def classes(self) -> dict[str, dict[str, int]]:
        """Class name -> how many videos of `train` and of `val` there are, and how many of both are `broken`."""
        counts = {label: {"train": 0, "val": 0, "broken": 0} for label in self.labels}
        for file in self.files:
            for half, item in file.items:
                count = counts[self.labels[item.label]]
                count[half] += 1
                count["broken"] += is_lost(item, file)
        return counts

    def remarks(self) -> dict[str, str]:
        """Class name -> what is odd about its number of videos; classes about which nothing is are left out."""
        usable = {label: {"train": 0, "val": 0} for label in self.labels}
        for file in self.files:
            for half, item in file.items:
                usable[self.labels[item.label]][half] += not is_lost(item, file)
        usual = median([count["train"] for count in usable.values()] or [0])
        found: dict[str, str] = {}
        for label, count in usable.items():
            train, val = count["train"], count["val"]
            if not train:
                found[label] = "nothing to train with"
            elif train * UNBALANCED < usual:
                found[label] = f"{usual / train:.0f} times fewer than usual"
            elif train > usual * UNBALANCED:
                found[label] = f"{train / max(usual, 1):.0f} times more than usual"
            elif train < FEW:
                found[label] = "few to train with"
            elif not val:
                found[label] = "nothing to validate with"
        return found

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        whole = [file.facts for file in self.files if not file.facts.broken]
        statuses = Counter(file.status for file in self.files)
        ranges: dict[str, list[float]] = {
            "seconds": [facts.seconds for facts in whole if facts.seconds],
            "frames": [facts.frames for facts in whole],
            "rate": [facts.rate for facts in whole if facts.rate],
            "width": [facts.width for facts in whole],
            "height": [facts.height for facts in whole],
            "megabytes": [facts.bytes / 1e6 for facts in whole if facts.bytes],
        }
        return {
            "data": self.data,
            "how": self.how,
            "why": self.why,
            "ok": self.ok,
            "videos": sum(len(file.items) for file in self.files),
            "files": len(self.files),
            "good": statuses["good"],
            "suspicious": statuses["suspicious"],
            "broken": sum(problem.kind == "broken" for problem in self.problems),
            "missing": sum(problem.kind == "missing" for problem in self.problems),
            "classes": self.classes(),
            "remarks": self.remarks(),
            **{
                name: {"min": min(values), "median": median(values), "max": max(values)} if values else None
                for name, values in ranges.items()
            },
            "containers": _counted(facts.container for facts in whole),
            "codecs": _counted(facts.codec for facts in whole),
            "sizes": _counted(f"{facts.width}x{facts.height}" for facts in whole),
            "rates": _counted(f"{facts.rate:.4g}" for facts in whole if facts.rate),
            "problems": [asdict(problem) for problem in self.problems],
            "duplicates": [
                {"names": [item.name for _, item in group.items], "halves": group.halves, "labels": group.labels}
                for group in self.duplicates
            ],
        }


def notes_on(facts: Facts, usual: float) -> Iterator[str]:
    """What is odd about a file; `usual` is the median length in seconds, 0 if the length does not matter."""
    if facts.frames == 1:
        yield "one frame only"
    elif facts.picture:
        yield "every frame is black" if facts.picture == "black" else "all frames are the same"
    if facts.seconds and facts.seconds < CUT * facts.announced - 1 / max(facts.rate, 1):
        yield f"perhaps cut off: {facts.seconds:.1f} of {facts.announced:.1f} s"
    if facts.damaged:
        yield f"{facts.damaged} of {facts.decoded} frames are damaged"
    if not facts.rate and facts.frames > 1 and facts.container != "folder":
        yield "frame rate not known"
    elif facts.rate > FAST_RATE or (0 < facts.rate < SLOW_RATE and facts.frames > 1):
        yield f"{facts.rate:.4g} frames a second"
    if usual and facts.seconds and facts.frames > 1:
        if not SHORT <= facts.seconds <= LONG:
            yield f"{facts.seconds:.2f} s long"
        elif not usual / OUTLIER <= facts.seconds <= usual * OUTLIER:
            yield f"{facts.seconds:.1f} s long, where {usual:.1f} s is usual"
    short, long = sorted((facts.width, facts.height))
    if short < NARROW or long > HUGE or long > STRIP * short:
        yield f"pictures of {facts.width}x{facts.height}"
    if facts.variable:
        yield "variable frame rate"
    if facts.interlaced:
        yield "interlaced"


def is_part(item: Item) -> bool:
    return item.start > 0 or item.end is not None


def is_lost(item: Item, file: CheckedFile) -> bool:
    """Whether a video cannot be used: its file is broken, or too short for the part that is meant."""
    if file.facts.broken:
        return True
    return is_part(item) and file.facts.seconds > 0 and item.start >= file.facts.seconds


def _outside(item: Item, file: CheckedFile) -> str:
    return f"begins at {item.start:g} s, but {file.name} is {file.facts.seconds:.1f} s long"


def duplicates_in(files: Iterable[CheckedFile], labels: Sequence[str]) -> Iterator[Duplicate]:
    """Groups of videos that have the same content: the same part of the same file, or of equal files."""
    groups: dict[Any, list[tuple[str, Item]]] = defaultdict(list)
    for file in files:
        if not file.facts.broken:
            content = file.facts.sha256 or key_of(file.items[0][1])
            for half, item in file.items:
                groups[content, item.start, item.end].append((half, item))
    for group in groups.values():
        if len(group) > 1:
            yield Duplicate(tuple(group), tuple(sorted({labels[item.label] for _, item in group})))


def _counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, the most frequent first; empty ones are left out."""
    return dict(Counter(value for value in values if value).most_common())
