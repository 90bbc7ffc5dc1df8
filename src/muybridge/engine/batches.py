"""Batches of videos, or of cached features, in an order that depends on nothing but seed and epoch.

A sample is asked for by a key (epoch, index, view), from which all its random draws follow. So a batch is the same with
any number of workers, after any interruption, and with or without a cache.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from muybridge.engine.freed import usual_in_fork
from muybridge.engine.processes import Processes
from muybridge.engine.transfer import finished
from muybridge.errors import BadInput, MuybridgeError, UnknownName, VideoError
from muybridge.methods.base import Features
from muybridge.video.dataset import Batch as Samples
from muybridge.video.dataset import Sample, VideoDataset, collate

Key = tuple[int, int, int]
ALONE = Processes()
_WATCHES: weakref.WeakSet[Watch] = weakref.WeakSet()


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
    """A source of batches: `VideoBatches`, `FeatureBatches` or `StoredBatches`."""

    processes: Processes

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


def epoch_batches(
    count: int, batch_size: int, seed: int | None, epoch: int, processes: Processes = ALONE
) -> list[list[int]]:
    """The positions in each of an epoch's batches.

    Of several processes each gets its share of every batch: W processes with batches of B samples train on what one
    process with batches of W * B trains on. The last batch may be smaller; it is shared out too, so that a process may
    have nothing of it. In evaluation whole batches are dealt, so that scores are those of one process to the bit.

    Args:
        count: samples in the data set.
        batch_size: samples in a batch of one process.
        seed: of the order; None: in order, for evaluation.
        epoch: from 0.
        processes: which of how many this is.
    """
    if seed is None:
        starts = range(0, count, batch_size)[processes.rank :: processes.count]
        return [list(range(i, min(i + batch_size, count))) for i in starts]
    order, whole = epoch_order(count, seed, epoch), batch_size * processes.count
    batches = [order[i : i + whole] for i in range(0, count, whole)]
    rank, of = processes.rank, processes.count
    return [batch[len(batch) * rank // of : len(batch) * (rank + 1) // of] for batch in batches]


def batches_in_epoch(count: int, batch_size: int, seed: int | None, processes: Processes = ALONE) -> int:
    """How many batches `epoch_batches` has."""
    if seed is None:
        return len(range(0, count, batch_size)[processes.rank :: processes.count])
    return -(-count // (batch_size * processes.count))


def batch_keys(
    count: int, batch_size: int, seed: int, epoch: int, fixed_views: int = 0, processes: Processes = ALONE
) -> list[list[Key]]:
    """The keys of an epoch's batches.

    Args:
        count, batch_size, epoch, processes: as `epoch_batches`.
        seed: of the order and of every draw.
        fixed_views: 0: fresh draws every epoch; K: draw `epoch` modulo K of K fixed ones.
    """
    return [
        [(0, i, epoch % fixed_views) if fixed_views else (epoch, i, 0) for i in batch]
        for batch in epoch_batches(count, batch_size, seed, epoch, processes)
    ]


class _Plan(Sampler[list[Key]]):
    # The loader keeps its workers from epoch to epoch, so what they shall read next is set here.
    def __init__(self) -> None:
        self.batches: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Watch:
    """What a data set has whose workers leave word of what they are reading, and end themselves when they hang.

    Reading gives up by itself after `seconds`, but for a decoder that does not come back. The system's clock then ends
    the process, also within C code.

    Args:
        dataset: the videos.
        workers: how many there will be.
    """

    def __init__(self, dataset: VideoDataset, workers: int) -> None:
        self.dataset = dataset
        # Opening and reading may each take as long as is allowed; the rest is for what is done with the frames.
        self.limit = 2 * dataset.source.seconds + 60 if dataset.source.seconds else 0.0
        # For each worker: process, and position in the data set; -1: none.
        self.words = multiprocessing.RawArray("q", [0, -1] * workers)
        self.children: list[BaseProcess] = []
        _WATCHES.add(self)

    @contextmanager
    def reading(self, position: int) -> Iterator[None]:
        """Within: this worker, if it is one, reads the video at this position of the data set."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        self.words[2 * worker.id + 1] = position
        _alarm(self.limit)
        try:
            yield
        finally:
            _alarm(0)
            self.words[2 * worker.id + 1] = -1

    def death(self, wait: float = 1.0) -> MuybridgeError | None:
        """The error for a worker that is dead, or dies within `wait` seconds; None: all are alive."""
        end = time.monotonic() + wait
        workers = [child for child in self.children if child.pid in self.words[::2]]
        while not (dead := {child.pid: child.exitcode for child in workers if not child.is_alive()}):
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        for process, position in zip(self.words[::2], self.words[1::2], strict=True):
            if process in dead and position >= 0:
                item, code = self.dataset.items[position], dead[process] or 0
                if -code == signal.SIGALRM:
                    why = f"the decoder did not come back within {self.limit:g} s, so its process was ended"
                else:
                    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    why = f"the process that was reading it died ({how}): it crashes the decoder, or memory ran out"
                return VideoError(
                    item.path if item.name in item.path else f"{item.path} ({item.name})",
                    f"{why}. Leave it out of the data set (`muybridge data check` finds such files), or read with "
                    "fewer train.workers if memory is short",
                )
        return BadInput(
            "A process that reads videos died while it was not reading: memory ran out, or something ended it. "
            "Try fewer train.workers."
        )


