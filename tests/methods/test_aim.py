"""AIM: starts as the image model, one attention over time and space, and what its config refuses."""

import pytest
import torch

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.methods.aim import AIM, AIMConfig, over_time
from muybridge.methods.base import count
from muybridge.testing.tiny import random_backbone, tiny_backbones


def make(family="clip", frames=4, random=True, **options):
    torch.manual_seed(0)
    method = build_method("aim", random_backbone(tiny_backbones()[family]), 5, frames, (32, 32), options)
    if random:
        for parameter in method.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return method.eval()


@torch.no_grad()
def test_attention_over_time_takes_the_tokens_of_one_place():
    attention = random_backbone(tiny_backbones()["clip"]).blocks[0].attn
    x = torch.randn(2 * 4, 5, 48)
    out = over_time(attention, x, 4)
    for clip in range(2):
        for place in range(5):
            expected = attention(x[4 * clip : 4 * clip + 4, place][None])[0]
            torch.testing.assert_close(out[4 * clip : 4 * clip + 4, place], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", list(tiny_backbones()))
@torch.no_grad()
def test_starts_as_the_image_model(family):
    method = make(family, random=False)
    vit, video = method.backbone, torch.randn(2, 4, 3, 32, 32)
    x = vit.embed(video.flatten(0, 1))
    for block in vit.blocks:
        x = block(x)
    mean = vit.summary(x).unflatten(0, (2, 4)).mean(dim=1)
    torch.testing.assert_close(method(video).logits, method.head(mean), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adapter", ["time", "space", "joint"])
@torch.no_grad()
def test_a_block_is_its_equation(adapter):
    """One adapter at a time is not zero; the block is then written out."""
    method = make(random=False, scale=0.7)
    block, adapters = method.backbone.blocks[0], method.adapters[0]
    one = getattr(adapters, adapter)
    torch.nn.init.normal_(one.up.weight)
    torch.nn.init.normal_(one.up.bias)
    x = torch.randn(4, 5, 48)
    y = x + one(over_time(block.attn, block.norm1(x), 4)) if adapter == "time" else x
    h = block.attn(block.norm1(y))
    y = y + h + (one(h) if adapter == "space" else 0)
    n = block.norm2(y)
    y = y + block.mlp(n) + (0.7 * one(n) if adapter == "joint" else 0)
    torch.testing.assert_close(method._block(block, adapters, x), y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_of_frames_matters_through_the_vectors_per_frame():
    method, video = make(), torch.randn(2, 4, 3, 32, 32)
    assert not torch.allclose(method(video).logits, method(video.flip(1)).logits, atol=1e-3)
    torch.nn.init.zeros_(method.temporal_embedding)  # attention over time alone sees a set of frames
    torch.testing.assert_close(method(video).logits, method(video.flip(1)).logits, rtol=1e-4, atol=1e-4)


def test_parameter_count():
    with torch.device("meta"):
        method = AIM(ViT(ViTConfig()), AIMConfig(), 400, 8, (224, 224))
    width, inner, depth, frames = 768, 192, 12, 8
    adapter = width * inner + inner + inner * width + width
    rest = frames * width + 2 * width + 400 * width + 400
    assert count(method.parameters(), trainable_only=True) == 3 * depth * adapter + rest


def test_other_numbers_of_frames():
    method = make(frames=2)
    other = method.adapted(4, (32, 32))
    first, second = method.temporal_embedding[0]
    expected = torch.stack([first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second])
    torch.testing.assert_close(other.temporal_embedding[0], expected)


@pytest.mark.parametrize(("options", "said"), [({"width": -1}, "expected channels"), ({"dropout": 1.0}, "below 1")])
def test_other_values_are_refused(options, said):
    with pytest.raises(BadInput, match=said):
        AIMConfig(**options)
