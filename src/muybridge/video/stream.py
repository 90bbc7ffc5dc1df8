"""Tar archives that are read from beginning to end: which videos come in which order, and their bytes.

The archives are put into an order that depends on the seed and the epoch, and the videos of all of them stand in a row.
Each worker of each process has a stretch of this row to itself, which it reads on and on; a stretch may begin and end
within an archive. Videos that have been read wait in a buffer, out of which the next one is drawn. As the places of all
videos are known beforehand, so is the whole order: nothing is doubled or lost, all processes have as many batches, and
after an interruption the rest of an epoch is what it would have been.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from tarfile import BLOCKSIZE, TarError
from typing import Any, BinaryIO, cast

import numpy as np

from muybridge.errors import BadInput, VideoError
from muybridge.structures import Item, SourceArgs
from muybridge.video.draws import generator
from muybridge.video.limits import Limits
from muybridge.video.ranges import RangeFile, is_address
from muybridge.video.readers.tables import VIDEO_SUFFIXES

AHEAD = 8_000_000  # bytes that are fetched at a time of an archive behind an address


@dataclass(frozen=True)
class Lane:
    """What one worker reads in an epoch; videos are told by their places in the data set.

    Attributes:
        reads: in the order in which they are read.
        batches: the same videos, as they are drawn out of the buffer.
    """

    reads: list[int]
    batches: list[list[int]]

    def after(self, done: int) -> Lane:
        """The rest of it, when `done` batches have been seen."""
        batches = self.batches[done:]
        left = {index for batch in batches for index in batch}
        return Lane([index for index in self.reads if index in left], batches)


class Archives:
    """The archives of a data set.

    Args:
        items: the videos.

    Raises:
        BadInput: a video does not lie in an archive, or stands there twice; webdataset is not installed.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        _webdataset()
        loose = next((item for item in items if item.stored is None), None)
        if loose is not None:
            raise BadInput(
                f"source.stream reads tar archives from beginning to end, and {loose.path} is none; leave it out for "
                "videos in files and folders."
            )
        self.items = items
        by_path: dict[str, list[int]] = {}
        for index in sorted(range(len(items)), key=lambda index: _offset(items[index])):
            by_path.setdefault(items[index].path, []).append(index)
        self.shards = [by_path[path] for path in sorted(by_path)]
        # A header comes right after the file before it, which is filled up to a whole block.
        self._begins = {shard[0]: 0 for shard in self.shards}
        for before, index in (pair for shard in self.shards for pair in pairwise(shard)):
            self._begins[index] = _end(items[before])
            if _offset(items[before]) == _offset(items[index]):
                raise BadInput(
                    f"source.stream reads every video once, and {items[index].name} is there twice: set "
                    "--train.balanced_sampling false, or leave --source.stream out."
                )

    def row(self, seed: int, epoch: int) -> list[int]:
        """All videos in the order in which the archives have them, with the archives in an order of this epoch."""
        order = generator(seed, epoch).permutation(len(self.shards))
        return [index for number in order for index in self.shards[number]]

    def read(self, indices: Sequence[int], source: SourceArgs) -> Iterator[tuple[int, bytes | VideoError]]:
        """The files of these videos, in this order, or why there is none.

        Args:
            indices: a part of a `row`.
            source: limit of memory.
        """
        for path, group in groupby(indices, lambda index: self.items[index].path):
            wanted = {}
            for index in group:
                item = self.items[index]
                try:
                    Limits(item.name, source).memory(_size(item), "the file within the archive")
                    wanted[_member(item)] = index
                except VideoError as error:
                    yield index, error
            why = "is not in the archive any more, which was changed after its headers were read"
            try:
                for name, data in self._files(path, wanted):
                    index = wanted[name]
                    if len(data) == _size(self.items[index]):
                        del wanted[name]
                        yield index, data
                    if not wanted:
                        break
            except VideoError as error:
                why = error.reason
            except OSError as error:
                why = f"cannot be read: {error.strerror or error}"
            except (TarError, EOFError) as error:
                why = f"cannot be read: {str(error).partition(' @ ')[0]}"  # webdataset adds which object it was
            for index in wanted.values():
                yield index, VideoError(self.items[index].name, why)

    def _files(self, path: str, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
        """Name up to the first dot, and content, of the files in an archive that may be wanted."""
        if not wanted:
            return

        def chosen(name: str) -> bool:
            return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and _key(name) in wanted

        places = list(wanted.values())
        with _opened(path, max(_end(self.items[index]) for index in places)) as stream:
            stream.seek(self._begins[places[0]])
            # Opened by us: webdataset would start a program for an address.
            for file in _webdataset()(stream, skip_meta=None, select_files=chosen):
                yield _key(file["fname"]), file["data"]


def share_sizes(count: int, batch_size: int, rank: int, of: int) -> list[int]:
    """Videos in each batch of one of several processes.

    All have as many batches, all full but the last, which is shared out: some may have one video less there, or none.

    >>> share_sizes(13, 4, 0, 2), share_sizes(13, 4, 1, 2)
    ([4, 2], [4, 3])
    """
    whole = batch_size * of
    together = (min(whole, count - begin) for begin in range(0, count, whole))
    return [n * (rank + 1) // of - n * rank // of for n in together]


def lanes(
    row: Sequence[int], batch_size: int, seed: int, epoch: int, buffer: int, workers: int, rank: int = 0, of: int = 1
) -> list[Lane]:
    """What each worker of a process reads in an epoch: batch j of the process is of worker j modulo `workers`.

    Args:
        row: the videos of all processes, from `Archives.row`.
        batch_size: videos in a batch of one process.
        seed, epoch: of the draws out of the buffers.
        buffer: how many videos a worker holds.
        workers: of one process.
        rank, of: which of how many processes this is.
    """
    begin = sum(sum(share_sizes(len(row), batch_size, before, of)) for before in range(rank))
    sizes = share_sizes(len(row), batch_size, rank, of)
    found = []
    for worker in range(workers):
        mine = sizes[worker::workers]
        reads = list(row[begin : begin + sum(mine)])
        begin += len(reads)
        # Five numbers: of a sample and of a mixed batch are the draws whose places have fewer.
        drawn = _drawn(reads, buffer, generator(seed, epoch, rank, worker, workers))
        edges = [0, *accumulate(mine)]
        found.append(Lane(reads, [drawn[a:b] for a, b in pairwise(edges)]))
    return found


def _drawn(reads: Sequence[int], buffer: int, rng: np.random.Generator) -> list[int]:
    """The videos in the order in which they leave a buffer that is kept full while there are more."""
    held: list[int] = []
    out = []
    for number, index in enumerate(reads, 1):
        held.append(index)
        while len(held) >= buffer or (held and number == len(reads)):
            place = int(rng.integers(len(held)))
            held[place], held[-1] = held[-1], held[place]
            out.append(held.pop())
    return out


def _webdataset() -> Callable[..., Iterator[dict[str, Any]]]:
    """The library's reader of tar streams."""
    try:
        from webdataset.tariterators import tar_file_iterator  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise BadInput(
            f"source.stream needs the library webdataset ({error}): pip install 'muybridge[webdataset]', or leave "
            "--source.stream out."
        ) from None
    return cast("Callable[..., Iterator[dict[str, Any]]]", tar_file_iterator)


def _opened(path: str, end: int) -> BinaryIO:
    return cast(BinaryIO, RangeFile(path, end, AHEAD)) if is_address(path) else open(path, "rb")


def _key(name: str) -> str:
    """What the files of a sample have in common: the name up to the first dot, with its folders."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return folder + slash + base.partition(".")[0]


def _member(item: Item) -> str:
    """The sample's name in its archive: the item's is that after the archive's, with as many folders as it needs."""
    parts = item.path.partition("?")[0].split("/")
    tails = ("/".join(parts[begin:]) + "/" for begin in range(len(parts)))
    return next((item.name.removeprefix(tail) for tail in tails if item.name.startswith(tail)), item.name)


def _offset(item: Item) -> int:
    assert item.stored is not None
    return item.stored[0]


def _size(item: Item) -> int:
    assert item.stored is not None
    return item.stored[1]


def _end(item: Item) -> int:
    """Where the block ends in which an item's file ends."""
    return -(-(_offset(item) + _size(item)) // BLOCKSIZE) * BLOCKSIZE
