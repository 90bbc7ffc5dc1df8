"""DiST against the published code: values, gradients, the plain twin, and the way back to its format."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.methods.dist import DiST, DiSTConfig
from muybridge.plain import plain_twin
from muybridge.published.assemble import assemble, read_published, to_published
from muybridge.published.dist import names
from muybridge.testing.cases import load
from muybridge.testing.stored.base import Run
from muybridge.testing.stored.dist import output
from muybridge.testing.tiny import random_backbone, tiny_backbones

CASES = sorted((Path(__file__).parent / "dist").glob("*.json"))
SMALL = [path for path in CASES if path.stem.startswith("tiny")]

# fp32: a port that sums in another order lands within 2e-5 of a tensor's largest value.
VALUE = 2e-5
# Gradients: relative to their norm, but not below what a gradient 1e-3 of the largest would allow.
GRADIENT, FLOOR = 1e-4, 1e-3


def build(path):
    """A case and its model, from its published state dict."""
    case = load(path)
    state = {key: torch.from_numpy(value) for key, value in case.state_dict.items()}
    model = assemble(read_published(state, case.config))
    with torch.no_grad():
        texts = torch.from_numpy(case.inputs["texts"])
        # The causal mask makes what comes after the last end token without effect.
        labels = model.text(texts[:, : texts.argmax(dim=1).max() + 1])
    model.method.relabel(labels)
    return case, state, model, labels


small = cache(build)


def run_case(case, method, labels):
    video = torch.from_numpy(case.inputs["video"]).transpose(1, 2)
    return Run(case, method, video, 1, method.trace(video), labels)


def check_values(run):
    for name, expected in run.case.outputs.items():
        ours = output(name, run)
        assert ours is not None, name
        assert ours.shape == expected.shape, name
        difference, scale = np.abs(ours.detach().numpy() - expected).max(), np.abs(expected).max()
        assert difference <= VALUE * scale, f"{name}: largest difference {difference:.2e}, scale {scale:.3g}"


def kind(method, plain):
    return plain_twin("dist", method) if plain else method


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_values(path, plain):
    case, _, model, labels = small(path)
    check_values(run_case(case, kind(model.method, plain), labels))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(set(CASES) - set(SMALL)), ids=lambda path: path.stem)
def test_full_size(path):
    case, state, model, labels = build(path)
    check_values(run_case(case, model.method, labels))
    back = to_published(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_gradients(plain):
    case, _, model, labels = small(Path(__file__).parent / "dist" / "tiny.json")
    method = kind(model.method, plain)
    method.zero_grad()
    run_case(case, method, labels).trace["logits"].float().logsumexp(-1).sum().backward()
    keys = names(method)
    ours = {keys[name]: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert ours.keys() == case.grads.keys()
    largest = max(stored["norm"] for stored in case.grads.values())
    for name, gradient in ours.items():
        stored = case.grads[name]
        allowed = GRADIENT * max(stored["norm"], FLOOR * largest)
        norm = abs(gradient.norm().item() - stored["norm"])
        head = np.abs(gradient.flatten()[: len(stored["head"])].numpy() - stored["head"]).max()
        assert max(norm, head) <= allowed, f"{name}: norm off by {norm:.2e}, head by {head:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_published_format_comes_back_bit_for_bit(path):
    _, state, model, _ = small(path)
    back = to_published(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_all_cases_are_here():
    assert [path.stem for path in CASES] == ["tiny", "tiny_options", "vitb16_k400_8+16f", "vitb16_ssv2_8+16f"]


RECTANGLE = ViTConfig(
    width=48, depth=3, heads=3, mlp_hidden=64, patch=(8, 6), image_size=(24, 32), registers=2, projection=20
)
SHAPES = {
    # name: backbone, options, frames, image size
    "one_sparse_frame": (tiny_backbones()["clip"], {"ratio": 3}, 3, (32, 32)),
    "one_dense_frame": (tiny_backbones()["clip"], {"ratio": 1}, 1, (32, 32)),
    "two_frames": (tiny_backbones()["clip"], {"ratio": 2, "zero_shot": True}, 4, (32, 32)),
    "rectangle_registers": (RECTANGLE, {"ratio": 2, "layers": (0, 2), "zero_shot": True, "kernel": 1}, 6, (27, 33)),
    "no_class_token": (tiny_backbones()["siglip"], {"ratio": 2, "kernel": 5, "stem_kernel": 3}, 4, (32, 32)),
    "wide_hidden": (tiny_backbones()["dinov2"], {"temporal_mlp_ratio": 1.5, "mlp_ratio": 2.0}, 4, (32, 32)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_is_plain(shape):
    """In fp64, where any difference but rounding shows: every recorded step and every gradient."""
    config, options, frames, size = SHAPES[shape]
    torch.manual_seed(0)
    options = DiSTConfig(**{"width": 48, "temporal_width": 10, "pooling_layers": 2, "pooling_heads": 3, **options})
    labels = torch.randn(4, config.projection or config.width)
    fast = DiST(random_backbone(config), options, 4, frames, size, labels).eval()
    for name, parameter in fast.named_parameters():
        if not name.startswith("backbone."):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    fast, plain = fast.double(), plain_twin("dist", fast).double()
    video = torch.randn(2, frames, 3, *size).double()
    traced, expected = fast.trace(video), plain.trace(video)
    assert traced.keys() <= expected.keys()  # the plain twin runs the blocks after the last tapped one too
    for name, tensor in traced.items():
        assert torch.allclose(tensor, expected[name], atol=1e-10, rtol=1e-9), name
    for method, logits in ((fast, traced["logits"]), (plain, expected["logits"])):
        method.zero_grad()
        (logits * torch.arange(1.0, 5.0)).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, theirs[name].grad, atol=1e-9, rtol=1e-8), name


def test_plain_twin_shares_no_shortcut():
    """The plain twin runs other code in both halves; else the comparison would say nothing."""
    twin = type(plain_twin("dist", small(SMALL[0])[2].method))
    assert twin._tap is not DiST._tap
    assert twin._embed is not DiST._embed
    assert isinstance(small(SMALL[0])[2].method.backbone, ViT)
