"""Data sets that lie in tar archives, as WebDataset writes them; `video.shards` reads the archives."""

from __future__ import annotations

import os
import re
from pathlib import Path

from muybridge.errors import BadInput, MissingFile
from muybridge.structures import SourceArgs
from muybridge.video.ranges import is_address
from muybridge.video.readers.found import HALVES, Entry, Found, Gathering, Place, are_numbers, settled
from muybridge.video.shards import expand, indices_of

PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_pattern(data: str) -> bool:
    """Whether this means shards by itself, without being a folder: addresses, braces, or one tar archive."""
    if os.path.isdir(data):
        return False
    if is_address(data) or data.lower().endswith((".tar", *PACKED_SUFFIXES)):
        return True
    return "{" in data and not os.path.exists(data)


def tar_files(place: Place) -> list[Path]:
    """The tar archives in a folder."""
    return sorted(p for p in place.root.iterdir() if p.name.lower().endswith((".tar", *PACKED_SUFFIXES)) and _shown(p))


def of_pattern(data: str, args: SourceArgs) -> Found:
    """The videos of the shards that a pattern or an address means."""
    shards = expand(data)
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
    halves = {shard: _half(shard) for shard in shards}
    named = [half for half in halves.values() if half]
    if named and len(named) < len(shards):
        odd = next(shard for shard, half in halves.items() if half is None)
        raise BadInput(f"{odd} is called neither train nor val, as the other shards of {data}; rename or remove it.")
    gathering, written = Gathering(place), set[str]()
    for shard, videos in zip(shards, indices_of(shards), strict=True):
        half = halves[shard] or "all"
        gathering.begin(half, data if half == "all" else f"{data} ({half})")
        path = shard if is_address(shard) else os.path.abspath(shard)
        base = os.path.basename(shard.partition("?")[0])
        for video in videos:
            written.add(video.label)
            stored = (video.offset, video.size)
            gathering.add(half, Entry(path, f"{base}/{video.key}", video.label, f"{shard}, {video.key}", stored=stored))
    own = place.class_names() if beside else None
    numbers = are_numbers(written)
    return gathering.done(settled(written, own, (), numbers), numbers)


def _half(shard: str) -> str | None:
    """The half that the name of a shard tells."""
    words = set(re.findall(r"[a-z]+", os.path.basename(shard.partition("?")[0]).lower()))
    return next((half for half, ranks in HALVES.items() if any(words & set(rank) for rank in ranks)), None)


def _shown(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()