class _Watched(Watch, Dataset[Sample]):
    def __getitem__(self, key: Key) -> Sample:
        with self.reading(key[1]):
            return self.dataset[key]


def _alarm(seconds: float) -> None:
    """The process ends after this time; 0: it does not."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def begin_worker(worker: int) -> None:
    """Set up a process that reads a data set which is a `Watch`."""
    # Ctrl-C reaches every process of the terminal, and torchrun and Slurm send SIGTERM to all processes too; the main
    # one finishes its step, for which it may need a batch, and saves before it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    usual_in_fork()
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, Watch)
    info.dataset.words[2 * worker] = multiprocessing.current_process().pid or 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from here on `_end_workers` knows this process


@atexit.register
def _end_workers() -> None:
    # multiprocessing would end them by SIGTERM, which they do not hear, and wait for them.
    for watch in _WATCHES:
        for child in watch.children:
            if child.pid in watch.words[::2] and child.is_alive():
                child.kill()


class VideoBatches:
    """Batches decoded from files.

    Args:
        dataset: of `muybridge.video`.
        batch_size: videos in a batch.
        seed: of the order; None: in order, for evaluation.
        fixed_views: see `batch_keys`.
        workers: processes that decode.

    Attributes:
        processes: whose share of the batches this is; by default there is one process.
        device: where videos are to be; None: on the CPU.
    """

    def __init__(
        self, dataset: VideoDataset, batch_size: int, seed: int | None = None, fixed_views: int = 0, workers: int = 0
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.fixed_views = fixed_views
        self.processes = ALONE
        self.device: torch.device | None = None
        self._plan = _Plan()
        self._watched = _Watched(dataset, workers)
        self._loader = DataLoader(
            self._watched,
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=begin_worker,
            # A generator of its own: the loader draws a number at the start of every epoch, which must not move the
            # global one that dropout uses.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return batches_in_epoch(len(self.dataset), self.batch_size, self.seed, self.processes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        count, size = len(self.dataset), self.batch_size
        if self.seed is None:
            batches: list[list[Key]] = [
                [(0, i, 0) for i in batch] for batch in epoch_batches(count, size, None, epoch, self.processes)
            ]
        else:
            batches = batch_keys(count, size, self.seed, epoch, self.fixed_views, self.processes)
        batches = batches[start:]
        yield from self.read([keys for keys in batches if keys])
        if batches and not batches[-1]:  # a share of the last batch without a video
            nothing = torch.zeros(0, dtype=torch.long)
            yield Batch(None, nothing, nothing, {})

    def read(self, batches: list[list[Key]]) -> Iterator[Batch]:
        """The batches of these keys; raises what `load` does."""
        self._plan.batches = batches
        return self.load(self._loader, self._watched)

    def load(self, loader: DataLoader[Any], watch: Watch) -> Iterator[Batch]:
        """The batches of a loader whose data set is `watch`.

        Raises:
            VideoError: a worker died, or hung, while it was reading this file.
            BadInput, UnknownName: what the data set raises; or a worker died for another reason.
        """
        try:
            iterator = _quietly(loader)
            watch.children = list(multiprocessing.active_children())
            for samples in finished(iterator, self.dataset, self.device):
                yield Batch(samples["video"], samples["label"], samples["index"], samples["errors"])
        except (BadInput, UnknownName) as error:
            # A worker's error arrives with its traceback in front; the sentence is the last line.
            kind = type(error)
            raise kind(
                str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__name__}: ")
            ) from None
        except (RuntimeError, OSError, EOFError):
            # Torch's own word for it; or what the worker has sent before cannot be fetched from it any more.
            death = watch.death()
            if death is None:
                raise
            raise death from None


def _quietly(loader: DataLoader[Any]) -> Iterator[Samples]:
    """The loader's iterator, which tells of a dead worker when the next batch is due.

    Else torch raises its error at once, in the midst of whatever the main process does.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
    return iterator


class FeatureBatches:
    """Batches out of cached features, with the same keys in the same order as `VideoBatches`.

    Args:
        features: name -> [count * views, ...], sample `index * views + view`; see `compute_features`.
        labels: [count].
        errors: videos without features, by index.
        batch_size, seed: as `VideoBatches`.
        views: K fixed views of every video.

    Attributes:
        processes: as `VideoBatches`.
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
        self.processes = ALONE

    def __len__(self) -> int:
        return batches_in_epoch(len(self.labels), self.batch_size, self.seed, self.processes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        view = epoch % self.views
        for chosen in epoch_batches(len(self.labels), self.batch_size, self.seed, epoch, self.processes)[start:]:
            good = torch.tensor([index for index in chosen if index not in self.errors], dtype=torch.long)
            rows = good * self.views + view
            inputs = {name: tensor[rows] for name, tensor in self.features.items()} if len(good) else None
            errors = {index: self.errors[index] for index in chosen if index in self.errors}
            yield Batch(inputs, self.labels[good], good, errors)
