"""Steps with gradients of their own beside their formulas, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from muybridge.methods.fused import add_to_tokens, frame_sum, mix, stretched_products


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def same(found, wanted, leaves):
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(out, leaves, grad) for out in (found, wanted))
    for here, there in zip(ours, theirs, strict=True):
        torch.testing.assert_close(here, there)


def test_mixing_equals_attention():
    torch.manual_seed(0)
    asked, tokens = rand(2, 3, 6), rand(2, 9, 6)
    same(mix(asked, tokens), F.scaled_dot_product_attention(asked, tokens, tokens, scale=1.0), [asked, tokens])
    with torch.no_grad():
        torch.testing.assert_close(mix(asked, tokens), F.scaled_dot_product_attention(asked, tokens, tokens, scale=1.0))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("match", [True, False])
def test_the_sum_of_neighbours(frames, position, match):
    torch.manual_seed(0)
    x = torch.randn(2, frames, 13, 6, dtype=torch.float64)
    weight, bias = rand(6, 1, 3), rand(6)
    positions = rand(frames, 6) if position else None
    added = rand(3, 2, frames, 4, 6) if match else None  # 3 rows of 4 patches behind one prefix token
    columns = x.permute(0, 2, 3, 1).flatten(0, 1)
    wanted = x + F.conv1d(columns, weight, bias, padding=1, groups=6).unflatten(0, (2, 13)).permute(0, 3, 1, 2)
    if positions is not None:
        wanted = wanted + positions[:, None]
    if added is not None:
        wanted = wanted + F.pad(added.permute(1, 2, 0, 3, 4).flatten(2, 3), (0, 0, 1, 0))
    leaves = [tensor for tensor in (weight, bias, positions, added) if tensor is not None]
    same(frame_sum(x, weight, bias, positions, added, 1), wanted, leaves)
    with torch.no_grad():
        torch.testing.assert_close(frame_sum(x, weight, bias, positions, added, 1), wanted)


def test_products_with_stretches_of_a_table():
    torch.manual_seed(0)
    before, after = torch.rand(2, 3, 5, 7, dtype=torch.float64)  # 3 rows, 5 patches, stretches of 7
    previous, following = rand(15, 6), rand(15, 6)  # 7 entries from 0, from 4 and from 8 on
    wanted = torch.stack(
        [before[r] @ previous[4 * r : 4 * r + 7] + after[r] @ following[4 * r : 4 * r + 7] for r in range(3)]
    )
    same(stretched_products(before, after, previous, following, 4), wanted, [previous, following])
    with torch.no_grad():
        torch.testing.assert_close(stretched_products(before, after, previous, following, 4), wanted)


def test_all_of_it_in_bf16():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 13, 6), torch.randn(6, 1, 3).requires_grad_(), torch.randn(6).requires_grad_()
    tables = torch.randn(2, 15, 6).requires_grad_()
    asked = torch.randn(2, 3, 6).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        products = stretched_products(*torch.rand(2, 3, 32, 7), *tables, 4)
        tokens = frame_sum(x, weight, bias, None, products.view(3, 2, 4, 4, 6), 1)
        mixed = mix(asked, tokens.flatten(1, 2))
    mixed.sum().backward()
    for leaf in (weight, bias, tables, asked):
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.any()
        assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_sums_for_some_tokens(first, second, shared):
    torch.manual_seed(0)
    x, patches = rand(2, 3, first + 4, 6), rand(2, 3, 4, 6)
    y = rand(2, 3, first + 4, 6) if second else None
    prefix = rand(1 if shared else 2, 3, first, 6) if first else None
    wanted = x + F.pad(patches, (0, 0, first, 0))
    if y is not None:
        wanted = wanted + y
    if prefix is not None:
        wanted = wanted + F.pad(prefix.expand(2, -1, -1, -1), (0, 0, 0, 4))
    leaves = [tensor for tensor in (x, y, patches, prefix) if tensor is not None]
    same(add_to_tokens(x, y, patches, prefix), wanted, leaves)
