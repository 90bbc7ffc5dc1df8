"""Features of a recipe's videos, computed ahead of its training and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES
from muybridge.engine.device import pick_device
from muybridge.engine.features import StoredBatches, stored_halves, video_halves
from muybridge.engine.labels import label_features
from muybridge.engine.progress import Progress
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
) -> tuple[StoredBatches, StoredBatches]:
    """Compute what a training by this recipe will read from disk, or find it there.

    Args:
        recipe: with `train.cache=disk`, fitted to the backbone.
        source: the videos.
        backbone: the image transformer.
        progress: told of every batch.
        texts: as `train` takes them.

    Returns:
        Batches of training and of validation, which `train` takes too.

    Raises:
        BadInput: a setting that cannot be used, nothing to cache, no video that can be decoded, no room on the disk.
    """
    check(recipe)
    progress = progress or Progress()
    features = label_features(recipe, texts or source.labels, BACKBONES.get(recipe.backbone), progress)
    frames, size = recipe.sampling.frames, recipe.transform.size
    method = build_method(recipe.method, backbone, len(source.labels), frames, size, recipe.options, features)
    device = pick_device()
    return stored_halves(method.to(device), video_halves(recipe, source), device, recipe.train, progress)
