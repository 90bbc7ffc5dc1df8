"""Frozen features on their way to disk: computed batch by batch, by one process or by several at once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from muybridge.engine.batches import Key, VideoBatches
from muybridge.engine.progress import Progress
from muybridge.engine.setting import frozen_setting, to_bytes, was_bytes
from muybridge.engine.store import FeatureStore, check_space
from muybridge.errors import BadInput
from muybridge.methods.base import Features, Method

BYTES, HALF, EXACT = "bytes", "half", "exact"
LARGEST = torch.finfo(torch.float16).max
PATIENCE = 10.0  # seconds until a network disk shows what another machine has written


def new_share(store: FeatureStore) -> FeatureStore:
    """A share of a store, under a name that is nobody else's."""
    return FeatureStore(store.folder.parent, store.setting, store.count, uuid.uuid4().hex[:8])


def open_store(method: Method, batches: VideoBatches, folder: Path, views: int, precision: str) -> FeatureStore:
    """The store of these features, with what is in it; arguments as `store_features` has them."""
    rows = len(batches.dataset) * views
    return FeatureStore(folder, frozen_setting(method, batches, views, precision), rows)


def see(store: FeatureStore, file: Path | None = None) -> None:
    """Raise BadInput if this process does not see a file of the store, or, without one, all of its rows."""
    end = time.monotonic() + PATIENCE
    while not file.is_file() if file is not None else store.missing:
        if time.monotonic() > end:
            raise BadInput(
                f"{store.folder} is not the same folder for all processes; frozen features must lie on a disk that all "
                "of them see: --train.cache_folder DIR."
            )
        time.sleep(0.1)
        if file is None:
            store.load()


class Writer:
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

    def compute(self, plan: Sequence[list[int]], total: int, title: str) -> dict[str, int]:
        """Compute these rows, batch by batch, and write them.

        Args:
            plan: rows of each batch.
            total: how many rows all processes compute together.
            title: what the features are of.

        Returns:
            How many numbers of a feature fp16 could not hold, by its name.
        """
        store = self.store
        keys: list[list[Key]] = [[(0, row // self.views, row % self.views) for row in part] for part in plan]
        told = False
        self.progress.start(title, sum(map(len, plan)))
        try:
            for part, batch in zip(plan, self.batches.read(keys), strict=True):
                view = part[0] % self.views
                store.errors |= {index * self.views + view: sentence for index, sentence in batch.errors.items()}
                if batch.inputs is not None:
                    assert isinstance(batch.inputs, Tensor)
                    features = self._features(batch.inputs)
                    if not told:
                        self._tell(features, len(batch.labels), total, title)
                        told = True
                    store.add((batch.indices * self.views + view).tolist(), batch.labels.tolist(), features)
                self.progress.advance(len(part))
        finally:
            # Whatever ended the loop: what was computed is not computed again.
            store.flush()
            self.progress.finish()
        return self.clipped

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


Spread = Callable[[Writer, Sequence[list[int]], str], list[dict[str, int]]]


def tell_clipped(parts: Sequence[dict[str, int]], progress: Progress) -> None:
    """Say what `Writer.compute` returned in each process."""
    for name in dict.fromkeys(name for part in parts for name in part):
        progress.say(
            f"{sum(part.get(name, 0) for part in parts)} numbers of the feature {name} are beyond what fp16 can hold "
            f"and were cut to {LARGEST:g}: compute them with --train.cache_precision full."
        )
