"""What depends on frozen weights only, computed once: kept in memory, or on disk for any number of trainings.

On disk features are kept in half precision unless told otherwise. It is fp16, not bf16: it moves the features of the
demo's backbone by 0.02 % of their size and the scores of an EVL trained on them by 0.0002, bf16 by 0.17 % and 0.0035.
What is the video itself (DiST) is kept as the bytes that it was before it was normalised, where it was bytes: then
nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from muybridge.engine.progress import Progress
from muybridge.engine.setting import frozen_setting, is_remote, to_bytes, was_bytes
from muybridge.engine.store import FeatureStore, check_space, features_folder
from muybridge.errors import BadInput
from muybridge.methods.base import Features, Method, check_cacheable
from muybridge.structures import Recipe, TrainArgs, Transform
from muybridge.video.dataset import Source, VideoDataset
from muybridge.video.transforms import normalise

BYTES, HALF, EXACT = "bytes", "half", "exact"
LARGEST = torch.finfo(torch.float16).max
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
) -> StoredBatches:
    """As `compute_features`, with the features on disk; those that are there already are not computed again.

    An interruption loses what was computed in the last minute at most. Several processes may ask for the same features:
    one computes them and the others wait. A video that cannot be decoded is remembered, unless it lies behind an
    address.

    Args:
        method: one whose `frozen` returns features.
        batches: of the data set.
        device: where the method is.
        folder: of all cached features, see `features_folder`.
        views: K fixed draws of every training video.
        precision: `half`: floating-point numbers as fp16; `full`: as they are.
        progress: told of every batch.
        title: what the features are of.

    Returns:
        Batches with the same samples in the same order as `batches`, `fixed_views=views`.

    Raises:
        BadInput: nothing of this method depends on frozen weights only, no video could be decoded, the disk is full or
            cannot be written to.
    """
    progress = progress or Progress()
    check_cacheable(type(method))
    dataset = batches.dataset
    views = views if dataset.training else 1
    store = FeatureStore(folder, frozen_setting(method, batches, views, precision), len(dataset) * views)
    if _to_do(store, dataset, views):
        with store.writing(progress):
            # Another process may have computed some since.
            rows = _to_do(store, dataset, views)
            if rows:
                _Writer(method, batches, device, store, views, precision, progress).compute(rows, title)
    else:
        progress.say(f"{title}: read from {store.folder} ({store.bytes / 1e6:,.0f} MB).")
    if not store.labels:
        raise _nothing(len(dataset), store.errors)
    return StoredBatches(store, dataset.transform, len(dataset), batches.batch_size, batches.seed, views)


def video_halves(recipe: Recipe, source: Source) -> tuple[VideoBatches, VideoBatches]:
    """The training and the validation videos of a recipe, decoded when they are asked for."""
    args, views = recipe.train, recipe.sampling.views * recipe.sampling.crops
    train_set = VideoDataset(source.train, recipe.sampling, recipe.transform, True, args.seed, recipe.source)
    val_set = VideoDataset(source.val, recipe.sampling, recipe.transform, False, args.seed, recipe.source)
    return (
        VideoBatches(train_set, args.batch_size, args.seed, args.fixed_views, args.workers),
        VideoBatches(val_set, max(args.batch_size // views, 1), workers=args.workers),
    )


def stored_halves(
    method: Method,
    halves: tuple[VideoBatches, VideoBatches],
    device: torch.device,
    args: TrainArgs,
    progress: Progress,
) -> tuple[StoredBatches, StoredBatches]:
    """The training and the validation videos of a run by `store_features`, as `train.cache=disk` has them."""
    folder = features_folder(args.cache_folder)
    training, validation = (
        store_features(method, half, device, folder, args.fixed_views, args.cache_precision, progress, title)
        for half, title in zip(halves, ("training features", "validation features"), strict=True)
    )
    return training, validation


def _to_do(store: FeatureStore, dataset: VideoDataset, views: int) -> list[int]:
    # A network that was down is no fault of the video.
    for row in [row for row in store.errors if is_remote(dataset.items[row // views].path)]:
        del store.errors[row]
    return store.missing


class _Writer:
    """What it takes to compute rows of a store."""

    def __init__(
        self,
        method: Method,
        batches: VideoBatches,
        device: torch.device,
        store: FeatureStore,
        views: int,
        precision: str,
        progress: Progress,
    ) -> None:
        self.method, self.batches, self.device, self.store = method, batches, device, store
        self.views, self.precision, self.progress = views, precision, progress
        self.evaluating = not batches.dataset.training
        self.clipped: dict[str, int] = {}

    def compute(self, rows: Sequence[int], title: str) -> None:
        """Compute these rows and write them."""
        store, size = self.store, self.batches.batch_size
        if len(rows) < store.count:
            self.progress.say(f"{title}: {store.count - len(rows)} of {store.count} were computed before.")
        by_view = [[row for row in rows if row % self.views == view] for view in range(self.views)]
        plan = [part[i : i + size] for part in by_view for i in range(0, len(part), size)]
        keys: list[list[Key]] = [[(0, row // self.views, row % self.views) for row in part] for part in plan]
        left, told = len(rows), False
        self.progress.start(title, left)
        try:
            for part, batch in zip(plan, self.batches.read(keys), strict=True):
                view = part[0] % self.views
                store.errors |= {index * self.views + view: sentence for index, sentence in batch.errors.items()}
                if batch.inputs is not None:
                    assert isinstance(batch.inputs, Tensor)
                    features = self._features(batch.inputs)
                    if not told:
                        self._tell(features, len(batch.labels), left, title)
                        told = True
                    store.add((batch.indices * self.views + view).tolist(), batch.labels.tolist(), features)
                left -= len(part)
                self.progress.advance(len(part))
        finally:
            # Whatever ended the loop: what was computed is not computed again.
            store.flush()
            self.progress.finish()
        for name, count in self.clipped.items():
            self.progress.say(
                f"{count} numbers of the feature {name} are beyond what fp16 can hold and were cut to {LARGEST:g}: "
                "compute them with --train.cache_precision full."
            )

    def _features(self, video: Tensor) -> Features:
        """What is stored of a batch, [B, T, 3, H, W] or [B, V, T, 3, H, W]: name -> [B, (V,) ...] on the CPU."""
        moved = video.to(self.device)
        inputs = moved.flatten(0, 1) if self.evaluating else moved
        features = self.method.frozen(inputs)
        assert features is not None
        stored = {}
        for name, feature in features.items():
            is_video = feature.shape == inputs.shape and feature.data_ptr() == inputs.data_ptr()
            if is_video and was_bytes(self.batches.dataset.transform):
                kept, tensor = BYTES, to_bytes(video, self.batches.dataset.transform)
            else:
                shaped = feature.unflatten(0, video.shape[:2]) if self.evaluating else feature
                halved = self.precision == HALF and feature.is_floating_point()
                kept, tensor = (HALF, self._halve(name, shaped)) if halved else (EXACT, shaped)
            self.store.about[name] = {"kept": kept, "dtype": str(feature.dtype).removeprefix("torch.")}
            stored[name] = tensor.cpu().contiguous()
        return stored

    def _halve(self, name: str, feature: Tensor) -> Tensor:
        beyond = int((feature.abs() > LARGEST).sum())
        if beyond:
            if name not in self.clipped:
                self.progress.say(f"The feature {name} has numbers that fp16 cannot hold; they are cut to {LARGEST:g}.")
            self.clipped[name] = self.clipped.get(name, 0) + beyond
        return feature.clamp(-LARGEST, LARGEST).half()

    def _tell(self, features: Features, videos: int, left: int, title: str) -> None:
        """Say how large it will be, or raise BadInput if that does not fit on the disk."""
        each = sum(tensor.nbytes for tensor in features.values()) / videos
        free = check_space(self.store.folder, each * left)
        self.progress.say(
            f"{title}: {left} x {each / 1e6:,.2f} MB = {each * left / 1e6:,.0f} MB ({self.precision} precision) go to "
            f"{self.store.folder}, where {free / 1e9:,.0f} GB are free."
        )


def _nothing(count: int, errors: dict[int, str]) -> BadInput:
    return BadInput(f"None of the {count} videos can be decoded; the first: {next(iter(errors.values()), 'no video')}")
