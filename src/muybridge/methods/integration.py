"""What DiST puts beside the backbone: temporal encoder, integration branch, attention pooling (see `dist.py`).

Tokens and maps are channels last throughout: [B, T, L, D] and [B, F, rows, columns, C]. Parameters have the shapes of
the published code's 3-D convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from muybridge.backbones.activation import QuickGELU
from muybridge.backbones.steps import apply_step, one_precision
from muybridge.backbones.vit import MLP, patches_of
from muybridge.methods.base import fold_frames
from muybridge.methods.fused import mix

NORM_EPS = 1e-5


class TemporalBlock(nn.Module):
    """x -> act(x + conv_space(act(conv_time(norm(x))))), zeros outside, channels last."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.conv_time = nn.Conv3d(width, hidden, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.conv_space = nn.Conv3d(hidden, width, (1, 3, 3), padding=(0, 1, 1))
        self.act = QuickGELU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, rows, columns, C] -> the same."""
        y = self.act(convolve_time(self.norm(x), self.conv_time))
        # Fast: frames folded into the batch, in memory already channels last: no copy on either side.
        frames = y.flatten(0, 1).permute(0, 3, 1, 2)  # [B * F, C', rows, columns]
        y = F.conv2d(frames, self.conv_space.weight[:, :, 0], self.conv_space.bias, padding=1)
        return self.act(x + y.permute(0, 2, 3, 1).reshape(x.shape))


class TemporalMLP(nn.Module):
    """Down to few channels, a convolution over time, activation, and up again; parameters only, see `Integration`."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(width, hidden, 1)
        self.conv = nn.Conv3d(hidden, hidden, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.act = QuickGELU()
        self.fc2 = nn.Conv3d(hidden, width, 1)


class Integration(nn.Module):
    """u -> mlp(norm(u)) + temporal_mlp(norm'(u)), every token by itself but for the convolution over time."""

    def __init__(self, width: int, hidden: int, temporal_hidden: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, hidden, "quick_gelu")
        self.temporal_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.temporal_mlp = TemporalMLP(width, temporal_hidden, kernel)

    def forward(self, u: Tensor) -> Tensor:
        """[B, T, L, D] -> the same."""
        # Fast: both norms have the same statistics, so u is normalised once, and both first maps, with the norms'
        # factors and shifts folded into them, are one product (two activations of u's size less): a step in 0.6 of the
        # time.
        fc1, narrow = self.mlp.fc1, self.temporal_mlp.fc1
        down = narrow.weight.flatten(1)
        weight = torch.cat([fc1.weight * self.norm.weight, down * self.temporal_norm.weight])
        bias = torch.cat([fc1.weight @ self.norm.bias + bias_of(fc1), down @ self.temporal_norm.bias + bias_of(narrow)])
        hidden = normed_linear(u, weight, bias)
        own, temporal = hidden.split([fc1.out_features, narrow.out_channels], dim=-1)
        temporal = self.temporal_mlp.act(convolve_time(temporal, self.temporal_mlp.conv))
        up = self.temporal_mlp.fc2
        assert isinstance(self.mlp.act, QuickGELU)
        return self.mlp.act.into(own, self.mlp.fc2) + F.linear(temporal, up.weight.flatten(1), up.bias)


class PoolAttention(nn.Module):
    """One query asks many tokens; one norm serves both: [N, D], [N, S, D] -> [N, D], without the residual.

    Args:
        width: D.
        heads: h.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """
        Args:
            query: [N, D], not normalised.
            tokens: [N, S, D], normalised already, but without the norm's factor and shift.
        """
        q_weight, k_weight, v_weight = self.qkv.weight.chunk(3)
        q_bias, _, v_bias = self.qkv.bias.chunk(3)
        # Fast: with one query, q . (W_k y) = (W_k^T q) . y and sum_s a_s (W_v y_s) = W_v (sum_s a_s y_s), y = g z + b:
        # projections of all S tokens become products with h vectors (0.47 G multiply-adds a layer less, ViT-B/16 at
        # 8 + 16 frames), and all pooling layers share one z. What the shift b and the key bias add is the same in all
        # scores of a head and drops out of the softmax; their gradient through it is zero.
        q = F.linear(self.norm(query), q_weight, q_bias).unflatten(-1, (self.heads, -1))  # [N, h, d]
        q = q / math.sqrt(q.shape[-1])
        asked = torch.einsum("nhd,hdw->nhw", q, k_weight.unflatten(0, (self.heads, -1))) * self.norm.weight
        mixed = mix(asked, tokens) * self.norm.weight + self.norm.bias  # [N, h, D]
        out = torch.einsum("nhw,hdw->nhd", mixed, v_weight.unflatten(0, (self.heads, -1))).flatten(1) + v_bias
        return self.proj(out)


class PoolingLayer(nn.Module):
    """A token per frame asks the frame's tokens, then the video's token asks those."""

    def __init__(self, width: int, heads: int, frames: int) -> None:
        super().__init__()
        self.spatial = PoolAttention(width, heads)
        self.spatial_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.spatial_mlp = MLP(width, 4 * width, "quick_gelu")
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.temporal = PoolAttention(width, heads)
        self.temporal_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.temporal_mlp = MLP(width, 4 * width, "quick_gelu")

    def forward(self, video: Tensor, frames: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Video token [B, D], frame tokens [B, T, D], normalised tokens z [B, T, L, D] -> the first two, new."""
        f = frames.flatten(0, 1)
        f = f + self.spatial(f, z.flatten(0, 1))
        f = f + self.spatial_mlp(self.spatial_norm(f))
        frames = f.reshape(frames.shape)
        placed = F.layer_norm(frames + self.temporal_embedding, frames.shape[-1:], eps=NORM_EPS)
        video = video + self.temporal(video, placed)
        return video + self.temporal_mlp(self.temporal_norm(video)), frames


def embed_dense(video: Tensor, stem: nn.Conv3d) -> Tensor:
    """The temporal encoder's first convolution: [B, F, 3, H, W] -> [B, F, rows, columns, C]."""
    # Fast: a frame's patches are read once for all taps of the kernel, and the results, far smaller, are shifted: a
    # step in 0.7 of the time.
    weight = stem.weight.permute(2, 0, 1, 3, 4)  # [k, C, 3, height, width]
    patch = weight.shape[-2:]
    patches = patches_of(fold_frames(video), patch).unflatten(1, (-1, video.shape[-1] // patch[1]))
    taps = F.linear(patches, weight.flatten(2).flatten(0, 1)).unflatten(0, video.shape[:2])
    taps = taps.unflatten(-1, weight.shape[:2])  # [B, F, rows, columns, k, C]
    return shifted_sum(taps, bias_of(stem))


def convolve_time(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """What a convolution over time alone gives on channels-last tokens: [B, T, .., C] -> [B, T, .., C']."""
    # Fast: one matrix product for all taps of the kernel, no copy to channels first and back: 0.65 of the time.
    kernel = conv.weight[..., 0, 0]  # [C', C, k]
    taps = F.linear(x, kernel.permute(2, 0, 1).flatten(0, 1)).unflatten(-1, (kernel.shape[2], -1))
    return shifted_sum(taps, bias_of(conv))


def normed_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W z + b, z being x normalised over its channels without factor or shift: x [.., D], W [D', D] -> [.., D']."""
    if torch.is_grad_enabled() and weight.requires_grad and one_precision(x):
        return apply_step(_NormedLinear, x, weight, bias)
    return F.linear(F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), weight, bias)


class _NormedLinear(torch.autograd.Function):
    """W z + b: x is kept and z computed again, 5 MB less for each layer of the integration (ViT-B/16, 16 images)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z, mean, deviation = torch.native_layer_norm(x, x.shape[-1:], None, None, NORM_EPS)
        ctx.save_for_backward(x, mean, deviation, weight)
        return F.linear(z, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (x, mean, deviation, weight), rows = ctx.saved_tensors, grads[0].flatten(0, -2)
        width = x.shape[-1:]
        z = torch.native_layer_norm(x, width, None, None, NORM_EPS)[0]
        of_weight = rows.T @ z.flatten(0, -2)
        del z
        norm_backward = torch.ops.aten.native_layer_norm_backward
        of_x = norm_backward(grads[0] @ weight, x, width, mean, deviation, None, None, [True, False, False])[0]
        return of_x, of_weight, rows.sum(dim=0)


def shifted_sum(taps: Tensor, bias: Tensor) -> Tensor:
    """out[t] = bias + sum_s taps[t + s - k // 2, .., s, :], zeros outside: [B, T, .., k, C], [C] -> [B, T, .., C]."""
    if torch.is_grad_enabled() and taps.requires_grad and not torch.compiler.is_compiling():
        return apply_step(_ShiftedSum, taps, bias)
    return _shifted_sum(taps, bias)


def _shifted_sum(taps: Tensor, bias: Tensor) -> Tensor:
    frames, kernel = taps.shape[1], taps.shape[-2]
    out = taps[..., kernel // 2, :] + bias
    for s in range(kernel):
        to, of = _overlap(frames, s - kernel // 2)
        if s != kernel // 2:
            out[:, to] += taps[:, of, ..., s, :]
    return out


def _overlap(frames: int, shift: int) -> tuple[slice, slice]:
    """Which frames t have a frame t + shift, and which those are."""
    first, last = max(0, -shift), max(0, frames - max(0, shift))
    return slice(first, max(first, last)), slice(first + shift, max(first, last) + shift)


class _ShiftedSum(torch.autograd.Function):
    """Fast: the taps' gradient is written once; autograd makes a map of zeros for every shift: 0.2 of a step's time."""

    @staticmethod
    def forward(ctx: Any, taps: Tensor, bias: Tensor) -> Tensor:
        ctx.kernel = taps.shape[-2]
        return _shifted_sum(taps, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad, kernel = grads[0], ctx.kernel
        frames = grad.shape[1]
        out = grad.new_empty(*grad.shape[:-1], kernel, grad.shape[-1])
        for s in range(kernel):
            to, of = _overlap(frames, s - kernel // 2)
            out[:, of, ..., s, :] = grad[:, to]
            out[:, : of.start, ..., s, :] = 0
            out[:, of.stop :, ..., s, :] = 0
        return out, grad.flatten(0, -2).sum(dim=0)


def bias_of(layer: nn.Linear | nn.Conv3d) -> Tensor:
    """The bias, which every map here has."""
    assert layer.bias is not None
    return layer.bias
