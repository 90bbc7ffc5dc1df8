"""ZeroI2V's stored outputs."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from muybridge.methods.zeroi2v import ZeroI2V
from muybridge.testing.stored.base import Run

_LAYERS = {
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def output(name: str, run: Run) -> Tensor | None:
    """Our tensor for the stored output `name`; None if there is no such output."""
    if name == "prob":
        return run.trace["logits"].softmax(dim=-1).unflatten(0, (-1, run.views)).mean(dim=1)
    if name.startswith("merged/"):
        return _merged(name.removeprefix("merged/"), run)
    ours = "embedded" if name == "tokens_pre" else name
    ours = re.sub(r"^block_(\d+)_attn$", r"block.\1.attention", ours)
    ours = re.sub(r"^block_(\d+)_([kv]_shifted|k)$", r"block.\1.\2", ours)
    ours = re.sub(r"^block_(\d+)$", r"block.\1", ours)
    tensor = run.trace.get(ours)
    if tensor is not None and re.search(r"\.(k|[kv]_shifted)$", ours):
        tensor = tensor.transpose(1, 2).flatten(2)  # [N, h, L, d] -> [N, L, D]
    return tensor


def _merged(name: str, run: Run) -> Tensor | None:
    """Of the merged model: `logits`, or a weight, of which the name may ask for the first rows: `...weight[:4]`."""
    assert isinstance(run.method, ZeroI2V)
    merged = run.method.merged().eval()
    if name == "logits":
        with torch.no_grad():
            return merged(run.video).logits
    key, _, rows = name.removesuffix("]").partition("[:")
    key = key.removeprefix("backbone.transformer.res")
    for theirs, ours in _LAYERS.items():
        key = key.replace(theirs, ours)
    tensor = merged.backbone.state_dict().get(key)
    return tensor[: int(rows)] if tensor is not None and rows else tensor
