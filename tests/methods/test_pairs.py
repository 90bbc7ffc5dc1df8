"""ILA's steps with gradients of their own beside their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.methods.pairs import (
    beside_each_other,
    linear_over_time,
    normed_convolution,
    pair_convolution,
    weighted_linear,
)

GRID = (4, 5)
WIDTH = 6


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def compare(ours: Tensor, plain: Tensor, inputs: list[Tensor]) -> None:
    """Values, and the gradients of all inputs for one random gradient of the result."""
    torch.testing.assert_close(ours, plain)
    grad = random(*plain.shape, seed=9).detach()
    found, wanted = (torch.autograd.grad(out, inputs, grad, retain_graph=True) for out in (ours, plain))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("out", "groups"), [(2 * WIDTH, 2 * WIDTH), (8, 1)])
def test_pair_convolution(prefix: int, out: int, groups: int) -> None:
    f = random(2, 3, prefix + 20, WIDTH, seed=0)
    weight, bias = random(out, 2 * WIDTH // groups, 3, 3, seed=1), random(out, seed=2)
    maps = f[:, :, prefix:].transpose(2, 3).unflatten(3, GRID)  # [B, T, D, rows, columns]
    pairs = torch.cat([maps[:, :-1], maps[:, 1:]], dim=2).flatten(0, 1)
    plain = F.conv2d(pairs, weight, bias, padding=1, groups=groups)
    compare(pair_convolution(f, weight, bias, GRID, prefix, groups), plain, [f, weight, bias])


def test_pair_convolution_under_autocast_takes_its_gradients_in_bf16() -> None:
    f = random(2, 3, 21, WIDTH, seed=0).detach().float().requires_grad_()
    weight = random(8, 2 * WIDTH, 3, 3, seed=1).detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = pair_convolution(f, weight, None, GRID, 1, 1)
    assert out.dtype == torch.bfloat16
    of_f, of_weight = torch.autograd.grad(out.float().square().sum(), [f, weight])
    exact = pair_convolution(f, weight, None, GRID, 1, 1)
    wanted = torch.autograd.grad(exact.square().sum(), [f, weight])
    for a, b in zip((of_f, of_weight), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.03 * b.abs().max().item())


def test_pair_convolution_of_tokens_without_a_gradient() -> None:
    f, weight = random(2, 3, 21, WIDTH, seed=0).detach(), random(8, 2 * WIDTH, 3, 3, seed=1)
    again = f.clone().requires_grad_()
    ours, plain = (pair_convolution(x, weight, None, GRID, 1, 1) for x in (f, again))
    compare(ours, plain, [weight])


def test_weighted_linear_under_autocast_is_its_formula() -> None:
    given = [
        random(*shape, seed=i).detach().float()
        for i, shape in enumerate([(2, 3, 7, WIDTH), (2, 3, 7, 1), (4, WIDTH), (4,)])
    ]
    f, weights, matrix, bias = (x.requires_grad_() for x in given)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = weighted_linear(f, weights, matrix, bias), F.linear(f * weights, matrix, bias)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, plain)


def test_weighted_linear() -> None:
    f, weights = random(2, 3, 7, WIDTH, seed=0), random(2, 3, 7, 1, seed=1)
    matrix, bias = random(4, WIDTH, seed=2), random(4, seed=3)
    compare(weighted_linear(f, weights, matrix, bias), F.linear(f * weights, matrix, bias), [f, weights, matrix, bias])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("kernel", "bias"), [(1, True), (1, False), (3, True), (3, False)])
def test_normed_convolution(kernel: int, bias: bool, channels_last: bool) -> None:
    torch.manual_seed(0)
    ours, plain = (torch.nn.BatchNorm2d(WIDTH).double() for _ in range(2))
    for norm in (ours, plain):
        norm.weight.data, norm.bias.data = random(WIDTH, seed=1).detach(), random(WIDTH, seed=2).detach()
    conv = torch.nn.Conv2d(WIDTH, 5, kernel, padding=kernel // 2, bias=bias).double()
    x = random(3, WIDTH, *GRID, seed=0).detach()
    x = (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        found = normed_convolution(x, ours, conv)
    wanted = conv(F.relu(plain(x)))
    torch.testing.assert_close(found, wanted)
    grad = random(*wanted.shape, seed=9).detach()
    mine = torch.autograd.grad(found, [x, ours.weight, ours.bias, *conv.parameters()], grad)
    theirs = torch.autograd.grad(wanted, [x, plain.weight, plain.bias, *conv.parameters()], grad)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)
    assert {t.data_ptr() for t in kept if t.shape == x.shape} == {x.data_ptr()}


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_linear_over_time(frames: int) -> None:
    x, weight, bias = random(2, frames, 7, WIDTH, seed=0), random(5, 3 * WIDTH, seed=1), random(5, seed=2)
    kernel = weight.unflatten(1, (3, WIDTH)).transpose(1, 2)  # [C', C, 3]
    plain = F.conv1d(x.permute(0, 2, 3, 1).flatten(0, 1), kernel, bias, padding=1)
    plain = plain.unflatten(0, (2, 7)).permute(0, 3, 1, 2)
    compare(linear_over_time(x, weight, bias), plain, [x, weight, bias])
    torch.testing.assert_close(F.linear(beside_each_other(x), weight, bias), plain)
