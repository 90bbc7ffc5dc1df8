"""The classification loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from muybridge.structures import Output


def total_loss(
    output: Output, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross entropy plus the method's own losses.

    Args:
        output: of a method, logits [B, K].
        labels: [B], class indices; or [B, K], distributions, which hold their smoothing (`mix.soft_targets`).
        label_smoothing: of class indices, in [0, 1).
        class_weights: [K], factors on the cross entropy of the classes; None: 1. The sum is divided by B, not by the
            weights of the batch, so that a video weighs the same in every batch, and gradients of batches add up.

    Returns:
        A scalar, fp32.
    """
    smoothing = 0.0 if labels.is_floating_point() else label_smoothing
    logits = output.logits.float()
    if class_weights is None:
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    else:
        loss = F.cross_entropy(logits, labels, class_weights, reduction="none", label_smoothing=smoothing).mean()
    return loss + sum(output.losses.values())
