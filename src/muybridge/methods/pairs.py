"""Steps of the alignment (`methods/alignment.py`) whose own gradients keep less for the way back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def normed_convolution(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
    """conv(relu(norm(x))) in training, x [N, C, G, G'] -> [N, C', G, G'], for a convolution that keeps the size.

    The running statistics follow the batch as `norm` itself would have it.
    """
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
    return apply_step(_NormedConvolution, x, norm.weight, norm.bias, conv.weight, conv.bias, statistics)


def linear_over_time(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight [x of the frame before, x, x of the frame after] + bias, zeros outside.

    Args:
        x: [B, T, P, C].
        weight: [C', 3 C].
        bias: [C'].

    Returns:
        [B, T, P, C'].
    """
    if torch.is_grad_enabled() and weight.requires_grad and one_precision(x):
        return apply_step(_LinearOverTime, x, weight, bias)
    return F.linear(beside_each_other(x), weight, bias)


def beside_each_other(x: Tensor) -> Tensor:
    """[B, T, P, C] -> [B, T, P, 3 C]: the frame before, the frame, the frame after."""
    padded = F.pad(x, (0, 0, 0, 0, 1, 1))
    return torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=-1)


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
        maps = of_pairs.permute(0, 2, 3, 1).flatten(1, 2)
        maps = maps.unflatten(0, (f.shape[0], f.shape[1] - 1))  # [B, T - 1, P, 2 D]
        earlier, later = maps.chunk(2, dim=-1)
        out = torch.empty_like(f)
        out[:, :, : ctx.prefix] = 0
        patches = out[:, :, ctx.prefix :]
        patches[:, :-1], patches[:, -1] = earlier, later[:, -1]
        patches[:, 1:-1] += later[:, :-1]
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


class _NormedConvolution(torch.autograd.Function):
    """conv(relu(norm(x))): x is kept, and what the convolution reads is computed again.

    17 MB less for the first of each of ILA's layers, 3 MB for the second (ViT-B/16, 2 videos of 8 frames).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factor: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        statistics: tuple[Tensor | None, Tensor | None, float, float],
    ) -> Tensor:
        mean, variance, momentum, eps = statistics
        y, mean, inverse = torch.native_batch_norm(x, factor, shift, mean, variance, True, momentum, eps)
        ctx.save_for_backward(x, factor, shift, weight, mean, inverse)
        ctx.eps, ctx.biased = eps, bias is not None
        return convolved(y.relu_(), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, factor, shift, weight, mean, inverse = ctx.saved_tensors
        scale = (factor * inverse)[:, None, None]
        y = torch.addcmul(shift[:, None, None] - mean[:, None, None] * scale, x, scale).relu_()
        of_y, of_weight, of_bias = _convolved_back(grads[0], y, weight, ctx.biased)
        of_y = torch.ops.aten.threshold_backward(of_y, y, 0)
        of_x, of_factor, of_shift = torch.ops.aten.native_batch_norm_backward(
            of_y, x, factor, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        return of_x, of_factor, of_shift, of_weight, of_bias, None


def convolved(y: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """The convolution that keeps the size: y [N, C, G, G'], weight [C', C / groups, k, k] -> [N, C', G, G']."""
    if weight.shape[-1] == 1 and groups == 1:
        # Fast: a matrix product of maps that have their channels last: 0.86 of the convolution's time for a step.
        return F.linear(y.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(y, weight, bias, padding=weight.shape[-1] // 2, groups=groups)


def _convolved_back(grad: Tensor, y: Tensor, weight: Tensor, biased: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `convolved` by y, weight and bias."""
    if weight.shape[-1] == 1:
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        of_y = (rows @ weight.flatten(1)).view(*grad.permute(0, 2, 3, 1).shape[:3], -1).permute(0, 3, 1, 2)
        of_weight = rows.T @ y.permute(0, 2, 3, 1).flatten(0, 2)
        return of_y, of_weight.view(weight.shape), rows.sum(dim=0) if biased else None
    padding = [weight.shape[-1] // 2] * 2
    found: tuple[Tensor, Tensor, Tensor | None] = torch.ops.aten.convolution_backward(
        grad, y, weight, [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, biased]
    )
    return found


class _LinearOverTime(torch.autograd.Function):
    """W [x before, x, x after] + b: x is kept, not the three beside each other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(beside_each_other(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (x, weight), rows = ctx.saved_tensors, grads[0].flatten(0, -2)
        before, out, after = (grads[0] @ part for part in weight.chunk(3, dim=1))
        out[:, :-1] += before[:, 1:]
        out[:, 1:] += after[:, :-1]
        return out, rows.T @ beside_each_other(x).flatten(0, -2), rows.sum(dim=0)
