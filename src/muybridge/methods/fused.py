"""Steps of methods as one operation of autograd each, which keep less and pass memory fewer times.

Each stands beside its formula in the tests, values and gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from muybridge.backbones.steps import apply_step, one_precision


def mix(asked: Tensor, tokens: Tensor) -> Tensor:
    """softmax(asked tokens^T) tokens: what each of h vectors gathers of S tokens, [B, h, D], [B, S, D] -> [B, h, D]."""
    if torch.is_grad_enabled() and tokens.requires_grad and one_precision(tokens):
        return apply_step(_Mix, asked, tokens)
    return (asked @ tokens.transpose(1, 2)).softmax(dim=-1) @ tokens


class _Mix(torch.autograd.Function):
    """Fast: the tokens' gradient is one product over 2 h vectors, not two and a sum: 0.53 of a step's time."""

    @staticmethod
    def forward(ctx: Any, asked: Tensor, tokens: Tensor) -> Tensor:
        weights = (asked @ tokens.transpose(1, 2)).softmax(dim=-1)
        ctx.save_for_backward(asked, tokens, weights)
        return weights @ tokens

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        asked, tokens, weights = ctx.saved_tensors
        wanted = grads[0] @ tokens.transpose(1, 2)  # [B, h, S]
        scores = torch.ops.aten._softmax_backward_data(wanted, weights, -1, weights.dtype)
        joined = torch.cat([scores, weights], dim=1).transpose(1, 2) @ torch.cat([asked, grads[0]], dim=1)
        return scores @ tokens, joined


def stretched_products(before: Tensor, after: Tensor, previous: Tensor, following: Tensor, stride: int) -> Tensor:
    """What each row of patches reads of two tables, of which it reads a stretch: the r-th from `stride` r on.

    Args:
        before: [R, N, S], weights of the first table's entries.
        after: [R, N, S], of the second's.
        previous: the first table, [(R - 1) * stride + S, D].
        following: the second, of the same shape.
        stride: entries between the stretches of two rows.

    Returns:
        [R, N, D], the sum of both.
    """
    trained = torch.is_grad_enabled() and (previous.requires_grad or following.requires_grad)
    if trained and not before.requires_grad and not torch.compiler.is_compiling():
        return apply_step(_StretchedProducts, before, after, previous, following, stride)
    return _stretched_products(before, after, previous, following, stride)


def _stretched_products(before: Tensor, after: Tensor, previous: Tensor, following: Tensor, stride: int) -> Tensor:
    first, second = (
        table.unfold(0, before.shape[-1], stride).transpose(1, 2) for table in (previous, following)
    )  # [R, S, D], views
    return torch.baddbmm(before @ first, after, second)


class _StretchedProducts(torch.autograd.Function):
    """Fast: gradients of stretches are summed where they lie in the table: 0.85 of a step's time."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, previous: Tensor, following: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(before, after)
        ctx.stride, ctx.table = stride, previous.shape
        return _stretched_products(before, after, previous, following, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tables = []
        for weights in ctx.saved_tensors:
            table = grads[0].new_zeros(ctx.table)
            for r, (row, grad) in enumerate(zip(weights.to(table.dtype), grads[0], strict=True)):
                stretch = table[r * ctx.stride : r * ctx.stride + row.shape[1]]
                torch.addmm(stretch, row.T, grad, out=stretch)
            tables.append(table)
        return None, None, *tables, None


def frame_sum(
    x: Tensor, weight: Tensor, bias: Tensor, position: Tensor | None, added: Tensor | None, prefix: int
) -> Tensor:
    """x + conv(x) + position + added, for x that needs no gradient.

    Args:
        x: [B, T, L, D].
        weight: of the depthwise convolution over time, [D, 1, 3], zeros outside.
        bias: its bias, [D].
        position: [T, D], a vector a frame.
        added: [rows, B, T, columns, D], to the patches, which are x's last rows * columns tokens.
        prefix: tokens before the patches.

    Returns:
        [B, T, L, D].
    """
    parameters = [tensor for tensor in (weight, bias, position, added) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in parameters):
        return apply_step(_FrameSum, x, weight, bias, position, added, prefix)
    return _frame_sum(x, weight, bias, position, added, prefix)


def _frame_sum(
    x: Tensor, weight: Tensor, bias: Tensor, position: Tensor | None, added: Tensor | None, prefix: int
) -> Tensor:
    # Fast: a frame at a time, whose tokens (0.6 MB in ViT-B/16) stay in a core's cache for all of the sum: half the
    # time.
    before, here, after = weight[:, 0].unbind(-1)  # each [D]
    here, out = 1 + here, torch.empty_like(x)
    for b, t in _frames(x):
        y = out[b, t]
        torch.addcmul(bias, x[b, t], here, out=y)
        if t > 0:
            y.addcmul_(x[b, t - 1], before)
        if t < x.shape[1] - 1:
            y.addcmul_(x[b, t + 1], after)
        if position is not None:
            y += position[t]
        if added is not None:
            y[prefix:].unflatten(0, (added.shape[0], -1)).add_(added[:, b, t])
    return out


class _FrameSum(torch.autograd.Function):
    """`_frame_sum` with gradients of all but x, a frame at a time too."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        position: Tensor | None,
        added: Tensor | None,
        prefix: int,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.prefix, ctx.positions = prefix, position is not None
        ctx.added = None if added is None else added.shape
        return _frame_sum(x, weight, bias, position, added, prefix)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,), grad = ctx.saved_tensors, grads[0]
        taps, by_frame = grad.new_zeros(3, x.shape[-1]), grad.new_zeros(x.shape[1], x.shape[-1])
        added = None if ctx.added is None else grad.new_empty(ctx.added)
        product = torch.empty_like(grad[0, 0])
        for b, t in _frames(x):
            g = grad[b, t]
            by_frame[t] += g.sum(dim=0)
            for tap, there in enumerate((t - 1, t, t + 1)):
                if 0 <= there < x.shape[1]:
                    taps[tap] += torch.mul(g, x[b, there], out=product).sum(dim=0)
            if added is not None:
                added[:, b, t] = g[ctx.prefix :].unflatten(0, (added.shape[0], -1))
        return None, taps.T[:, None], by_frame.sum(dim=0), by_frame if ctx.positions else None, added, None


def _frames(x: Tensor) -> Iterator[tuple[int, int]]:
    return ((b, t) for b in range(x.shape[0]) for t in range(x.shape[1]))


def add_to_tokens(x: Tensor, y: Tensor | None, patches: Tensor, prefix: Tensor | None) -> Tensor:
    """A sum of which some parts are for the patches alone, or for the tokens before them.

    Args:
        x: [B, T, L, D].
        y: [B, T, L, D], or none.
        patches: [B, T, P, D], to x's last P tokens.
        prefix: [B or 1, T, L - P, D], to the tokens before them; none: they stay as they are.

    Returns:
        [B, T, L, D].
    """
    return apply_step(_Added, x, y, patches, prefix)


class _Added(torch.autograd.Function):
    """Fast: one new tensor, and gradients that are views of the one that comes: 0.6 of a step's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, patches: Tensor, prefix: Tensor | None) -> Tensor:
        ctx.first = x.shape[2] - patches.shape[2]
        ctx.shared = prefix is not None and prefix.shape[0] != x.shape[0]
        ctx.given = y is not None, prefix is not None
        given = [tensor.dtype for tensor in (x, y, patches, prefix) if tensor is not None]
        dtype = reduce(torch.promote_types, given)
        out = x.to(dtype, copy=True) if y is None else torch.add(x, y).to(dtype)
        out[:, :, ctx.first :] += patches
        if prefix is not None:
            out[:, :, : ctx.first] += prefix
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (second, beside) = grads, ctx.given
        prefix = grad[:, :, : ctx.first] if beside else None
        if prefix is not None and ctx.shared:
            prefix = prefix.sum(dim=0, keepdim=True)
        return grad, grad if second else None, grad[:, :, ctx.first :], prefix


def adapted(
    z: Tensor, x: Tensor | None, mask: Tensor | None, first: nn.Linear, second: nn.Linear, scale: float
) -> Tensor:
    """x + z + scale * second(mask * first(z)): a linear adapter and the residual that it stands in.

    Args:
        z: [.., D].
        x: [.., D], or none.
        mask: [.., r], of the dropout, or none.
        first: D -> r.
        second: r -> D.
        scale: of the adapter.

    Returns:
        [.., D].
    """
    return apply_step(_Adapted, z, x, mask, first.weight, first.bias, second.weight, second.bias, scale)


class _Adapted(torch.autograd.Function):
    """Fast: the second product is added where the sum is made, the gradient's likewise, and the scale is put on what
    has r channels: 0.9 of a step's time, with a residual 0.85.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        x: Tensor | None,
        mask: Tensor | None,
        down: Tensor,
        down_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        scale: float,
    ) -> Tensor:
        hidden = F.linear(z, down, down_bias)
        if mask is not None:
            hidden *= mask
        ctx.save_for_backward(z, mask, hidden, down, up)
        ctx.scale, ctx.joined = scale, x is not None
        out = torch.add(z.contiguous(), up_bias, alpha=scale)
        if x is not None:
            out += x
        rows = out.view(-1, out.shape[-1])
        torch.addmm(rows, hidden.flatten(0, -2), up.T, alpha=scale, out=rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, mask, hidden, down, up = ctx.saved_tensors
        grad, rows = grads[0], grads[0].flatten(0, -2)  # [N, D]
        wanted = (rows @ up).mul_(ctx.scale)  # [N, r]
        if mask is not None:
            wanted *= mask.flatten(0, -2)
        of_z = torch.addmm(rows, wanted, down).view_as(grad)
        return (
            of_z,
            grad if ctx.joined else None,
            None,
            wanted.T @ z.flatten(0, -2),
            wanted.sum(dim=0),
            rows.T @ (ctx.scale * hidden.flatten(0, -2)),
            ctx.scale * rows.sum(dim=0),
            None,
        )
