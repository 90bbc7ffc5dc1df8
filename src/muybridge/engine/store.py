"""Features on disk: shards that are mapped into memory, and an index that names what is whole.

    FOLDER/<key>/setting.json          all that the features depend on; the key is its SHA-256
                 index.json            shards with their sizes and checksums, rows, labels, unreadable videos
                 00000.safetensors     one tensor a feature, a row a video and view
                 lock                  held by the process that writes
                 index-<name>.json     of another process that writes beside it, until both are done; its shards
                                       are called after it

A shard is written beside its place, moved there in one step, and only then entered in the index, which is replaced as
a whole. So after any interruption the index tells the truth, and what it does not name is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from muybridge.backbones.imgfocus import cache_folder
from muybridge.engine.checkpoint import NotSaved, write_atomically
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods.base import Features

INDEX, SETTING, LOCK, SHARES = "index.json", "setting.json", "lock", "index-*.json"
SHARD_BYTES, SHARD_ROWS, SHARD_SECONDS = 256_000_000, 4096, 60.0  # a shard is written when one of them is reached
CHUNK = 1 << 24  # bytes that are read at a time for a checksum
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """A file of features and what is in it.

    Attributes:
        file: its name in the folder.
        bytes: its size.
        modified: its time of modification in nanoseconds.
        crc32: of all its bytes.
        rows: which rows it holds, in its order.
        labels: class index of each.
    """

    file: str
    bytes: int
    modified: int
    crc32: int
    rows: list[int]
    labels: list[int]


def features_folder(folder: str | Path = "") -> Path:
    """The folder of all cached features, absolute; by default `features` in our cache."""
    return Path(folder).expanduser().absolute() if str(folder) else cache_folder() / "features"


def feature_key(setting: Mapping[str, Any]) -> str:
    """SHA-256 of a setting, which is of plain values: any other number, name or list gives another key."""
    text = json.dumps(setting, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """The features of one setting. Rows are numbered from 0; a row has a value of every feature, and a label.

    Args:
        root: folder of all settings' features.
        setting: all that the features depend on, plain values.
        count: how many rows there will be.
        share: the name of a process that writes beside the one that is `writing`; it sees its own rows only. Each name
            is given once.

    Attributes:
        folder: of this setting.
        errors: row -> why it has no features.
        labels: row -> class index, of those that have.
        about: what the writer wants to know on reading, by feature.
        torn: files that were named in the index and are not whole.
    """

    def __init__(self, root: Path, setting: Mapping[str, Any], count: int, share: str = "") -> None:
        self.folder = root / feature_key(setting)
        self.setting = setting
        self.count = count
        self.share = share
        self._waiting: list[tuple[list[int], list[int], Features]] = []
        self._since = time.monotonic()
        self.load()

    def load(self) -> None:
        """Read the index and look whether every shard is as the index says; one that is not counts as not there."""
        self.errors: dict[int, str] = {}
        self.labels: dict[int, int] = {}
        self.about: dict[str, Any] = {}
        self.torn: list[str] = []
        self._places: dict[int, tuple[str, int]] = {}
        self._shards: list[Shard] = []
        self._mapped: dict[str, Features] = {}
        seen: set[str] = set()
        for index in [] if self.share else _indices(self.folder):
            self.about |= index["about"]
            self.errors |= {int(row): sentence for row, sentence in index["errors"].items()}
            for shard in [Shard(**entry) for entry in index["shards"] if entry["file"] not in seen]:
                seen.add(shard.file)
                if not is_whole(self.folder / shard.file, shard):
                    self.torn.append(shard.file)
                elif not self._places.keys() >= set(shard.rows):  # a share that died may have been computed twice
                    self._enter(shard)
        self.errors = {row: sentence for row, sentence in self.errors.items() if row not in self._places}

    def absorb(self) -> None:
        """Enter what shares have written in the index, and remove their own; for the process that is `writing`.

        Raises:
            BadInput: the index cannot be written.
        """
        shares = list(self.folder.glob(SHARES))
        self.load()
        if shares:
            self.flush()
            for path in shares:
                path.unlink(missing_ok=True)

    def _enter(self, shard: Shard) -> None:
        self._shards.append(shard)
        self._places |= {row: (shard.file, place) for place, row in enumerate(shard.rows)}
        self.labels |= dict(zip(shard.rows, shard.labels, strict=True))

    @property
    def missing(self) -> list[int]:
        """Rows that have neither features nor an error."""
        return [row for row in range(self.count) if row not in self._places and row not in self.errors]

    @property
    def bytes(self) -> int:
        """Size of all whole shards."""
        return sum(shard.bytes for shard in self._shards)

    def read(self, rows: Sequence[int], name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One feature of these rows: [len(rows), ...]; another thread may read at the same time.

        Args:
            rows: that have features.
            name: of the feature.
            dtype: in which to return it; None: as it is kept.
        """
        places = [self._places[row] for row in rows]
        parts = [self._map(file)[name][place] for file, place in places]
        out = torch.empty(len(parts), *parts[0].shape, dtype=dtype or parts[0].dtype)
        # Fast: copied and converted in one go, from the mapped file.
        for place, part in enumerate(parts):
            out[place].copy_(part)
        return out

    def _map(self, file: str) -> Features:
        if file not in self._mapped:
            try:
                # On a CPU these are views of the file: only what is indexed is read.
                with safe_open(self.folder / file, framework="pt") as opened:
                    self._mapped[file] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise BadInput(
                    f"{self.folder / file} cannot be read any more ({error}). Start again: what is missing is computed "
                    "anew."
                ) from None
        return self._mapped[file]

    @contextmanager
    def writing(self, progress: Progress) -> Iterator[None]:
        """Within: this process alone may add rows. What another one has added meanwhile is read first.

        Raises:
            BadInput: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                progress.say(f"Another process computes these features ({self.folder}); waiting for it.")
                lock.acquire(poll_interval=0.2)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        try:
            self.absorb()
            for file in self.torn:
                progress.say(f"{self.folder / file} is not whole; what it held is computed again.")
            named = {shard.file for shard in self._shards}
            for path in [*self.folder.glob("*.safetensors"), *self.folder.glob("*.partial")]:
                if path.name not in named:
                    path.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def add(self, rows: Sequence[int], labels: Sequence[int], features: Features) -> None:
        """Rows for the next shard, which is written when it is large enough; else see `flush`.

        Args:
            rows: numbers.
            labels: class index of each.
            features: name -> [len(rows), ...], on the CPU, the same names in every call.
        """
        self._waiting.append((list(rows), list(labels), features))
        size = sum(tensor.nbytes for _, _, part in self._waiting for tensor in part.values())
        count = sum(len(part[0]) for part in self._waiting)
        if size >= SHARD_BYTES or count >= SHARD_ROWS or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, and the index.

        Raises:
            BadInput: it cannot be written, because the disk is full or for another reason.
        """
        waiting, self._waiting = self._waiting, []
        self._since = time.monotonic()
        try:
            if not self.share and not (self.folder / SETTING).is_file():
                _write_json(self.folder / SETTING, {**self.setting, "rows": self.count})
            if waiting:
                path = self._next()
                tensors = {name: torch.cat([part[name] for _, _, part in waiting]) for name in waiting[0][2]}
                write_atomically(path, lambda partial: save_file(tensors, partial))
                found = path.stat()
                rows = [row for part in waiting for row in part[0]]
                labels = [label for part in waiting for label in part[1]]
                self._enter(Shard(path.name, found.st_size, found.st_mtime_ns, crc32(path), rows, labels))
            index = {"about": self.about, "errors": self.errors, "shards": [asdict(shard) for shard in self._shards]}
            _write_json(self.folder / (SHARES.replace("*", self.share) if self.share else INDEX), index)
        except (OSError, SafetensorError, NotSaved) as error:
            raise _cannot_write(self.folder, error) from None

    def _next(self) -> Path:
        """The file of the next shard."""
        before = f"{self.share}-" if self.share else ""
        used = [shard.file.removeprefix(before).partition(".")[0] for shard in self._shards]
        number = max((int(name) for name in used if name.isdecimal()), default=-1) + 1
        return self.folder / f"{before}{number:05}.safetensors"


