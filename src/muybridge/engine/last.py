"""`last/`: what a run needs to go on, in two generations.

The newer one is written beside its place and moved there when it is whole and on the disk; what was there becomes the
older one. So a process that is killed at any moment, a torn file or a full disk lose at most the newest. Each holds a
SHA-256 of its own content, as reading a torn file does not always fail.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muybridge.engine.checkpoint import NotSaved, write_atomically
from muybridge.engine.processes import Processes
from muybridge.errors import BadInput, CheckpointError, MissingFile

LAST = "last/checkpoint.pt"
PREVIOUS = "last/checkpoint.previous.pt"
LAYOUT = 2
SMALL = 10_000_000  # bytes of a checkpoint that is written after every epoch, however short
LARGE_SHARE = 0.05  # of the time that larger ones may take, where epochs are short


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Write what a run needs to go on; the state before it is kept as `PREVIOUS`.

    Args:
        folder: of the run.
        state: tensors and plain values.

    Raises:
        NotSaved: the disk is full or fails; what was there is still there.
    """
    state = {"layout": LAYOUT, **state}
    state["sha256"] = digest_of(state)
    write_atomically(folder / LAST, lambda partial: torch.save(state, partial), keep=folder / PREVIOUS)


def load_last(folder: Path, say: Callable[[str], object] = str) -> dict[str, Any]:
    """Read what `save_last` wrote, the newest that is whole.

    Args:
        folder: of the run.
        say: is told where that is not the last one.

    Raises:
        MissingFile: nothing to resume.
        CheckpointError: damaged, the one before it too; or of another version.
    """
    damages = []
    for name in (LAST, PREVIOUS):
        try:
            state = _read(folder / name)
        except FileNotFoundError:
            damages.append(f"there is no {folder / name}")
        except CheckpointError as error:
            damages.append(str(error))
        else:
            if damages:
                where = f"epoch {state['epoch'] + 1}, batch {state['batch']}"
                say(f"{'; '.join(damages)}. Going on from the checkpoint before it ({where}).")
            if state["layout"] != LAYOUT:
                raise CheckpointError(
                    f"{folder / name} was written by another version of muybridge (layout {state['layout']}, this one "
                    f"reads {LAYOUT}). Finish the run with that version, or train again."
                )
            return state
    if not can_resume(folder):
        raise MissingFile(f"There is nothing to resume in {folder}: no {LAST}.")
    raise CheckpointError(f"This run cannot be resumed: {'; '.join(damages)}. Train again with another --out.")


def can_resume(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return (folder / LAST).is_file() or (folder / PREVIOUS).is_file()


class Checkpoints:
    """When a run saves, and what became of its last checkpoint.

    Args:
        folder: of the run.
        processes: that train together; the first one writes, and its clock is that of all.
        minutes: between two checkpoints within an epoch; 0: none.

    Attributes:
        where: what the last one was written after.
        trouble: why there is no later one; empty: there was no need of one.
    """

    def __init__(self, folder: Path, processes: Processes, minutes: float) -> None:
        self.folder, self.processes, self.minutes = folder, processes, minutes
        self.at, self.where, self.trouble = 0.0, "", ""
        self.cost = 0.0  # seconds of writing one

    def there_is(self, epoch: int, batch: int) -> None:
        """There is one as of now."""
        self.at, self.where, self.trouble = time.monotonic(), f"epoch {epoch + 1}, after {batch} batches", ""

    def due(self) -> bool:
        """Whether it is time for one within an epoch."""
        return self.processes.first and self.minutes > 0 and time.monotonic() - self.at >= 60 * self.minutes

    def due_after_epoch(self) -> bool:
        """Whether it is time for one after an epoch that is not the last."""
        # Fast: one of EVL on ViT-B/16 takes 1.6 s, as long as an epoch of a small data set on cached features.
        return self.processes.first and (self.due() or time.monotonic() - self.at >= self.cost / LARGE_SHARE)

    def save(self, state: dict[str, Any]) -> None:
        """Write one, in the first process.

        Raises:
            NotSaved: the disk is full or fails; `trouble` tells what that means.
        """

        def write() -> None:
            begun = time.monotonic()
            save_last(self.folder, state)
            size = (self.folder / LAST).stat().st_size
            self.cost = time.monotonic() - begun if size >= SMALL else 0.0

        try:
            self.processes.agree(write)
        except NotSaved as error:
            self.at, self.trouble = time.monotonic(), f"{error} The last checkpoint ({self.where}) is still there."
            raise
        self.there_is(state["epoch"], state["batch"])


def check_new(folder: Path) -> None:
    """Raise BadInput if there is something in a folder that a run shall be written to; it says what to do instead."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not can_resume(folder):
        raise BadInput(f"{folder} exists already; nothing is written over. Give another --out.")
    if (folder / "evaluation.json").is_file():
        raise BadInput(f"{folder} is a finished run already; nothing is written over. Give another --out.")
    raise BadInput(
        f"{folder} is a run that was interrupted; nothing is written over. Go on with it: "
        f"muybridge train --resume {folder}; or give another --out."
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Within: a folder to write to; afterwards it is `folder`, which is there with all of it or not at all."""
    place = folder.resolve()
    beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        beside.mkdir(parents=True)
        yield beside
        with suppress(OSError):
            place.rmdir()  # it may be there if it is empty
        try:
            beside.rename(place)
        except OSError:  # a folder that cannot be replaced, such as the root of a disk
            shutil.copytree(beside, place, dirs_exist_ok=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def digest_of(value: Any) -> str:
    """SHA-256 of plain values and tensors in dicts and sequences: of types, shapes and every bit."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[Any], object], value: Any) -> None:
    if isinstance(value, Tensor):
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        if value.numel():
            update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(update, key)
            _feed(update, item)
    elif isinstance(value, (list, tuple)):
        update(f"sequence {len(value)}".encode())
        for item in value:
            _feed(update, item)
    else:
        update(f"{type(value).__name__} {value!r};".encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        # torch.load raises a dozen kinds for a torn file; all mean the same to the reader.
        first = (str(error).strip() or "unreadable").splitlines()[0]
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {first})") from None
    written = state.pop("sha256", None)
    if "layout" not in state:
        state["layout"] = 1
    elif written != digest_of(state):
        raise CheckpointError(f"{file} is damaged (its content is not what was written)")
    return state
