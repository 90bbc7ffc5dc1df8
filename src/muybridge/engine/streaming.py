"""Batches of videos that are read out of tar archives from beginning to end (`source.stream`).

A sample's frames and augmentation are those that it has when it is read by itself; the order of an epoch is that of
`video.stream`, and depends on the number of processes and workers besides the seed and the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from muybridge.engine.batches import Batch, VideoBatches, Watch, begin_worker
from muybridge.video.dataset import Batch as Samples
from muybridge.video.dataset import VideoDataset, collate
from muybridge.video.stream import Archives, Lane, lanes, share_sizes

NO_LANE = Lane([], [])


class StreamBatches(VideoBatches):
    """Batches for training out of archives that are read on and on.

    Args:
        dataset: its videos lie in tar archives.
        batch_size, seed, fixed_views, workers: as `VideoBatches`.

    Raises:
        BadInput: a video does not lie in an archive, or stands there twice; webdataset is not installed.
    """

    seed: int

    def __init__(
        self, dataset: VideoDataset, batch_size: int, seed: int, fixed_views: int = 0, workers: int = 0
    ) -> None:
        super().__init__(dataset, batch_size, seed, fixed_views, workers)
        self.workers = workers
        self.archives = Archives(dataset.items)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        count, share = max(self.workers, 1), self.processes
        row = self.archives.row(self.seed, epoch)
        buffer = self.dataset.source.stream_buffer
        whole = lanes(row, self.batch_size, self.seed, epoch, buffer, count, share.rank, share.count)
        # The loader asks its workers in turn, so the first one is given the lane whose turn it is.
        turns = [(start + worker) % count for worker in range(count)]
        rest = [whole[lane].after((start - lane + count - 1) // count) for lane in turns]
        key = (0, epoch % self.fixed_views) if self.fixed_views else (epoch, 0)
        streamed = _Streamed(self.dataset, self.workers, self.archives, rest, key)
        loader = DataLoader(
            streamed,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=begin_worker,
            generator=torch.Generator(),
        )
        yield from self.load(loader, streamed)
        sizes = share_sizes(len(self.dataset), self.batch_size, share.rank, share.count)
        if sizes[start:] and not sizes[-1]:  # a share of the last batch without a video
            nothing = torch.zeros(0, dtype=torch.long)
            yield Batch(None, nothing, nothing, {})


class _Streamed(Watch, IterableDataset[Samples]):
    """The batches of one lane for each worker."""

    def __init__(
        self, dataset: VideoDataset, workers: int, archives: Archives, rest: list[Lane], key: tuple[int, int]
    ) -> None:
        super().__init__(dataset, workers)
        self.archives, self.rest, self.key = archives, rest, key

    def __iter__(self) -> Iterator[Samples]:
        worker = get_worker_info()
        lane = self.rest[worker.id if worker is not None else 0]
        files = self.archives.read(lane.reads, self.dataset.source)
        epoch, view = self.key
        held = {}
        for batch in lane.batches:
            samples = []
            for index in batch:
                while index not in held:
                    read, file = next(files)
                    held[read] = file
                with self.reading(index):
                    samples.append(self.dataset.sample((epoch, index, view), held.pop(index)))
            if samples:
                yield collate(samples)


def _as_it_is(batch: Any) -> Any:
    return batch
