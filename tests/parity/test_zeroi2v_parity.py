"""ZeroI2V against the published code: logits, intermediate tensors, gradients, merged weights; fast against plain."""

from pathlib import Path

import numpy as np
import pytest
import torch

from muybridge.methods import build_method
from muybridge.plain import plain_twin
from muybridge.published import zeroi2v
from muybridge.published.assemble import assemble, read_published, to_published
from muybridge.testing.cases import load
from muybridge.testing.stored import zeroi2v as stored
from muybridge.testing.stored.base import Run
from muybridge.testing.tiny import random_backbone, tiny_backbones

CASES = sorted((Path(__file__).parent / "zeroi2v").glob("*.json"))
FULL = [path for path in CASES if "vit" in path.stem]
TINY = [path for path in CASES if path not in FULL]
WITH_GRADIENTS = [path for path in TINY if load(path).grads]

# fp32; a port that sums in another order lands within 2e-5 of a tensor's largest value.
VALUE = 2e-5
# Gradients: relative to their norm, but not below what a gradient 1e-3 of the largest would allow.
GRADIENT, FLOOR = 1e-4, 1e-3


def build(case):
    """The model of a case, from its published state dict."""
    state = {key: torch.from_numpy(value) for key, value in case.state_dict.items()}
    return assemble(read_published(state, case.config)), state


def video_of(case):
    """[B * V, T, 3, H, W], views."""
    video = torch.from_numpy(case.inputs["video"])
    if case.video_layout == "BVCTHW":
        return video.flatten(0, 1).transpose(1, 2), video.shape[1]
    assert case.video_layout == "BCTHW"
    return video.transpose(1, 2), 1


def check_values(case, method):
    video, views = video_of(case)
    run = Run(case, method, video, views, method.trace(video), None)
    assert "logits" in case.outputs
    for name, expected in case.outputs.items():
        ours = run.trace["logits"] if name == "logits" else stored.output(name, run)
        ours = ours.detach().numpy()
        assert ours.shape == expected.shape, name
        difference, scale = np.abs(ours - expected).max(), np.abs(expected).max()
        assert difference <= VALUE * scale, f"{name}: largest difference {difference:.2e}, scale {scale:.3g}"


def gradients(method, video):
    method.zero_grad()
    method(video).logits.float().logsumexp(-1).sum().backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_values(path, plain):
    case = load(path)
    method = build(case)[0].method
    check_values(case, plain_twin("zeroi2v", method) if plain else method)


@pytest.mark.parametrize(
    "path",
    # ViT-L/14 takes longer than all the rest of this file.
    [pytest.param(path, marks=pytest.mark.slow) if "vitl14" in path.stem else path for path in FULL],
    ids=lambda path: path.stem,
)
def test_full_size(path):
    case = load(path)
    method = build(case)[0].method
    with torch.no_grad():
        # One run without the recorder: all steps of a full-size model are a gigabyte.
        logits = method(video_of(case)[0]).logits.numpy()
    expected = case.outputs["logits"]
    assert np.abs(logits - expected).max() <= VALUE * np.abs(expected).max()


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("path", WITH_GRADIENTS, ids=lambda path: path.stem)
def test_gradients(path, plain):
    case = load(path)
    method = build(case)[0].method
    method = plain_twin("zeroi2v", method) if plain else method
    assert case.loss == "logsumexp"
    names = zeroi2v.names(method)
    theirs = {names[name]: gradient for name, gradient in gradients(method, video_of(case)[0]).items()}
    assert set(theirs) == set(case.grads)
    largest = max(gradient["norm"] for gradient in case.grads.values())
    for name, gradient in theirs.items():
        expected = case.grads[name]
        allowed = GRADIENT * max(expected["norm"], FLOOR * largest)
        norm = abs(gradient.norm().item() - expected["norm"])
        head = np.abs(gradient.flatten()[: len(expected["head"])].numpy() - expected["head"]).max()
        assert max(norm, head) <= allowed, f"{name}: norm off by {norm:.2e}, head by {head:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("prefix", ["", "module."], ids=["bare", "module"])
@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_published_format_comes_back_bit_for_bit(path, prefix):
    case = load(path)
    state = {prefix + key: torch.from_numpy(value) for key, value in case.state_dict.items()}
    back = to_published(assemble(read_published(state, case.config)))
    assert set(back) == set(state)
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("path", [path for path in TINY if "merged" not in path.stem], ids=lambda path: path.stem)
def test_merged_model_is_the_published_merged_form(path):
    """Its keys are those of the authors' merged files, and it is read back as such."""
    case = load(path)
    model, state = build(case)
    merged = model.method.merged()
    back = to_published(type(model)("zeroi2v", merged))
    assert set(back) == {key for key in state if "Adapter" not in key}
    again = assemble(read_published(back, case.config)).method
    assert again.config.merged
    video = video_of(case)[0]
    torch.testing.assert_close(again(video).logits, merged(video).logits, rtol=0, atol=0)
    torch.testing.assert_close(merged(video).logits, model.method(video).logits, rtol=1e-5, atol=1e-5)


SHAPES = [
    # family, frames, image size, options
    ("clip", 1, (32, 32), {}),
    ("clip", 2, (16, 24), {"shifts": "-2:7,+1:16,-1:20"}),
    ("clip", 5, (40, 16), {"shifts": "none", "output_adapter": False}),
    ("dinov2_reg4", 3, (24, 32), {"shifts": "+2:48", "scale": 1.0, "hidden": 5}),
    ("siglip", 4, (32, 16), {"shifts": "-1:16,+1:16,-2:16"}),
    ("in21k", 2, (32, 32), {"merged": True}),
]


@pytest.mark.parametrize("grad", [True, False], ids=["with_graph", "without"])
@pytest.mark.parametrize(("family", "frames", "size", "options"), SHAPES, ids=lambda x: str(x).replace(" ", ""))
def test_fast_is_plain(family, frames, size, options, grad):
    torch.manual_seed(0)
    fast = build_method("zeroi2v", random_backbone(tiny_backbones()[family]), 5, frames, size, options).eval()
    for parameter in fast.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    plain = plain_twin("zeroi2v", fast)
    video = torch.randn(2, frames, 3, *size)
    with torch.set_grad_enabled(grad):
        ours, theirs = fast.trace(video), plain.trace(video)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5 * float(tensor.detach().abs().max()))
    if grad:
        ours, theirs = gradients(fast, video), gradients(plain, video)
        assert set(ours) == set(theirs)
        largest = max(gradient.norm() for gradient in theirs.values())
        for name, gradient in theirs.items():
            assert (ours[name] - gradient).norm() <= GRADIENT * max(gradient.norm(), FLOOR * largest), name


def test_all_cases_are_here():
    assert (len(TINY), len(FULL), len(WITH_GRADIENTS)) == (6, 3, 2)
