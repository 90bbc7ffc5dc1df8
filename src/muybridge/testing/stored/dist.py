"""DiST's stored outputs: tokens first, frames folded into the batch, maps with channels before frames."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from muybridge.testing.stored.base import Run


def output(name: str, run: Run) -> Tensor | None:
    """Our tensor for the stored output `name`; None if there is no such output."""
    if name == "probs":
        return run.trace["logits"].softmax(dim=-1)
    if (found := re.fullmatch(r"text_features(?:_first(\d+))?", name)) is not None:
        rows = None if found[1] is None else int(found[1])
        return None if run.label_features is None else run.label_features[:rows]
    for pattern, (ours, layout) in LAYOUTS.items():
        if (found := re.fullmatch(pattern, name)) is not None:
            tensor = run.trace.get(found.expand(ours))
            return None if tensor is None else layout(tensor)
    return None


def _tokens_first(tokens: Tensor) -> Tensor:
    """[B, T, L, D] or [B * T, L, D] -> [L, B * T, D]."""
    return tokens.flatten(0, -3).transpose(0, 1)


def _channels_first(x: Tensor) -> Tensor:
    """[B, F, rows, columns, C] -> [B, C, F, rows, columns]."""
    return x.permute(0, 4, 1, 2, 3)


# Stored name -> our name in the trace, and how it is laid out.
LAYOUTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    r"logits|video_features": (r"\g<0>", lambda x: x),
    r"visual_block_(\d+)": (r"block.\1", _tokens_first),
    r"temporal_stem": (r"temporal_stem", _channels_first),
    r"temporal_net_(\d+)": (r"layers.\1.temporal", _channels_first),
    r"integration_net_(\d+)": (r"layers.\1.integration", _tokens_first),
    r"adapool_(\d+)_video_token": (r"pooling.\1.video_token", lambda x: x[None]),
    r"adapool_(\d+)_frame_tokens": (r"pooling.\1.frame_tokens", lambda x: x.flatten(0, 1)[None]),
}
