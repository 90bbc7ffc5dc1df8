"""What depends on frozen weights only, computed once: kept in memory, or on disk for any number of trainings.

On disk features are kept in half precision unless told otherwise. It is fp16, not bf16: it moves the features of the
demo's backbone by 0.02 % of their size and the scores of an EVL trained on them by 0.0002, bf16 by 0.17 % and 0.0035.
What is the video itself (DiST) is kept as the bytes that it was before it was normalised, where it was bytes: then
nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from muybridge.engine.batches import (
    ALONE,
    Batch,
    FeatureBatches,
    Key,
    VideoBatches,
    batches_in_epoch,
    epoch_batches,
)
from muybridge.engine.processes import Processes
from muybridge.engine.progress import Progress
from muybridge.engine.setting import draws_seed, is_remote
from muybridge.engine.store import SETTING, FeatureStore, features_folder
from muybridge.engine.streaming import StreamBatches
from muybridge.engine.writing import BYTES, HALF, Spread, Writer, new_share, open_store, see, tell_clipped
from muybridge.errors import BadInput
from muybridge.methods.base import Features, Method, check_cacheable
from muybridge.structures import Recipe, TrainArgs, Transform
from muybridge.video.dataset import Source, VideoDataset
from muybridge.video.transforms import normalise

AHEAD = 1e6  # bytes of a batch below which handing it from thread to thread takes longer than reading it


@torch.no_grad()
def compute_features(
    method: Method,
    batches: VideoBatches,
    device: torch.device,
    views: int = 1,
    progress: Progress | None = None,
    title: str = "features",
) -> FeatureBatches:
    """Run `method.frozen` over every video and fixed view of a data set.

    In evaluation (`batches.seed` is None) a video's test views stay together: features are [count, V, ...].

    Args:
        method: one whose `frozen` returns features.
        batches: of the data set.
        device: where the method is; the features are kept in CPU memory, fp32.
        views: K fixed draws of every training video.
        progress: told of every batch.
        title: what the progress bar calls it.

    Returns:
        Batches with the same samples in the same order as `batches`, `fixed_views=views`.

    Raises:
        BadInput: nothing of this method depends on frozen weights only, or no video could be decoded.
    """
    progress = progress or Progress()
    check_cacheable(type(method))
    count = len(batches.dataset)
    labels = torch.tensor([item.label for item in batches.dataset.items])
    evaluating = batches.seed is None
    views = 1 if evaluating else views
    size = batches.batch_size
    store: Features = {}
    errors: dict[int, str] = {}
    progress.start(title, count * views)
    for view in range(views):
        keys: list[Key] = [(0, index, view) for index in range(count)]
        for batch in batches.read([keys[i : i + size] for i in range(0, count, size)]):
            errors |= batch.errors
            if batch.inputs is not None:
                assert isinstance(batch.inputs, torch.Tensor)
                video = batch.inputs.to(device)
                features = method.frozen(video.flatten(0, 1) if evaluating else video)
                assert features is not None
                rows = batch.indices * views + view
                for name, tensor in features.items():
                    if evaluating:
                        tensor = tensor.unflatten(0, video.shape[:2])
                    if name not in store:
                        store[name] = torch.zeros(count * views, *tensor.shape[1:], dtype=tensor.dtype)
                    store[name][rows] = tensor.cpu()
            progress.advance(len(batch.labels) + len(batch.errors))
    progress.finish()
    if not store:
        raise _nothing(count, errors)
    return FeatureBatches(store, labels, errors, size, batches.seed, views)


def megabytes(features: Features) -> float:
    """Size of features in MB (10^6 bytes)."""
    return sum(tensor.nbytes for tensor in features.values()) / 1e6


class StoredBatches:
    """Batches out of features on disk, with the same keys in the same order as `VideoBatches`.

    The rows of a batch are read while the one before is worked on, unless they are few bytes.

    Args:
        store: with all rows; that of sample `index` and view `view` is `index * views + view`.
        transform: what has become of the bytes of a video.
        count: videos.
        batch_size, seed: as `VideoBatches`.
        views: K fixed views of every video.
    """

    def __init__(
        self,
        store: FeatureStore,
        transform: Transform,
        count: int,
        batch_size: int,
        seed: int | None = None,
        views: int = 1,
    ) -> None:
        self.store = store
        self.transform = transform
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.views = views
        self.processes = ALONE

    def __len__(self) -> int:
        return batches_in_epoch(self.count, self.batch_size, self.seed, self.processes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        chosen = epoch_batches(self.count, self.batch_size, self.seed, epoch, self.processes)[start:]
        reads = [partial(self._batch, indices, epoch % self.views) for indices in chosen]
        if self.store.bytes / len(self.store.labels) * self.batch_size < AHEAD:
            for read in reads:
                yield read()
            return
        with ThreadPoolExecutor(1, "features") as pool:
            yield from _ahead(pool, reads)

    def _batch(self, indices: Sequence[int], view: int) -> Batch:
        store = self.store
        known = [(index, index * self.views + view) for index in indices]
        errors = {index: store.errors[row] for index, row in known if row in store.errors}
        good = [index for index in indices if index not in errors]
        rows = [row for _, row in known if row not in store.errors]
        inputs = {name: self._feature(name, rows) for name in store.about} if good else None
        labels = torch.tensor([store.labels[row] for row in rows], dtype=torch.long)
        return Batch(inputs, labels, torch.tensor(good, dtype=torch.long), errors)

    def _feature(self, name: str, rows: list[int]) -> Tensor:
        about = self.store.about[name]
        if about["kept"] == BYTES:
            feature = normalise(self.store.read(rows, name), self.transform)
        else:
            feature = self.store.read(rows, name, getattr(torch, about["dtype"]))
        return feature.pin_memory() if torch.cuda.is_available() else feature


def _ahead(pool: ThreadPoolExecutor, reads: Sequence[Callable[[], Batch]]) -> Iterator[Batch]:
    """What the calls return, in order; one call is made ahead."""
    waiting = iter(reads)
    pending = [pool.submit(read) for read in islice(waiting, 1)]
    while pending:
        batch = pending.pop().result()
        pending = [pool.submit(read) for read in islice(waiting, 1)]
        yield batch


@torch.no_grad()
def store_features(
    method: Method,
    batches: VideoBatches,
    device: torch.device,
    folder: Path,
    views: int = 1,
    precision: str = HALF,
    progress: Progress | None = None,
    title: str = "features",
    processes: Processes = ALONE,
    spread: Spread | None = None,
) -> StoredBatches:
    """As `compute_features`, with the features on disk; those that are there already are not computed again.

    An interruption loses what was computed in the last minute at most. Where several processes work together, each
    computes and writes a share of the batches that one would compute; others that ask for the same features wait. A
    video that cannot be decoded is remembered, unless it lies behind an address.

    Args:
        method: one whose `frozen` returns features.
        batches: of the data set.
        device: where the method is.
        folder: of all cached features, see `features_folder`; on a disk that all processes see.
        views: K fixed draws of every training video.
        precision: `half`: floating-point numbers as fp16; `full`: as they are.
        progress: told of every batch.
        title: what the features are of.
        processes: that work together; all of them call this.
        spread: computes batches elsewhere, into shares of the store: it is given the writer of the whole, the rows of
            each batch and the title, and returns what `Writer.compute` does for each share. For one process.

    Returns:
        Batches with the same samples in the same order as `batches`, `fixed_views=views`.

    Raises:
        BadInput: nothing of this method depends on frozen weights only, no video could be decoded, the disk is full or
            cannot be written to, or the processes do not see the same videos or the same disk.
    """
    progress = progress or Progress()
    check_cacheable(type(method))
    dataset = batches.dataset
    views = views if dataset.training else 1
    store = processes.collect(lambda: open_store(method, batches, folder, views, precision))[processes.rank]
    keys = processes.gather(store.folder.name)
    if len(set(keys)) > 1:
        raise BadInput(
            f"The processes would compute different features (keys {', '.join(key[:12] for key in keys)}): all must "
            "see the same videos, with the same times of modification, and have the same backbone."
        )
    with ExitStack() as lock:
        plan = processes.agree(lambda: plan_missing(store, batches, views, lock, progress, title))
        if plan:
            processes.collect(lambda: see(store, store.folder / SETTING))
            share = store if processes.first else new_share(store)
            writer = Writer(method, batches, device, share, views, precision, progress)
            if spread is not None:
                clipped = spread(writer, plan, title)
            else:
                total, mine = sum(map(len, plan)), plan[processes.rank :: processes.count]
                clipped = processes.collect(lambda: writer.compute(mine, total, title))
            tell_clipped(clipped, progress)
            processes.agree(store.absorb)
    if not processes.first:
        store.load()
    processes.collect(lambda: see(store))
    return stored_batches(store, batches, views)


def plan_missing(
    store: FeatureStore, batches: VideoBatches, views: int, lock: ExitStack, progress: Progress, title: str
) -> list[list[int]]:
    """The rows that are to be computed, batch by batch; if there are any, the store is `writing` until `lock` ends."""
    if _to_do(store, batches.dataset, views):
        lock.enter_context(store.writing(progress))
    # Another process may have computed some since.
    rows = _to_do(store, batches.dataset, views)
    if not rows:
        progress.say(f"{title}: read from {store.folder} ({store.bytes / 1e6:,.0f} MB).")
        return []
    if len(rows) < store.count:
        progress.say(f"{title}: {store.count - len(rows)} of {store.count} were computed before.")
    store.flush()  # others see by it that this is the folder
    size = batches.batch_size
    by_view = [[row for row in rows if row % views == view] for view in range(views)]
    return [part[i : i + size] for part in by_view for i in range(0, len(part), size)]


def stored_batches(store: FeatureStore, batches: VideoBatches, views: int) -> StoredBatches:
    """Batches out of a store that has all rows. Raises BadInput: not one video could be decoded."""
    dataset = batches.dataset
    if not store.labels:
        raise _nothing(len(dataset), store.errors)
    return StoredBatches(store, dataset.transform, len(dataset), batches.batch_size, batches.seed, views)


def video_halves(
    recipe: Recipe, source: Source, device: torch.device | None = None
) -> tuple[VideoBatches, VideoBatches]:
    """The training and the validation videos of a recipe, decoded when they are asked for; `device`: of the batches."""
    args, views = recipe.train, recipe.sampling.views * recipe.sampling.crops
    raw = args.transform_on == "device"
    train_set = VideoDataset(
        source.train, recipe.sampling, recipe.transform, True, draws_seed(args), recipe.source, raw
    )
    val_set = VideoDataset(source.val, recipe.sampling, recipe.transform, False, args.seed, recipe.source, raw)
    kind = StreamBatches if recipe.source.stream else VideoBatches
    training = kind(train_set, args.batch_size, args.seed, args.fixed_views, args.workers)
    validation = VideoBatches(val_set, max(args.batch_size // views, 1), workers=args.workers)
    training.device = validation.device = device
    return training, validation


def stored_halves(
    method: Method,
    halves: tuple[VideoBatches, VideoBatches],
    device: torch.device,
    args: TrainArgs,
    progress: Progress,
    processes: Processes = ALONE,
    spread: Spread | None = None,
) -> tuple[StoredBatches, StoredBatches]:
    """The training and the validation videos of a run by `store_features`, as `train.cache=disk` has them."""
    folder = features_folder(args.cache_folder)
    views, precision = args.fixed_views, args.cache_precision
    training, validation = (
        store_features(method, half, device, folder, views, precision, progress, title, processes, spread)
        for half, title in zip(halves, ("training features", "validation features"), strict=True)
    )
    return training, validation


def _to_do(store: FeatureStore, dataset: VideoDataset, views: int) -> list[int]:
    # A network that was down is no fault of the video.
    for row in [row for row in store.errors if is_remote(dataset.items[row // views].path)]:
        del store.errors[row]
    return store.missing


def _nothing(count: int, errors: dict[int, str]) -> BadInput:
    return BadInput(f"None of the {count} videos can be decoded; the first: {next(iter(errors.values()), 'no video')}")
