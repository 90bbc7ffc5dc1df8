"""The classification loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from muybridge.structures import Output


def total_loss(output: Output, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy plus the method's own losses.

    Args:
        output: of a method, logits [B, K].
        labels: [B], class indices; or [B, K], distributions, which hold their smoothing (`mix.soft_targets`).
        label_smoothing: of class indices, in [0, 1).

    Returns:
        A scalar, fp32.
    """
    smoothing = 0.0 if labels.is_floating_point() else label_smoothing
    loss = F.cross_entropy(output.logits.float(), labels, label_smoothing=smoothing)
    return loss + sum(output.losses.values())
