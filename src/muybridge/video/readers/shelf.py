"""Where the videos of a data set lie: every folder is listed once, and no file is asked for by itself.

A data set has up to hundreds of thousands of files, often on a disk behind a network, where asking for each of them in
each place where it may be takes hours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from muybridge.errors import VideoError
from muybridge.structures import FrameFiles
from muybridge.video.readers.tables import VIDEO_SUFFIXES

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
NUMBERED = re.compile(r"(.*?)(\d+)(\.[A-Za-z]+)")
THREADS = 16


@dataclass(frozen=True)
class _Listing:
    """What a folder holds.

    Attributes:
        names: of everything in it.
        folders: of the folders in it.
        videos: name without suffix -> name, of the video files.
    """

    names: frozenset[str]
    folders: frozenset[str]
    videos: dict[str, str]


NOTHING = _Listing(frozenset(), frozenset(), {})


class Shelf:
    """Finds videos below some folders.

    Args:
        roots: the folders, the likeliest first.
    """

    def __init__(self, roots: Iterable[str | Path]) -> None:
        self.roots = tuple(dict.fromkeys(os.path.abspath(root) for root in roots))
        self._listings: dict[str, _Listing] = {}
        self._there: dict[tuple[str, ...], list[tuple[str, _Listing]]] = {}

    def exact(self, name: str) -> str | None:
        """The absolute path of what has this relative or absolute path; None: it is nowhere."""
        for root in self.roots:
            path = os.path.abspath(os.path.join(root, name))
            folder, base = os.path.split(path)
            if base in self._list(folder).names:
                return path
        return None

    def expected(self, name: str) -> str:
        """Where it should be, for a message."""
        return os.path.abspath(os.path.join(self.roots[0], name))

    def by_stem(self, stems: Sequence[str], folders: Iterable[str] = ("",)) -> str | None:
        """A video file that is called one of `stems`, with any suffix, or else a folder that is.

        Args:
            stems: names without a suffix, the likeliest first.
            folders: where to look, below each of the roots.
        """
        there = self._existing(tuple(folders))
        for folder, listing in there:
            for stem in stems:
                if stem in listing.videos:
                    return os.path.join(folder, listing.videos[stem])
        for folder, listing in there:
            for stem in stems:
                if stem in listing.folders:
                    return os.path.join(folder, stem)
        return None

    def subfolders(self, folder: str = "") -> list[str]:
        """The folders in `folder` of all roots, relative to the root, sorted."""
        found = {
            name for root in self.roots for name in self._list(os.path.abspath(os.path.join(root, folder))).folders
        }
        return sorted(os.path.join(folder, name) for name in found if not name.startswith("."))

    def is_folder(self, path: str) -> bool:
        """Whether an absolute path that was found is a folder."""
        folder, base = os.path.split(path)
        return base in self._list(folder).folders

    def _existing(self, folders: tuple[str, ...]) -> list[tuple[str, _Listing]]:
        """Those of `folders` that hold something, below each of the roots."""
        # Fast: all videos of a class ask for the same folders; 240,000 of Kinetics-400 are found in 3 s instead of 7.
        if folders not in self._there:
            paths = [os.path.abspath(os.path.join(root, folder)) for root in self.roots for folder in folders]
            listings = [(path, self._list(path)) for path in dict.fromkeys(paths)]
            self._there[folders] = [(path, listing) for path, listing in listings if listing.names]
        return self._there[folders]

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            # Most places where a video may be do not exist, and what the folder above holds tells that.
            parent, base = os.path.split(folder)
            inside = any(parent == root or parent.startswith(os.path.join(root, "")) for root in self.roots)
            there = not inside or base in self._list(parent).names
            self._listings[folder] = _scan(folder) if there else NOTHING
        return self._listings[folder]


def _scan(folder: str) -> _Listing:
    names, folders, videos = [], [], {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if entry.is_dir():
                    folders.append(entry.name)
    except OSError:
        return NOTHING
    for name in sorted(names, reverse=True):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in VIDEO_SUFFIXES:
            videos[stem] = name
    return _Listing(frozenset(names), frozenset(folders), videos)


def frame_files(folder: str, rate: float = 0.0) -> FrameFiles | None:
    """How the pictures in a folder are called and how many there are; None: it holds no numbered pictures.

    Pictures of optical flow beside them (`flow_x_00001.jpg`) do not count.

    Args:
        folder: its path.
        rate: frames a second, where it is known.

    Raises:
        VideoError: the folder cannot be listed.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise VideoError(folder, f"cannot be listed: {error.strerror}") from error
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match and match[3].lower() in PICTURES and not match[1].lower().startswith(("flow", "x_", "y_", ".")):
            groups.setdefault((match[1], match[3]), []).append(match[2])
    if not groups:
        return None
    prefix, suffix = max(sorted(groups), key=lambda key: len(groups[key]))
    digits = groups[prefix, suffix]
    width = min(map(len, digits))
    numbers = sorted(map(int, digits))
    plain = (prefix + "{}" + suffix).replace("{}", "\0").replace("{", "{{").replace("}", "}}")
    pattern = plain.replace("\0", f"{{:0{width}}}" if width > 1 else "{}")
    # A number that is missing between the others is a frame that is missing: found when it is read.
    return FrameFiles(pattern, numbers[0], numbers[-1] - numbers[0] + 1, rate)


def frame_files_of(folders: Sequence[str], rate: float = 0.0) -> list[FrameFiles | None]:
    """`frame_files` of many folders, several at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda folder: frame_files(folder, rate), folders, chunksize=64))
