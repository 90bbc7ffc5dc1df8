"""ST-Adapter: starts as the image model, sees neighbouring frames, patches only, and what its config refuses."""

import pytest
import torch

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.methods.base import count
from muybridge.methods.st_adapter import SpatioTemporalAdapter, STAdapter, STAdapterConfig
from muybridge.testing.tiny import random_backbone, tiny_backbones


def make(family="clip", frames=4, size=(32, 32), random=True, **options):
    torch.manual_seed(0)
    method = build_method("st_adapter", random_backbone(tiny_backbones()[family]), 5, frames, size, options)
    if random:
        for parameter in method.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return method.eval()


def by_hand(adapter, x):
    """x + W_up gelu(conv(W_down x)) as a sum over the kernel: x [T, rows, columns, D]."""
    inner = adapter.down(x)
    out = torch.zeros_like(inner) + adapter.conv.bias
    sizes, kernel = x.shape[:3], adapter.conv.kernel_size
    for index in torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, 3).tolist():
        for shift in torch.cartesian_prod(*(torch.arange(size) for size in kernel)).reshape(-1, 3).tolist():
            there = [i + s - k // 2 for i, s, k in zip(index, shift, kernel, strict=True)]
            if all(0 <= i < size for i, size in zip(there, sizes, strict=True)):
                out[tuple(index)] += adapter.conv.weight[(slice(None), 0, *shift)] * inner[tuple(there)]
    return x + adapter.up(torch.nn.functional.gelu(out))


@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 5), (3, 3, 3)])
@torch.no_grad()
def test_adapter_is_its_equation_and_leaves_prefix_tokens(kernel):
    torch.manual_seed(0)
    adapter = SpatioTemporalAdapter(6, 4, kernel, (2, 3), 3).double()
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(2 * 3, 2 + 6, 6, dtype=torch.float64)  # two clips of 3 frames, 2 prefix tokens
    out = adapter(x)
    assert torch.equal(out[:, :2], x[:, :2])
    for clip in range(2):
        patches = x[3 * clip : 3 * clip + 3, 2:].reshape(3, 2, 3, 6)
        expected = by_hand(adapter, patches).reshape(3, 6, 6)
        torch.testing.assert_close(out[3 * clip : 3 * clip + 3, 2:], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", list(tiny_backbones()))
@torch.no_grad()
def test_starts_as_the_image_model(family):
    method = make(family, random=False, before_mlp=True)
    vit, video = method.backbone, torch.randn(2, 4, 3, 32, 32)
    x = vit.embed(video.flatten(0, 1))
    for block in vit.blocks:
        x = block(x)
    mean = vit.summary(x).unflatten(0, (2, 4)).mean(dim=1)
    torch.testing.assert_close(method(video).logits, method.head(mean), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_order_of_frames_matters_through_the_kernel_over_time():
    video = torch.randn(2, 4, 3, 32, 32)
    for kernel, differs in (((3, 1, 1), True), ((1, 3, 3), False)):
        method = make(kernel=kernel)
        assert torch.allclose(method(video).logits, method(video.flip(1)).logits, atol=1e-4) != differs


@pytest.mark.parametrize("before_mlp", [False, True])
def test_parameter_count(before_mlp):
    config = STAdapterConfig(before_mlp=before_mlp)
    with torch.device("meta"):
        method = STAdapter(ViT(ViTConfig()), config, 400, 8, (224, 224))
    width, inner, kernel, depth = 768, 384, 3, 12
    adapter = (width * inner + inner) + (inner * kernel + inner) + (inner * width + width)
    rest = 2 * width + 400 * width + 400
    assert count(method.parameters(), trainable_only=True) == (1 + before_mlp) * depth * adapter + rest


def test_another_number_of_frames_needs_no_interpolation():
    method = make(frames=4)
    assert method.adapted(6, (32, 32))(torch.randn(1, 6, 3, 32, 32)).logits.shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel": (2, 1, 1)}, "three odd numbers"),
        ({"kernel": (3, 1)}, "three odd numbers"),
        ({"width": -4}, "expected channels"),
        ({"dropout": 1.5}, "expected 0 to below 1"),
    ],
)
def test_other_values_are_refused(options, said):
    with pytest.raises(BadInput, match=said):
        STAdapterConfig(**options)


def test_width_is_half_unless_given():
    assert make().adapters[0].before_attention.down.weight.shape == (24, 48)
    assert make(width=7).adapters[1].before_attention.up.weight.shape == (48, 7)
