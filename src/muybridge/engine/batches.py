"""Batches of videos, or of cached features, in an order that depends on nothing but seed and epoch.

A sample is asked for by a key (epoch, index, view), from which all its random draws follow. So a batch is the same with
any number of workers, after any interruption, and with or without a cache.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from muybridge.errors import BadInput
from muybridge.methods.base import Features
from muybridge.video.dataset import VideoDataset, collate

Key = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """What one step reads.

    Attributes:
        inputs: video [B, T, 3, H, W] in training, [B, V, T, 3, H, W] in evaluation; or cached features, batch (and
            view) first; None if no video of the batch could be decoded.
        labels: [B], class indices.
        indices: [B], positions in the data set.
        errors: one sentence for each video that could not be decoded, by its position in the data set.
    """

    inputs: Tensor | Features | None
    labels: Tensor
    indices: Tensor
    errors: dict[int, str]


class Batches(Protocol):
    """A source of batches: `VideoBatches` or `FeatureBatches`."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        ...


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count) that depends on seed and epoch only."""
    digest = hashlib.sha256(f"order/{seed}/{epoch}".encode()).digest()
    order = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little"))).permutation(count)
    return [int(index) for index in order]


def batch_keys(count: int, batch_size: int, seed: int, epoch: int, fixed_views: int = 0) -> list[list[Key]]:
    """The keys of an epoch's batches; the last batch may be smaller.

    Args:
        count: samples in the data set.
        batch_size: samples in a batch.
        seed: of the order and of every draw.
        epoch: from 0.
        fixed_views: 0: fresh draws every epoch; K: draw `epoch` modulo K of K fixed ones.
    """
    order = epoch_order(count, seed, epoch)
    keys = [(0, i, epoch % fixed_views) if fixed_views else (epoch, i, 0) for i in order]
    return [keys[i : i + batch_size] for i in range(0, count, batch_size)]


class _Plan(Sampler[list[Key]]):
    # The loader keeps its workers from epoch to epoch, so what they shall read next is set here.
    def __init__(self) -> None:
        self.batches: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _ignore_interrupt(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the main one finishes its step and saves before it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class VideoBatches:
    """Batches decoded from files.

    Args:
        dataset: of `muybridge.video`.
        batch_size: videos in a batch.
        seed: of the order; None: in order, for evaluation.
        fixed_views: see `batch_keys`.
        workers: processes that decode.
    """

    def __init__(
        self, dataset: VideoDataset, batch_size: int, seed: int | None = None, fixed_views: int = 0, workers: int = 0
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.fixed_views = fixed_views
        self._plan = _Plan()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupt,
            # A generator of its own: the loader draws a number at the start of every epoch, which must not move the
            # global one that dropout uses.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        if self.seed is None:
            keys: list[Key] = [(0, i, 0) for i in range(len(self.dataset))]
            batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        else:
            batches = batch_keys(len(self.dataset), self.batch_size, self.seed, epoch, self.fixed_views)
        return self.read(batches[start:])

    def read(self, batches: list[list[Key]]) -> Iterator[Batch]:
        """The batches of these keys."""
        self._plan.batches = batches
        try:
            for samples in self._loader:
                yield Batch(samples["video"], samples["label"], samples["index"], samples["errors"])
        except BadInput as error:
            # A worker's error arrives with its traceback in front; the sentence is the last line.
            raise BadInput(str(error).strip().splitlines()[-1].removeprefix("muybridge.errors.BadInput: ")) from None


class FeatureBatches:
    """Batches out of cached features, with the same keys in the same order as `VideoBatches`.

    Args:
        features: name -> [count * views, ...], sample `index * views + view`; see `compute_features`.
        labels: [count].
        errors: videos without features, by index.
        batch_size, seed: as `VideoBatches`.
        views: K fixed views of every video.
    """

    def __init__(
        self,
        features: Features,
        labels: Tensor,
        errors: dict[int, str],
        batch_size: int,
        seed: int | None = None,
        views: int = 1,
    ) -> None:
        self.features = features
        self.labels = labels
        self.errors = errors
        self.batch_size = batch_size
        self.seed = seed
        self.views = views

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        count = len(self.labels)
        if self.seed is None:
            order = list(range(count))
        else:
            order = epoch_order(count, self.seed, epoch)
        view = epoch % self.views
        for i in range(start * self.batch_size, count, self.batch_size):
            chosen = order[i : i + self.batch_size]
            good = torch.tensor([index for index in chosen if index not in self.errors], dtype=torch.long)
            rows = good * self.views + view
            inputs = {name: tensor[rows] for name, tensor in self.features.items()} if len(good) else None
            errors = {index: self.errors[index] for index in chosen if index in self.errors}
            yield Batch(inputs, self.labels[good], good, errors)
