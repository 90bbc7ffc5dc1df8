"""The private folder of uploads: who holds which file, and when it goes away."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Uploads:
    """A folder of mode 700 in the system's temporary folder; nothing outside it is ever read or removed.

    A page holds the file that it shows. A file that no page holds any more is removed; so is one that is older than
    `keep`, and all of them at the end. Two people who upload the same file share it, as Gradio names files by content.

    Args:
        keep: seconds.
        within: where the folder is made; None: the system's temporary folder.
    """

    def __init__(self, keep: float, within: Path | None = None) -> None:
        self.keep = keep
        # mkdtemp gives mode 700; resolved, for a link in the way would make everything look outside.
        self.folder = Path(tempfile.mkdtemp(prefix="muybridge-serve-", dir=within)).resolve()
        self._held: dict[str, Path] = {}  # page -> file
        self._busy: dict[Path, int] = {}  # file -> how many requests read it
        self._lasting: set[Path] = set()
        self._lock = threading.Lock()

    def has(self, path: str | Path) -> bool:
        """Whether a path leads, through all links, to a file in the folder."""
        try:
            real = Path(os.path.realpath(path))
            return real.is_relative_to(self.folder) and real.is_file()
        except (OSError, ValueError):  # a name that is too long, or has a zero in it
            return False

    def within(self, path: str | Path) -> bool:
        """Whether a path leads, through all links, into the folder, whether or not there is a file."""
        try:
            return Path(os.path.realpath(path)).is_relative_to(self.folder)
        except (OSError, ValueError):
            return False

    def last(self) -> None:
        """What lies in the folder now stays to the end: the examples."""
        self._lasting |= {path for path in self.folder.rglob("*") if path.is_file()}

    def hold(self, page: str, path: str | Path | None) -> None:
        """A page shows this file from now on, and no other; None: none."""
        with self._lock:
            before = self._held.pop(page, None)
            if path is not None:
                self._held[page] = Path(os.path.realpath(path))
            if before is not None and before != self._held.get(page):
                self._drop(before)

    @contextmanager
    def reading(self, path: str | Path, last: bool = False) -> Iterator[Path]:
        """While it is read a file is not removed; with `last` it is removed afterwards, if no page shows it."""
        real = Path(os.path.realpath(path))
        with self._lock:
            self._busy[real] = self._busy.get(real, 0) + 1
        try:
            yield real
        finally:
            with self._lock:
                self._busy[real] -= 1
                if not self._busy[real]:
                    del self._busy[real]
                if last:
                    self._drop(real)

    def sweep(self, now: float | None = None) -> None:
        """Remove what is older than `keep`."""
        now = time.time() if now is None else now
        with self._lock:
            for path in list(self.folder.rglob("*")):
                try:
                    old = path.is_file() and now - path.stat().st_mtime > self.keep
                except FileNotFoundError:
                    continue
                if old:
                    self._held = {page: held for page, held in self._held.items() if held != path}
                    self._drop(path)

    def size(self) -> int:
        """Bytes of all uploads; examples do not count."""
        total = 0
        for path in self.folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() and path not in self._lasting else 0
            except FileNotFoundError:
                continue
        return total

    def close(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _drop(self, path: Path) -> None:
        if path in self._held.values() or path in self._busy or path in self._lasting:
            return
        if not path.is_relative_to(self.folder):
            return
        path.unlink(missing_ok=True)
        # Gradio makes a folder for each file.
        if path.parent != self.folder:
            try:
                path.parent.rmdir()
            except OSError:  # not empty
                return
