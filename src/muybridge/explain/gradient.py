"""Gradient maps: which patches speak for a class.

The token of a patch, as it enters the last block that runs, is compared with the mean patch of its frame; times the
gradient of the class's log-odds this is, to first order, how much the class would lose if the patch were that mean
one. What speaks for the class is kept (Grad-CAM, Selvaraju et al., ICCV 2017, does the same with channels averaged
first). With x [T, P, D] the tokens and z the logits:

    map[t, p] = relu( sum_d (x[t, p, d] - mean_p x[t, p, d]) * d/dx (z_class - log sum_other exp z) )

It works for any method whose logits have a gradient, and asks it of a frozen backbone too, for this one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import BadInput
from muybridge.methods.base import Method


def gradient_map(method: Method, video: Tensor, index: int) -> Tensor:
    """What speaks for the class `index`.

    Args:
        method: any method, in evaluation mode.
        video: [1, T, 3, H, W], normalised.
        index: of the class.

    Returns:
        [S, rows, columns], log-odds to first order, for the S = `backbone_frames` frames that the backbone reads.

    Raises:
        BadInput: no gradient reaches the tokens.
    """
    config, frames = method.backbone.config, method.backbone_frames
    length = config.prefix + config.grid_of(method.image_size)[0] * config.grid_of(method.image_size)[1]
    entered: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if x.requires_grad and x.shape[:2] == (frames, length):
            entered.append(x)

    handles = [block.get_submodule("norm1").register_forward_pre_hook(keep) for block in method.backbone.blocks]
    try:
        with torch.enable_grad(), graph_through(method):
            logits = method(video.detach().clone().requires_grad_()).logits
            if not entered or not logits.requires_grad:
                raise BadInput(
                    f"No gradient of {type(method).__name__}'s logits reaches the tokens of its backbone; choose the "
                    "method 'rollout'."
                )
            # A block may be normed more than once (AIM: before its attention over time and over space).
            (gradient,) = torch.autograd.grad(log_odds(logits, index).sum(), entered[-1], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    if gradient is None:
        raise BadInput(f"{type(method).__name__} does not read the last block that it runs; choose 'rollout'.")
    x = entered[-1].detach()[:, config.prefix :]
    spoken = ((x - x.mean(dim=1, keepdim=True)) * gradient[:, config.prefix :]).sum(dim=-1)  # [S, P]
    return F.relu(spoken).unflatten(-1, config.grid_of(method.image_size))


@contextmanager
def graph_through(method: Method) -> Iterator[None]:
    """A graph through the backbone even where it is frozen; parameters are left as they are."""
    had = "freezes_backbone" in vars(method)
    before = method.freezes_backbone
    method.freezes_backbone = False
    try:
        yield
    finally:
        if had:
            method.freezes_backbone = before
        else:
            del method.freezes_backbone


def log_odds(logits: Tensor, index: int) -> Tensor:
    """log p / (1 - p) of a class, which does not fade where the model is sure: [B, K] -> [B]."""
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], dim=1)
    return logits[:, index] - others.logsumexp(dim=1)
