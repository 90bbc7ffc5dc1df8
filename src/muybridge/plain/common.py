"""The image transformer's block without fused kernels."""

from __future__ import annotations

import math

from torch import Tensor

from muybridge.backbones.vit import Attention, Block, Edit


def attention(attn: Attention, x: Tensor, edit: Edit | None = None) -> Tensor:
    """What `attn(x, edit)` computes, softmax(q k^T / sqrt(d)) v written out: [N, L, D] -> [N, L, D]."""
    n, length, width = x.shape
    q, k, v = attn.qkv(x).reshape(n, length, 3, attn.heads, width // attn.heads).permute(2, 0, 3, 1, 4).unbind(0)
    if edit is not None:
        q, k, v = edit(q, k, v)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)  # [N, h, L, L]
    return attn.proj((weights @ v).transpose(1, 2).reshape(n, length, width))


def block(layer: Block, x: Tensor, edit: Edit | None = None) -> Tensor:
    """What `layer(x, edit)` computes: [N, L, D] -> [N, L, D]."""
    x = x + layer.ls1(attention(layer.attn, layer.norm1(x), edit))
    return x + layer.ls2(layer.mlp(layer.norm2(x)))
