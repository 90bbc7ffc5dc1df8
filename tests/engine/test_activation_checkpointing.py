"""Activations that are computed again give the same gradients, to the bit, and draw what they drew."""

import pytest
import torch

from muybridge.methods import METHODS, build_method
from muybridge.testing.tiny import random_backbone, tiny_backbones

OPTIONS = {"evl": {"layers": 2, "heads": 3}, "ila": {"dropout": 0.5}, "aim": {"dropout": 0.5}}


def gradients(name, again, unfrozen=False):
    torch.manual_seed(0)
    method = build_method(name, random_backbone(tiny_backbones()["clip"]), 3, 4, (32, 32), OPTIONS.get(name, {}))
    if unfrozen:
        method.freezes_backbone = False
        method.backbone.requires_grad_(True)
    for parameter in method.parameters():  # what starts at zero lets no gradient pass
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    method.train().checkpoint_activations = again
    calls, kept = [], []
    for block in method.backbone.blocks:
        block.norm1.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        output = method(torch.randn(2, 4, 3, 32, 32))
    (output.logits.square().sum() + sum(output.losses.values())).backward()
    found = {key: parameter.grad for key, parameter in method.named_parameters() if parameter.grad is not None}
    state = {key: value for key, value in method.own_state().items() if "running" in key or "tracked" in key}
    return {**found, **state, "drawn": torch.get_rng_state()}, len(calls), sum(kept)


@pytest.mark.parametrize("unfrozen", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_the_same(name, unfrozen):
    plain, once, much = gradients(name, False, unfrozen)
    again, twice, little = gradients(name, True, unfrozen)
    assert plain.keys() == again.keys()
    assert len(plain) > 2
    for key, value in plain.items():
        assert torch.equal(again[key], value), key
    through = unfrozen or name in ("ila", "zeroi2v", "aim", "st_adapter")
    assert (twice > once) == through
    assert (little < much) == through


def test_going_back_twice():
    torch.manual_seed(0)
    method = build_method("ila", random_backbone(tiny_backbones()["clip"]), 3, 4, (32, 32), {}).train()
    method.checkpoint_activations = True
    tracked = {key: value.clone() for key, value in method.named_buffers() if "tracked" in key}
    loss = method(torch.randn(2, 4, 3, 32, 32)).logits.square().sum()
    wanted = [parameter for parameter in method.parameters() if parameter.requires_grad]
    first = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, wanted, allow_unused=True)
    for one, other in zip(first, second, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert tracked
    assert all(buffer == tracked[key] + 1 for key, buffer in method.named_buffers() if key in tracked)


def test_a_trace_and_an_evaluation_are_not_disturbed():
    method = build_method("zeroi2v", random_backbone(tiny_backbones()["clip"]), 3, 4, (32, 32), {}).eval()
    video = torch.randn(1, 4, 3, 32, 32)
    plain, traced = method(video).logits, method.trace(video)
    method.checkpoint_activations = True
    assert torch.equal(method(video).logits, plain)
    assert method.trace(video).keys() == traced.keys()
