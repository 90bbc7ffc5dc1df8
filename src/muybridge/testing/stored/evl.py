"""EVL's stored outputs."""

from __future__ import annotations

from torch import Tensor

from muybridge.testing.stored.base import Run


def output(name: str, run: Run) -> Tensor | None:
    """Our tensor for the stored output `name`; None if there is no such output."""
    ours = (
        name.replace("backbone.ln_pre", "embedded")
        .replace("backbone.block", "block")
        .replace("decoder.", "layers.")
        .replace("cross_attention", "temporal_match")
    )
    if ours not in run.trace:
        return None
    tensor = run.trace[ours]
    if name.endswith(".temporal_conv"):
        return tensor.permute(0, 2, 3, 1).flatten(0, 1)  # [B, T, L, D] -> [B * L, D, T]
    if name.endswith(".frame_features"):
        return tensor.flatten(1, 2)  # [B, T * L, D]
    if name.endswith(".out"):
        return tensor[:, None]  # [B, 1, D]
    return tensor
