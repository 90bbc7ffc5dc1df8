"""CLIP's activation, computed in stretches, beside its formula; patches as one product beside their convolution."""

import pytest
import torch
import torch.nn.functional as F

from muybridge.backbones import activation as module
from muybridge.backbones.activation import QuickGELU
from muybridge.backbones.vit import patches_of


def formula(x):
    return x * torch.sigmoid(1.702 * x)


def inputs():
    """Whole, cut out of something wider, with channels that are not the last axis, and a vector."""
    torch.manual_seed(0)
    return {
        "whole": torch.randn(3, 50, 16, dtype=torch.float64),
        "cut": torch.randn(3, 50, 20, dtype=torch.float64).split([16, 4], dim=-1)[0],
        "turned": torch.randn(3, 16, 50, dtype=torch.float64).transpose(1, 2),
        "vector": torch.randn(16, dtype=torch.float64),
    }


@pytest.mark.parametrize("kind", inputs())
@pytest.mark.parametrize("stretch", [40, 1 << 17])  # two rows at a time and a rest; all at once
def test_values_and_gradients(kind, stretch, monkeypatch):
    monkeypatch.setattr(module, "STRETCH", stretch)
    x = inputs()[kind]
    wanted = formula(x)
    leaf = x.detach().requires_grad_()
    found = QuickGELU()(leaf)
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(found)
    theirs = x.detach().clone().requires_grad_()
    ours = torch.autograd.grad(found, leaf, grad)
    torch.testing.assert_close(ours, torch.autograd.grad(formula(theirs), theirs, grad))
    with torch.no_grad():
        torch.testing.assert_close(QuickGELU()(x.clone()), wanted)
        torch.testing.assert_close(QuickGELU()(x), wanted)  # in place, wherever it lies


@pytest.mark.parametrize("kind", inputs())
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_into_a_linear_map(kind, bias, frozen):
    torch.manual_seed(1)
    x = inputs()[kind]
    linear = torch.nn.Linear(x.shape[-1], 5, bias=bias).double()
    linear.requires_grad_(not frozen)
    parameters = [] if frozen else list(linear.parameters())
    leaf, theirs = x.detach().requires_grad_(), x.detach().clone().requires_grad_()
    found, wanted = QuickGELU().into(leaf, linear), linear(formula(theirs))
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(found)
    ours = torch.autograd.grad(found, [leaf, *parameters], grad)
    for one, other in zip(ours, torch.autograd.grad(wanted, [theirs, *parameters], grad), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_kept_on_the_way_into_a_linear_map(frozen):
    linear, x = torch.nn.Linear(16, 5).requires_grad_(not frozen), torch.randn(9, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.data_ptr()), t)[1], lambda t: t):
        QuickGELU().into(x, linear)
    assert set(kept) <= {x.data_ptr(), linear.weight.data_ptr()}


def test_beside_the_cut_nothing_changes():
    wide = torch.randn(3, 50, 20)
    rest = wide[..., 16:].clone()
    with torch.no_grad():
        QuickGELU()(wide[..., :16])
    assert torch.equal(wide[..., 16:], rest)


def test_it_is_differentiated_in_bf16_too():
    x = torch.randn(4, 16).bfloat16().requires_grad_()
    QuickGELU()(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(32, 48), (35, 50)])
def test_patches_are_a_convolution(size):
    torch.manual_seed(0)
    images, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(5, 3, 8, 16, dtype=torch.float64)
    wanted = F.conv2d(images, weight, stride=(8, 16)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(F.linear(patches_of(images, (8, 16)), weight.flatten(1)), wanted)
