"""EVL without its fast paths: every key and value projected, tables gathered, a convolution over time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.backbones.vit import Block
from muybridge.methods.base import Features, fold_frames, unfold_frames
from muybridge.methods.evl import EVL, DecoderLayer, QueryAttention
from muybridge.methods.local_temporal import TemporalConv, TemporalMatch
from muybridge.plain.common import block
from muybridge.structures import Output


class PlainEVL(EVL):
    """The equation of `methods/evl.py`, term by term."""

    @torch.no_grad()
    def frozen(self, video: Tensor) -> Features:
        """`tokens`, and `q` and `k` [B, M, T, h, P, d] of the tapped blocks in place of the match."""
        self.check_video(video)
        first, prefix = self.backbone.config.depth - self.config.layers, self.backbone.config.prefix
        kept: dict[str, list[Tensor]] = {"tokens": [], "q": [], "k": []}

        def look(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            kept["q"].append(unfold_frames(q[:, :, prefix:], self.frames).to(self.query.dtype))
            kept["k"].append(unfold_frames(k[:, :, prefix:], self.frames).to(self.query.dtype))
            return q, k, v

        x = self.backbone.embed(fold_frames(video))
        self.record("embedded", x)
        for i, layer in enumerate(self.backbone.blocks):
            assert isinstance(layer, Block)
            x = block(layer, x, look if i >= first else None)
            self.record(f"block.{i}", x)
            if i >= first:
                kept["tokens"].append(unfold_frames(x, self.frames).to(self.query.dtype))
        return {name: torch.stack(tensors, dim=1) for name, tensors in kept.items()}

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]."""
        return self.readout(self.frozen(video))

    def readout(self, features: Features) -> Output:
        """What `frozen` returns -> logits [B, K]."""
        tokens = features["tokens"]
        x = self.query.expand(tokens.shape[0], -1)
        losses = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            f = y = tokens[:, i]  # [B, T, L, D]
            if layer.temporal_conv is not None:
                convolved = temporal_conv(layer.temporal_conv, f)
                self.record(f"layers.{i}.temporal_conv", convolved)
                y = y + convolved
            if layer.temporal_position is not None:
                y = y + layer.temporal_position[:, None]
            if layer.temporal_match is not None:
                match = temporal_match(layer.temporal_match, features["q"][:, i], features["k"][:, i])
                match = F.pad(match, (0, 0, f.shape[2] - match.shape[2], 0))  # nothing for the prefix tokens
                self.record(f"layers.{i}.temporal_match", match)
                y = y + match
            if layer.alignment is not None:
                normed, pairs = layer.alignment.look(f)
                aligned = layer.alignment.skip_aligned(layer.alignment.alignment.aligned(normed, pairs))
                y = y + aligned + layer.alignment.skip(layer.alignment.alignment.inter(normed, pairs))
                if self.training:
                    losses.append(layer.alignment.alignment.loss(normed, pairs))
            self.record(f"layers.{i}.frame_features", y)
            found, weights = query_attention(layer.attention, layer.norm_query(x), layer.norm_frames(y.flatten(1, 2)))
            self.record(f"layers.{i}.attention", weights.unflatten(-1, y.shape[1:3]))
            x = x + found
            x = x + layer.mlp(layer.norm_mlp(x))
            self.record(f"layers.{i}.out", x)
        return Output(self.head(x), {"alignment": torch.stack(losses).sum()} if losses else {})


def query_attention(attention: QueryAttention, query: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of all tokens: query [B, D], tokens [B, S, D] -> [B, D] and the weights [B, h, S]."""
    q = attention.q(query).unflatten(-1, (attention.heads, -1))  # [B, h, d]
    k = attention.k(tokens).unflatten(-1, (attention.heads, -1))  # [B, S, h, d]
    v = attention.v(tokens).unflatten(-1, (attention.heads, -1))
    weights = (torch.einsum("bhd,bshd->bhs", q, k) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return attention.proj(torch.einsum("bhs,bshd->bhd", weights, v).flatten(1)), weights


def temporal_conv(conv: TemporalConv, x: Tensor) -> Tensor:
    """Depthwise convolution over time, [B, T, L, D] -> the same."""
    b, t, length, width = x.shape
    columns = x.permute(0, 2, 3, 1).reshape(b * length, width, t)
    out = F.conv1d(columns, conv.weight, conv.bias, padding=1, groups=width)
    return out.reshape(b, length, width, t).permute(0, 3, 1, 2)


def temporal_match(match: TemporalMatch, q: Tensor, k: Tensor) -> Tensor:
    """q, k [B, T, h, P, d] -> [B, T, P, D]."""
    displacement = displacement_index(match.grid).to(q.device)
    out = q.new_zeros(*q.shape[:2], q.shape[3], match.previous.shape[1])
    frames = q.shape[1]
    for table, here, there in (
        (match.previous, slice(1, None), slice(0, frames - 1)),
        (match.next, slice(0, frames - 1), slice(1, None)),
    ):
        scores = q[:, here] @ k[:, there].transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = scores.softmax(dim=-1).mean(dim=2)  # [B, T - 1, P, P]
        found = torch.einsum("btpr,prd->btpd", weights, table[displacement])
        out = out + F.pad(found, (0, 0, 0, 0, 1, 0) if here.start == 1 else (0, 0, 0, 0, 0, 1))
    return out


def displacement_index(grid: tuple[int, int]) -> Tensor:
    """Index of the displacement from patch r to patch p in a table of (2 rows - 1) * (2 columns - 1): [P, P], int64."""
    rows, columns = grid
    row = torch.arange(rows)[:, None] - torch.arange(rows)[None] + rows - 1
    column = torch.arange(columns)[:, None] - torch.arange(columns)[None] + columns - 1
    index = row[:, None, :, None] * (2 * columns - 1) + column[None, :, None, :]  # [rows, columns, rows, columns]
    return index.reshape(rows * columns, rows * columns)
