"""What depends on frozen weights only, computed once and kept in memory."""

from __future__ import annotations

import torch

from muybridge.engine.batches import FeatureBatches, Key, VideoBatches
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods.base import Features, Method


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
                if features is None:
                    raise BadInput(
                        f"Nothing of {type(method).__name__} depends on frozen weights only, so there is nothing to "
                        "cache: its gradients pass through the backbone. Train without train.cache."
                    )
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
        raise BadInput(
            f"None of the {count} videos can be decoded; the first: {next(iter(errors.values()), 'no video')}"
        )
    return FeatureBatches(store, labels, errors, size, batches.seed, views)


def megabytes(features: Features) -> float:
    """Size of features in MB (10^6 bytes)."""
    return sum(tensor.nbytes for tensor in features.values()) / 1e6