def is_whole(path: Path, shard: Shard) -> bool:
    """Whether a shard is as it was written.

    Its bytes are read only if its time of modification is another than then: a copy is as good, a damaged one is not.
    """
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_size != shard.bytes:
        return False
    try:
        return found.st_mtime_ns == shard.modified or crc32(path) == shard.crc32
    except OSError:
        return False


def crc32(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def check_space(folder: Path, needed: float) -> float:
    """Free bytes of the disk on which `folder` is or will be.

    Args:
        folder: need not exist yet.
        needed: bytes to be written.

    Raises:
        BadInput: there are fewer than `needed`.
    """
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise BadInput(
            f"The frozen features need {needed / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB left. Give another "
            "disk with --train.cache_folder DIR, fewer --train.fixed_views, or see `muybridge cache --list`."
        )
    return free


@dataclass(frozen=True)
class Kept:
    """The features of one setting that lie on disk.

    Attributes:
        key: name of the folder.
        folder: where they are.
        setting: what they depend on.
        done: rows that have features or an error.
        rows: how many there will be.
        bytes: size of all files.
    """

    key: str
    folder: Path
    setting: dict[str, Any]
    done: int
    rows: int
    bytes: int


def kept_features(root: Path) -> list[Kept]:
    """What lies in a folder of cached features, the latest first."""
    found = []
    for folder in sorted(root.iterdir(), key=os.path.getmtime, reverse=True) if root.is_dir() else []:
        setting = read_json(folder / SETTING) if KEY.fullmatch(folder.name) else None
        if setting is not None:
            done: set[int] = set()
            for index in _indices(folder):
                done = done.union(map(int, index["errors"]), *(shard["rows"] for shard in index["shards"]))
            size = sum(_size(path) for path in folder.iterdir())
            found.append(Kept(folder.name, folder, setting, len(done), setting.pop("rows"), size))
    return found


def clear_features(root: Path, keys: Collection[str] | None = None) -> tuple[int, list[str]]:
    """Remove cached features; nothing else in the folder is touched.

    Args:
        root: folder of all settings' features.
        keys: of those to remove; None: all.

    Returns:
        Bytes that were removed, and the keys of those that another process is writing, which stay.
    """
    removed, busy = 0, []
    for kept in kept_features(root):
        if keys is not None and kept.key not in keys:
            continue
        lock = FileLock(kept.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            busy.append(kept.key)
            continue
        except OSError as error:
            raise _cannot_write(kept.folder, error) from None
        try:
            # Indices go first: half a removal leaves nothing that could be taken for whole.
            for index in (kept.folder / INDEX, *kept.folder.glob(SHARES)):
                index.unlink(missing_ok=True)
            for path in list(kept.folder.iterdir()):
                if path.name != LOCK:
                    path.unlink()
            removed += kept.bytes
        except OSError as error:
            raise _cannot_write(kept.folder, error) from None
        finally:
            # The lock's file stays: another process may be waiting for it.
            lock.release()
    return removed, busy


def read_json(path: Path) -> dict[str, Any] | None:
    """An object that was written by this module; None: there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # moved or removed since by a process that writes
        return 0


def _indices(folder: Path) -> list[dict[str, Any]]:
    """The index of a folder, and those of shares that are at work or were stopped."""
    found = (read_json(path) for path in (folder / INDEX, *sorted(folder.glob(SHARES))))
    return [index for index in found if index is not None]


def _write_json(path: Path, plain: Mapping[str, Any]) -> None:
    write_atomically(path, lambda partial: partial.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8"))


def _cannot_write(folder: Path, error: Exception) -> BadInput:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
    return BadInput(
        f"Frozen features cannot be written to {folder} ({why}); what is whole there is kept. Give another folder with "
        "--train.cache_folder DIR."
    )
