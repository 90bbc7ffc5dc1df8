"""Bytes from any place of a file: on this machine, behind an http(s) address, or where fsspec can read.

A file is never fetched as a whole. A server must answer requests for ranges; one that does not is refused, since every
video would cost the whole archive.
"""

from __future__ import annotations

import http.client
import io
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from muybridge.errors import VideoError

TIMEOUT = 30.0  # seconds without an answer
TRIES = 3
PAUSE = 0.5  # seconds before the second try; doubled before the next
T = TypeVar("T")
NETWORK = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def is_address(path: str | Path) -> bool:
    """Whether `path` is the address of a remote file, such as `https://host/train-000.tar` or `s3://bucket/a.tar`."""
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme.isalnum()


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on.

    Args:
        path: of a file on this machine, or an address.
        offset: in bytes, from the beginning of the file.
        size: in bytes.

    Raises:
        VideoError: the file is not there, ends before that, or its server does not answer with the range.
    """
    if offset < 0 or size < 0:
        raise VideoError(path, f"cannot read {size} bytes from {offset} on")
    if not size:
        return b""
    try:
        if not is_address(path):
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        elif path.startswith(("http://", "https://")):
            data = _tried(path, lambda: _http_range(path, offset, size))
        else:
            with _fsspec(path) as remote:
                remote.seek(offset)
                data = remote.read(size)
    except OSError as error:
        raise VideoError(path, f"cannot be read: {error.strerror or error}") from error
    if len(data) != size:
        raise VideoError(path, f"ends after {offset + len(data)} bytes; expected {offset + size} or more: is it whole?")
    return data


def state_of(path: str) -> dict[str, Any]:
    """What tells one state of a file from another: `size` in bytes, and its time or what its server calls its state.

    The latter is called `changed`; None: its server does not tell.

    Raises:
        VideoError: the file is not there, or its server does not tell how large it is.
    """
    try:
        if not is_address(path):
            status = os.stat(path)
            return {"size": status.st_size, "changed": status.st_mtime_ns}
        if path.startswith(("http://", "https://")):
            return _tried(path, lambda: _http_state(path))
        with _fsspec(path) as remote:
            details = remote.fs.info(path) if hasattr(remote, "fs") else {}
            told = [details[key] for key in ("ETag", "etag", "mtime", "LastModified") if details.get(key)]
            return {"size": remote.seek(0, os.SEEK_END), "changed": str(told[0]) if told else None}
    except OSError as error:
        raise VideoError(path, f"cannot be read: {error.strerror or error}") from error


class RangeFile(io.RawIOBase):
    """A remote file that can be read from any place; what it has lately read is kept, so that small steps cost nothing.

    Args:
        path: its address.
        size: in bytes.
        ahead: how much is fetched at once, in bytes.
    """

    def __init__(self, path: str, size: int, ahead: int = 1 << 16) -> None:
        self.path, self.size, self.ahead = path, size, ahead
        self._place, self._start, self._kept = 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence])
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self._place)
        size = left if size is None or size < 0 else min(size, left)
        begin = self._place - self._start
        if begin < 0 or begin + size > len(self._kept):
            self._start = self._place
            self._kept = read_range(self.path, self._place, min(max(size, self.ahead), left))
            begin = 0
        self._place += size
        return self._kept[begin : begin + size]


def _http_range(path: str, offset: int, size: int) -> bytes:
    last = offset + size - 1
    request = urllib.request.Request(path, headers={"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:
            _no_ranges(path)
        told = answer.headers.get("Content-Range", "")
        if told and not told.replace(" ", "").startswith(f"bytes{offset}-"):
            raise VideoError(path, f"its server answered with '{told}'; expected bytes {offset}-{last}")
        data: bytes = answer.read(size + 1)
        promised = answer.headers.get("Content-Length", "")
    if len(data) > size:
        _no_ranges(path)
    if promised.isdecimal() and len(data) < int(promised):
        raise http.client.IncompleteRead(data, int(promised) - len(data))
    return data


def _http_state(path: str) -> dict[str, Any]:
    # A range of one byte tells what a HEAD request would, and whether there are ranges at all; signed addresses often
    # allow the one and not the other.
    request = urllib.request.Request(path, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:
            _no_ranges(path)
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        changed = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if not whole.isdecimal():
        raise VideoError(path, "its server does not tell how large it is")
    return {"size": int(whole), "changed": changed}


def _tried(path: str, read: Callable[[], T]) -> T:
    """What `read` returns; a network that fails for a moment is asked again."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return read()
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"its server answered {error.code} {error.reason}"
            if error.code == 416:
                reason = "is shorter than expected: has it changed?"
            if error.code < 500 and error.code not in (408, 429):
                break
        except NETWORK as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = f"cannot be reached: {cause or type(error).__name__}"
    raise VideoError(path, reason)


def _no_ranges(path: str) -> NoReturn:
    raise VideoError(
        path,
        "its server sends whole files only, and one video would cost the whole archive; "
        "put the file on this machine or behind a server that answers requests for ranges",
    )


@contextmanager
def _fsspec(path: str) -> Iterator[Any]:
    """The file that fsspec opens."""
    try:
        import fsspec  # type: ignore[import-untyped, import-not-found, unused-ignore]

        remote = fsspec.open(path, "rb").open()
    except OSError:
        raise
    except Exception as error:
        # Each kind of address has a library of its own, with its own errors.
        raise VideoError(path, f"cannot be opened: {error}; http, https and files on this machine always can") from None
    try:
        with remote:
            yield remote
    except OSError:
        raise
    except Exception as error:
        raise VideoError(path, f"cannot be read: {error or type(error).__name__}") from error
