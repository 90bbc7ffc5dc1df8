"""WebDataset shards: videos and labels in tar archives, on this machine or behind addresses.

    DIR/train-000.tar, DIR/val-000.tar                shards in a folder
    DIR/train-{000..009}.tar                          a pattern
    DIR/{train-{000..009},val-{0..1}}.tar             a pattern with both halves
    https://host/train-{000..009}.tar                 on another machine

A sample is what has one name up to the first dot: `0001.mp4` and its label, `0001.cls` (an index or a name),
`0001.json` (its key `label`) or `0001.txt` (a name). The headers of an archive are read once and remembered in the
user's cache, with its size and its time; then a video is read by its place in the archive, in any order, and nothing of
the archive is unpacked or fetched as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

from muybridge.errors import BadInput, MissingFile, VideoError
from muybridge.video.ranges import RangeFile, is_address, read_range, state_of
from muybridge.video.readers.tables import VIDEO_SUFFIXES

LABEL_KEYS = ("label", "class", "cls", "label_name")
LABELS = (".cls", ".json", ".txt")
LAYOUT = 1  # of a remembered index
THREADS = 8
MOST_LABEL_BYTES = 1 << 20
MOST_SHARDS = 1_000_000
# The first bytes of compressed files.
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Stored:
    """A video in a shard.

    Attributes:
        key: name of the sample.
        offset: where the video begins in the archive, in bytes.
        size: how long it is, in bytes.
        label: as written.
    """

    key: str
    offset: int
    size: int
    label: str


def read_stored(path: str, offset: int, size: int) -> bytes:
    """A file that lies within an archive.

    Args:
        path: of the archive: a file on this machine, an http(s) address, or any other that fsspec can read.
        offset: where the file begins in the archive, in bytes.
        size: how long it is, in bytes.

    Raises:
        VideoError: the archive is not there or too short, or its server does not answer with that range.
    """
    return read_range(path, offset, size)


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces means, as a shell would expand it; itself if there are none.

    Raises:
        BadInput: a brace is not closed, or it means more than `MOST_SHARDS`.

    >>> expand("{train-{08..10},val}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val.tar']
    """
    begin = pattern.find("{")
    if begin < 0:
        return [pattern]
    depth, commas, end = 0, [begin], -1
    for place in range(begin, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 1 and pattern[place] == ",":
            commas.append(place)
        if depth == 0:
            end = place
            break
    if end < 0:
        raise BadInput(f"{pattern} has a brace that is not closed; expected a pattern such as train-{{000..009}}.tar.")
    head, inside, tails = pattern[:begin], pattern[begin + 1 : end], expand(pattern[end + 1 :])
    numbers = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside)
    if numbers:
        if int(numbers[2]) - int(numbers[1]) >= MOST_SHARDS:
            raise BadInput(f"{pattern} means more than {MOST_SHARDS:,} archives; is a number wrong?")
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        middles = [f"{number:0{width}}" for number in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        edges = [*commas, end]
        middles = [name for a, b in pairwise(edges) for name in expand(pattern[a + 1 : b])]
    return [head + middle + tail for middle in middles for tail in tails]


def indices_of(shards: Sequence[str], labelled: bool = True) -> list[list[Stored]]:
    """The videos of every shard, in their order; several shards are read at a time.

    Args:
        shards: paths or addresses.
        labelled: as `index_of`.

    Raises:
        MissingFile, BadInput: as `index_of`.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda shard: index_of(shard, labelled), shards))


def index_of(shard: str, labelled: bool = True) -> list[Stored]:
    """The videos of a shard, in its order: as remembered, if the archive has not changed, else read and remembered.

    Args:
        shard: path or address of a tar archive.
        labelled: every sample needs a label; else labels are not read and empty.

    Raises:
        MissingFile: it is not there or cannot be read.
        BadInput: it is no tar archive, cut off or compressed, or a sample has no label or several videos.
    """
    address = shard if is_address(shard) else os.path.abspath(shard)
    try:
        state = state_of(address)
        kept = _cache() / f"{hashlib.sha256(address.encode()).hexdigest()}{'' if labelled else '-unlabelled'}.json"
        remembered = _recall(kept, address, state)
        if remembered is None:
            remembered = _read(address, state["size"], labelled)
            _remember(kept, address, state, remembered)
    except VideoError as error:
        raise MissingFile(f"The shard {error}.") from error
    return remembered


def _read(address: str, size: int, labelled: bool) -> list[Stored]:
    """The samples of a tar archive, from its headers and its labels."""
    videos: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, dict[str, str]] = {}
    with _opened(address, size) as stream:
        for name, offset, length, member in _members(address, stream):
            suffix = os.path.splitext(name)[1].lower()
            folder, slash, base = name.rpartition("/")
            key = folder + slash + base.partition(".")[0]
            if suffix in VIDEO_SUFFIXES:
                if key in videos:
                    raise BadInput(
                        f"{address} has two videos of the sample {key}: {videos[key][0]} and {name}; a sample's name "
                        "ends at the first dot."
                    )
                videos[key] = name, offset, length
            elif labelled and suffix in LABELS and length <= MOST_LABEL_BYTES:
                labels.setdefault(key, {})[suffix] = member.decode("utf-8", "replace")
    if not videos:
        raise BadInput(f"{address} holds no video; expected members such as 0001.mp4 with 0001.cls, .json or .txt.")
    return [
        Stored(key, offset, length, _label(f"{address}, {name}", labels.get(key, {})) if labelled else "")
        for key, (name, offset, length) in videos.items()
    ]


def _members(address: str, stream: BinaryIO) -> Iterator[tuple[str, int, int, bytes]]:
    """(name, offset, size, content if it may be a label) of every plain file in an archive."""
    begin = stream.read(6)
    for mark, kind in PACKED.items():
        if begin.startswith(mark):
            raise BadInput(
                f"{address} is compressed with {kind}, so no video in it can be read by itself; unpack it to a plain "
                ".tar (videos do not get smaller by it)."
            )
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                if not member.isreg() or member.issparse():
                    continue
                content = b""
                if member.name.lower().endswith(LABELS) and member.size <= MOST_LABEL_BYTES:
                    stream.seek(member.offset_data)
                    content = stream.read(member.size)
                yield member.name.removeprefix("./"), member.offset_data, member.size, content
            # tarfile ends without a word at a header that it cannot read; the end of an archive is a block of zeros.
            stream.seek(archive.offset)
            rest = stream.read(tarfile.BLOCKSIZE)
            if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
                raise BadInput(
                    f"{address} is cut off or damaged; fetch or write it again. It has no end mark after "
                    f"{archive.offset} bytes."
                )
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{address} is not a tar archive, or is cut off or damaged: {error}.") from error


def _opened(address: str, size: int) -> BinaryIO:
    if is_address(address):
        return cast(BinaryIO, RangeFile(address, size))
    return open(address, "rb")


def _label(where: str, texts: dict[str, str]) -> str:
    for suffix in LABELS:
        text = texts.get(suffix, "").strip()
        if not text:
            continue
        if suffix != ".json":
            return text
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"The label of {where} is not JSON: {error}.") from error
        if isinstance(content, dict):
            content = next((content[key] for key in LABEL_KEYS if key in content), None)
        if isinstance(content, str | int) and not isinstance(content, bool) and str(content).strip():
            return str(content).strip()
    raise BadInput(f"{where} has no label; expected a member of the same name with .cls, .json (key label) or .txt.")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "muybridge" / "shards"


def _recall(kept: Path, address: str, state: dict[str, Any]) -> list[Stored] | None:
    """A remembered index, if it is of this state of the archive."""
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if (content["layout"], content["address"], content["state"]) != (LAYOUT, address, state):
            return None
        return [Stored(**row) for row in content["videos"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(kept: Path, address: str, state: dict[str, Any], videos: list[Stored]) -> None:
    """Keep an index for the next time; where nothing can be written, it is read again then."""
    if not state["changed"]:
        return  # The server does not tell when the archive has changed.
    content = {"layout": LAYOUT, "address": address, "state": state, "videos": [asdict(video) for video in videos]}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Another process may write the same index at the same time.
        handle, partial = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(partial, kept)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
