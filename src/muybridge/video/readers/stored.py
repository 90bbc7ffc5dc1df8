"""Data sets that lie in tar archives, as WebDataset writes them; `video.shards` reads the archives."""

from __future__ import annotations

import os
from pathlib import Path

from muybridge.errors import BadInput, MissingFile
from muybridge.structures import SourceArgs
from muybridge.video.ranges import is_address
from muybridge.video.readers.found import HALVES, Entry, Found, Gathering, Place, are_numbers, half_of
from muybridge.video.readers.plain import visible
from muybridge.video.shards import expand, indices_of

# Folders of shards -> the half.
FOLDERS = {word: half for half, ranks in HALVES.items() for rank in ranks for word in rank}
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_pattern(data: str) -> bool:
    """Whether this means shards by itself, without being a folder: addresses, braces, or one tar archive."""
    if os.path.isdir(data):
        return False
    if is_address(data) or data.lower().endswith(SUFFIXES):
        return True
    return "{" in data and not os.path.exists(data)


def tar_files(place: Place) -> list[Path]:
    """The tar archives in a folder and in its folders `train`, `val` and so on."""
    inside = [place.root / name for name in FOLDERS]
    # Beside class folders an archive is what they were unpacked from.
    folders = [place.root, *(folder for folder in inside if folder.is_dir() and not visible(folder, Path.is_dir))]
    archives = [path for folder in folders for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES)]
    return sorted(path for path in archives if _shown(path))


def of_pattern(data: str, args: SourceArgs) -> Found:
    """The videos of the shards that a pattern or an address means."""
    shards = expand(data)
    if not shards:
        raise BadInput(f"{data} means no archive; expected numbers that rise, such as train-{{000..009}}.tar.")
    if not is_address(data):
        absent = [shard for shard in shards if not os.path.isfile(shard)]
        if absent and len(shards) == 1:
            raise MissingFile(f"There is no tar archive {data}.")
        if absent:
            raise MissingFile(f"{len(absent)} of the {len(shards)} shards of {data} are not there; first: {absent[0]}.")
    root = Path(os.path.dirname(shards[0])) if not is_address(data) else Path()
    return _found(Place(root, args), shards, data, beside=not is_address(data))


def in_folder(place: Place) -> Found:
    """The videos of the shards in a folder; their names tell the halves."""
    shards = tar_files(place)
    if not shards:
        raise BadInput(f"{place} holds no tar archives; expected shards such as train-000.tar and val-000.tar.")
    return _found(place, [str(shard) for shard in shards], str(place), beside=True)


def _found(place: Place, shards: list[str], data: str, beside: bool) -> Found:
    halves = _halves(shards)
    names = _names(shards)
    named = [half for half in halves.values() if half]
    if named and len(named) < len(shards):
        odd = next(shard for shard, half in halves.items() if half is None)
        raise BadInput(f"{odd} is called neither train nor val, as the other shards of {data}; rename or remove it.")
    gathering = Gathering(place)
    for shard, videos in zip(shards, indices_of(shards), strict=True):
        half = halves[shard] or "all"
        gathering.begin(half, data if half == "all" else f"{data} ({half})")
        path = shard if is_address(shard) else os.path.abspath(shard)
        for video in videos:
            name, stored = f"{names[shard]}/{video.key}", (video.offset, video.size)
            gathering.add(half, Entry(path, name, video.label, f"{shard}, {video.key}", stored=stored))
    own = place.class_names() if beside else None
    return gathering.done(own, numbers=are_numbers(gathering.written()))


def _halves(shards: list[str]) -> dict[str, str | None]:
    """The half that the name of each shard tells, or that of its folder, where they lie in several."""
    paths = {shard: Path(shard.partition("?")[0]) for shard in shards}
    if len({path.parent for path in paths.values()}) < 2:
        return {shard: half_of(path) for shard, path in paths.items()}
    return {shard: half_of(path) or FOLDERS.get(path.parent.name.lower()) for shard, path in paths.items()}


def _names(shards: list[str]) -> dict[str, str]:
    """What the shards are called in the names of their videos: as their files, and with folders if these are alike."""
    parts = {shard: shard.partition("?")[0].split("/") for shard in shards}
    names: dict[str, str] = {}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {shard: "/".join(path[-count:]) for shard, path in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _shown(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()
