"""Features of a recipe's videos, computed ahead of its training and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES, unchanging
from muybridge.engine.device import pick_device
from muybridge.engine.features import StoredBatches, stored_halves, video_halves
from muybridge.engine.labels import label_features
from muybridge.engine.processes import join_processes, own_gpu
from muybridge.engine.progress import Progress
from muybridge.engine.small_data import fit_to_data
from muybridge.engine.writing import Spread
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.recipes import check
from muybridge.structures import Recipe
from muybridge.video.sources import Source


def cache_features(
    recipe: Recipe,
    source: Source,
    backbone: ViT,
    progress: Progress | None = None,
    texts: Sequence[str] | None = None,
    spread: Spread | None = None,
) -> tuple[StoredBatches, StoredBatches]:
    """Compute what a training by this recipe will read from disk, or find it there.

    Several processes (torchrun) share the work out; each calls this.

    Args:
        recipe: with `train.cache=disk`, fitted to the backbone.
        source: the videos.
        backbone: the image transformer.
        progress: told of every batch.
        texts: as `train` takes them.
        spread: computes elsewhere, such as `ray_cache.through_ray`; then this is the only process.

    Returns:
        Batches of training and of validation, which `train` takes too.

    Raises:
        BadInput: a setting that cannot be used, nothing to cache, no video that can be decoded, no room on the disk.
    """
    check(recipe)
    own_gpu()
    processes = join_processes()
    if spread is not None and processes.count > 1:
        raise BadInput("Ray starts its workers by itself: start one process, without torchrun.")
    progress = (progress if processes.first else None) or Progress()
    features = label_features(recipe, texts or source.labels, BACKBONES.get(recipe.backbone), progress)
    frames, size = recipe.sampling.frames, recipe.transform.size
    method = build_method(recipe.method, backbone, len(source.labels), frames, size, recipe.options, features)
    device = pick_device()
    halves = video_halves(*fit_to_data(recipe, source, processes.count))
    with unchanging(backbone):
        return stored_halves(method.to(device), halves, device, recipe.train, progress, processes, spread)
