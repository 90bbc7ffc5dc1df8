"""DiST without its fast paths: every frame embedded, 3-D convolutions, every key and value projected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.backbones.vit import Block
from muybridge.methods.base import fold_frames, unfold_frames
from muybridge.methods.dist import DiST, Layer
from muybridge.methods.integration import Integration, PoolAttention, PoolingLayer, TemporalBlock
from muybridge.plain.common import block


class PlainDiST(DiST):
    """The equations of `methods/dist.py`, term by term."""

    @torch.no_grad()
    def _tap(self, video: Tensor) -> tuple[Sequence[Tensor], Tensor | None]:
        """All dense frames embedded, the sparse ones chosen, all blocks run."""
        self.check_video(video)
        embedded = unfold_frames(self.backbone.embed(fold_frames(video)), self.frames)
        x = fold_frames(embedded[:, :: self.config.ratio])
        taps = []
        for i, layer in enumerate(self.backbone.blocks):
            assert isinstance(layer, Block)
            x = block(layer, x)
            self.record(f"block.{i}", x)
            if i in self.tapped:
                taps.append(unfold_frames(self._rows(x), self.sparse).to(self.video_token.dtype))
        return taps, self._image_features(x)

    def _embed(self, video: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Dense frames [B, F, 3, H, W] and tapped tokens, each [B, T, 1 + P, W] -> h [B, D]."""
        x = self.temporal_stem(video.transpose(1, 2))  # [B, C, F, rows, columns], as everything of x below
        self.record("temporal_stem", channels_last(x))
        r = u = taps[0].new_zeros(())
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x = temporal_block(layer.temporal, x)
            self.record(f"layers.{i}.temporal", channels_last(x))
            m = layer.input(taps[i]) + r
            u = m + to_integration(layer, x)
            x = x + to_temporal(layer, m, x)  # of the last layer without effect
            r = integration(layer.integration, u)
            self.record(f"layers.{i}.integration", r)
        z = r + u
        video_token = self.video_token[0].expand(len(z), -1)
        frame_tokens = self.frame_token.expand(*z.shape[:2], -1)
        for i, pool in enumerate(self.pooling):
            assert isinstance(pool, PoolingLayer)
            frame_tokens = frame_tokens + unfold_frames(
                pool_attention(pool.spatial, fold_frames(frame_tokens), fold_frames(z)), self.sparse
            )
            frame_tokens = frame_tokens + pool.spatial_mlp(pool.spatial_norm(frame_tokens))
            placed = frame_tokens + pool.temporal_embedding
            video_token = video_token + pool_attention(pool.temporal, video_token, placed)
            video_token = video_token + pool.temporal_mlp(pool.temporal_norm(video_token))
            self.record(f"pooling.{i}.video_token", video_token)
            self.record(f"pooling.{i}.frame_tokens", frame_tokens)
        return self.norm(video_token + self.class_linear(taps[-1][:, :, 0].mean(dim=1)))


def channels_last(x: Tensor) -> Tensor:
    """[B, C, F, rows, columns] -> [B, F, rows, columns, C]."""
    return x.permute(0, 2, 3, 4, 1)


def temporal_block(block: TemporalBlock, x: Tensor) -> Tensor:
    """[B, C, F, rows, columns] -> the same."""
    y = block.norm(channels_last(x)).permute(0, 4, 1, 2, 3)
    return block.act(x + block.conv_space(block.act(block.conv_time(y))))


def to_integration(layer: Layer, x: Tensor) -> Tensor:
    """Dense map [B, C, F, rows, columns] -> tokens [B, T, 1 + P, D], the class token in row 0."""
    sent = layer.to_integration(x).flatten(3).permute(0, 2, 3, 1)  # [B, T, P, D]
    rows = layer.class_token.transpose(1, 2).expand(len(sent), -1, -1, -1)
    return torch.cat([rows, sent], dim=2)


def to_temporal(layer: Layer, m: Tensor, x: Tensor) -> Tensor:
    """Tokens m [B, T, 1 + P, D] -> what is added to the dense map x, every sparse frame repeated."""
    sent = layer.to_temporal(m[:, :, 1:]).permute(0, 3, 1, 2)  # [B, C, T, P]
    sent = sent.repeat_interleave(x.shape[2] // m.shape[1], dim=2)
    return sent.reshape(x.shape)


def integration(part: Integration, u: Tensor) -> Tensor:
    """[B, T, L, D] -> the same."""
    narrow = part.temporal_mlp
    columns = part.temporal_norm(u).permute(0, 3, 1, 2)[..., None]  # [B, D, T, L, 1]
    columns = narrow.fc2(narrow.act(narrow.conv(narrow.fc1(columns))))
    return part.mlp(part.norm(u)) + columns[..., 0].permute(0, 2, 3, 1)


def pool_attention(attention: PoolAttention, query: Tensor, tokens: Tensor) -> Tensor:
    """query [N, D], tokens [N, S, D], neither normalised -> [N, D]."""
    weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    tokens = attention.norm(tokens)
    q = F.linear(attention.norm(query), weights[0], biases[0]).unflatten(-1, (attention.heads, -1))  # [N, h, d]
    k = F.linear(tokens, weights[1], biases[1]).unflatten(-1, (attention.heads, -1))  # [N, S, h, d]
    v = F.linear(tokens, weights[2], biases[2]).unflatten(-1, (attention.heads, -1))
    shares = (torch.einsum("nhd,nshd->nhs", q, k) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return attention.proj(torch.einsum("nhs,nshd->nhd", shares, v).flatten(1))
