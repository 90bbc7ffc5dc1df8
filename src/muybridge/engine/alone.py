"""A folder in which one process works at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from muybridge.errors import BadInput

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within: no other process that asks for the same works in this folder, which is made if it is not there.

    Args:
        folder: gets a file `LOCK`, which stays.

    Raises:
        BadInput: another process works there, or it cannot be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"Another process writes into {folder}; wait for it, or give another --out.") from None
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}. Give another --out.") from None
    try:
        yield
    finally:
        lock.release()


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but a lock that a process has left."""
    return all(path.name == LOCK for path in folder.iterdir())
