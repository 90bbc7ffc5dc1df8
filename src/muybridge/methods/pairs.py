"""Steps of the alignment (`methods/alignment.py`) whose own gradients keep less for the way back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from muybridge.backbones.steps import apply_step, one_precision


def pair_convolution(
    f: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int], prefix: int, groups: int
) -> Tensor:
    """The convolution of neighbouring frames' patches, which keeps their size.

    Args:
        f: tokens [B, T, L, D].
        weight: [C', 2 D / groups, k, k].
        bias: [C'].
        grid: (rows, columns) of patches.
        prefix: tokens before the patches.
        groups: of the convolution.

    Returns:
        [B * (T - 1), C', rows, columns].
    """
    return apply_step(_PairConvolution, f, weight, bias, grid, prefix, groups)


def weighted_linear(f: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """matrix (weights * f) + bias: f [B, T, L, D], weights [B, T, L, 1], matrix [D', D] -> [B, T, L, D']."""
    if one_precision(f):
        return apply_step(_WeightedLinear, f, weights, matrix, bias)
    return F.linear(f * weights, matrix, bias)


def neighbours(f: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Tokens [B, T, L, D] -> patches of pairs [B * (T - 1), 2 D, rows, columns], the earlier frame's channels first."""
    pairs = torch.cat([f[:, :-1, prefix:], f[:, 1:, prefix:]], dim=-1)  # [B, T - 1, P, 2 D]
    # Fast: tokens are maps with the channels last; convolutions read them so, without a copy.
    return pairs.flatten(0, 1).unflatten(1, grid).permute(0, 3, 1, 2)


class _PairConvolution(torch.autograd.Function):
    """Convolution of neighbouring frames' patches side by side, [B, T, L, D] -> [B * (T - 1), C', rows, columns].

    Fast: the tokens are kept, not the maps of pairs (twice as large), and their gradient is written into one map;
    slices would make a map of zeros each, and a sum.
    """

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int], prefix: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(f, weight)
        ctx.grid, ctx.prefix, ctx.groups, ctx.biased = grid, prefix, groups, bias is not None
        return F.conv2d(neighbours(f, grid, prefix), weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (f, weight), grad = ctx.saved_tensors, grads[0]
        padding = [weight.shape[-1] // 2] * 2
        pairs, again = neighbours(f, ctx.grid, ctx.prefix).to(grad.dtype), weight.to(grad.dtype)
        of_pairs, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad,
            pairs,
            again,
            [weight.shape[0]],
            [1, 1],
            padding,
            [1, 1],
            False,
            [0, 0],
            ctx.groups,
            [True, True, ctx.biased],
        )
        out = torch.zeros_like(f)
        patches = out[:, :, ctx.prefix :]
        maps = of_pairs.permute(0, 2, 3, 1).flatten(1, 2)
        maps = maps.unflatten(0, (f.shape[0], f.shape[1] - 1))  # [B, T - 1, P, 2 D]
        earlier, later = maps.chunk(2, dim=-1)
        patches[:, :-1] = earlier
        patches[:, 1:] += later
        return out, of_weight, of_bias, None, None, None


class _WeightedLinear(torch.autograd.Function):
    """W (w f) + b: f [B, T, L, D], w [B, T, L, 1] -> [B, T, L, D'].

    Fast: f is kept, which others keep too, and not its product with w.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor, weights: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(f, weights, matrix)
        return F.linear(f * weights, matrix, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (f, weights, matrix), grad = ctx.saved_tensors, grads[0]
        rows = grad.flatten(0, -2)
        of_product = grad @ matrix
        of_weights = torch.linalg.vecdot(of_product, f).unsqueeze(-1)
        of_matrix = rows.T @ (f * weights).flatten(0, -2)
        return of_product.mul_(weights), of_weights, of_matrix, rows.sum(dim=0)
