"""The activations of image and text transformers; CLIP's is ours, as torch has none of its own for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from muybridge.backbones.steps import apply_step, one_precision
from muybridge.errors import unknown

SLOPE = 1.702
# Elements, a thread: what the passes over one stretch read and write, a megabyte in fp32, stays in a core's cache.
STRETCH = 1 << 17


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), with which OpenAI's CLIP was trained.

    Without gradients x itself is changed and returned: it is meant to stand right behind a linear map.
    """

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.is_grad_enabled() and x.requires_grad
        if torch.compiler.is_compiling() or (graph and not _in_rows(x)):
            return F.silu(SLOPE * x) * (1 / SLOPE)
        if graph:
            return apply_step(_QuickGELU, x)
        # Fast: nothing new is allocated, and three passes run in the cache: 0.34 to 0.4 of the time of one new tensor
        # and three passes over all of it, 2 to 6 % of ViT-B/16 (batches of 8 and 16 images).
        for part in _stretches(x) if _in_rows(x) else (x,):
            F.silu(part.mul_(SLOPE), inplace=True).mul_(1 / SLOPE)
        return x

    def into(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """`linear(self(x))`."""
        graph = torch.is_grad_enabled() and x.requires_grad
        if graph and one_precision(x) and _in_rows(x) and type(linear) is nn.Linear:
            return apply_step(_ActivatedLinear, x, linear.weight, linear.bias)
        return linear(self(x))


class _QuickGELU(torch.autograd.Function):
    """The activation with a gradient: x is kept, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _quick_gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        out = torch.empty_like(grad)
        _times_slope(grad, ctx.saved_tensors[0], out)
        return out


class _ActivatedLinear(torch.autograd.Function):
    """W act(x) + b: x [.., H], W [D, H], b [D] -> [.., D].

    x alone is kept, and its activation computed again where W is trained: 39 MB less for each such block of a ViT-B/16
    that reads 16 images, for 4 % more time of these two steps. x's gradient is made in one place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(_quick_gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), rows = ctx.saved_tensors, grads[0].flatten(0, -2)
        _, weighs, biased = ctx.needs_input_grad
        of_weight = rows.T @ _quick_gelu(x).flatten(0, -2) if weighs else None
        out = grads[0] @ weight
        _times_slope(out, x, out)
        return out, of_weight, rows.sum(dim=0) if biased else None


def _quick_gelu(x: Tensor) -> Tensor:
    """The activation as a new tensor."""
    out = torch.empty_like(x)
    for part, here in zip(_stretches(x), _stretches(out), strict=True):
        torch.mul(part, SLOPE, out=here)
        F.silu(here, inplace=True).mul_(1 / SLOPE)
    return out


def _times_slope(grad: Tensor, x: Tensor, out: Tensor) -> None:
    """out = grad times the activation's slope at x; d/dx x sigmoid(u) = silu'(u), u = 1.702 x."""
    for wanted, part, here in zip(_stretches(grad), _stretches(x), _stretches(out), strict=True):
        torch.ops.aten.silu_backward.grad_input(wanted, part * SLOPE, grad_input=here)


def _in_rows(x: Tensor) -> bool:
    """Whether it lies in a processor's memory row by row, perhaps with something between the rows."""
    if x.device.type != "cpu" or x.ndim < 2 or x.stride(-1) != 1:
        return False
    return all(x.stride(i) == x.stride(i + 1) * x.shape[i + 1] for i in range(x.ndim - 2))


def _stretches(x: Tensor) -> tuple[Tensor, ...]:
    """Views of some rows each."""
    rows = x.view(-1, x.shape[-1])
    return rows.split(max(1, STRETCH * torch.get_num_threads() // max(1, x.shape[-1])))


def activation(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        UnknownName: there is none of that name.
    """
    makers: dict[str, Callable[[], nn.Module]] = {
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
        "quick_gelu": QuickGELU,
    }
    if name not in makers:
        raise unknown("activation", name, makers)
    return makers[name]()
