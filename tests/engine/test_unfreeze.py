"""The backbone trained too: exactly what was asked for gets gradients, at its own rate, and is saved."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from method_cases import BACKBONES, draw_labels, draw_video, make

from muybridge.backbones.weights import backbone_sha256
from muybridge.engine.checkpoint import load_model
from muybridge.engine.loss import total_loss
from muybridge.engine.optim import make_optimizer
from muybridge.engine.train import train
from muybridge.engine.unfreeze import backbone_groups, reached_by_gradient, unfreeze
from muybridge.errors import BadInput
from muybridge.methods import METHODS
from muybridge.recipes import check, validate
from muybridge.structures import Recipe, TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones
from trainings import probe_recipe

CASES = [(name, family) for name in METHODS for family in BACKBONES]


def gradients(method):
    """Names of the parameters that a training step gives a gradient to."""
    method.train()
    total_loss(method(draw_video(3)), torch.tensor([0, 1, 2])).backward()
    return {name for name, parameter in method.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("name", "family"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("what", ["none", "last:1", "all"])
def test_exactly_what_was_asked_for_gets_gradients(name, family, what):
    method = make(name, family)
    own = {key for key, parameter in method.named_parameters() if parameter.requires_grad}
    trained = unfreeze(method, what)
    found = gradients(method)
    assert found == {key for key, parameter in method.named_parameters() if parameter.requires_grad}
    of_backbone = {key for key in found if key.startswith("backbone.")}
    assert own <= found
    assert found - own == of_backbone
    assert trained == sum(p.numel() for key, p in method.named_parameters() if key in of_backbone)
    if what == "none":
        assert not of_backbone
        return
    assert any(key.startswith("backbone.blocks.1.attn.qkv") for key in of_backbone)
    early = {key for key in of_backbone if key.startswith(("backbone.blocks.0.", "backbone.patch_embed"))}
    assert bool(early) == (what == "all")
    groups = make_optimizer(method, TrainArgs()).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(
        id(p) for p in method.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("name", ["dist", "ila"])
def test_with_a_text_head_too(name):
    method = make(name, "clip", draw_labels("clip"))
    unfreeze(method, "all")
    assert gradients(method) == {key for key, parameter in method.named_parameters() if parameter.requires_grad}


def test_gradient_is_that_of_a_difference_quotient():
    # EVL's walk was without a graph while the backbone was frozen: the gradient through it must be the right one.
    method = make("evl", "dinov2").double()
    unfreeze(method, "all")
    video, weight = draw_video(2).double(), method.backbone.blocks[0].mlp.fc1.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (slope,) = torch.autograd.grad(method(video).logits.square().sum(), weight)
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight += step * direction
            values.append(method(video).logits.square().sum())
            weight -= step * direction
    torch.testing.assert_close((slope * direction).sum(), (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_what_the_method_does_not_read_stays_frozen():
    reached = reached_by_gradient(make("evl", "clip"))
    assert not any(name.startswith(("norm.", "head.")) for name in reached)
    assert {"norm.weight", "patch_embed.proj.weight", "cls_token"} <= reached_by_gradient(make("probe", "dinov2"))


def test_torch_generator_is_left_alone():
    method = make("ila", "clip")
    before = torch.get_rng_state()
    unfreeze(method, "all")
    assert torch.equal(torch.get_rng_state(), before)


def test_rates_and_decay():
    method = make("probe", "dinov2")
    unfreeze(method, "all")
    args = TrainArgs(lr=1e-3, backbone_lr=1e-4, layer_decay=0.5, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in method.backbone.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in backbone_groups(method, args)
        for p in group["params"]
    }
    # Two blocks: the norm is the last, then block 1, block 0, and what comes before the blocks.
    assert found["norm.weight"] == (1e-4, 0.0)
    assert found["blocks.1.mlp.fc1.weight"] == (5e-5, 0.1)
    assert found["blocks.1.mlp.fc1.bias"] == (5e-5, 0.0)
    assert found["blocks.0.attn.qkv.weight"] == (2.5e-5, 0.1)
    assert found["patch_embed.proj.weight"] == (1.25e-5, 0.1)
    assert found["pos_embed"] == found["cls_token"] == (1.25e-5, 0.0)
    assert {group["lr"] for group in method.parameter_groups(args)} == {1e-3}
    (everything,) = backbone_groups(method, replace(args, layer_decay=1.0, decay_all=True))
    assert everything["weight_decay"] == 0.1


@pytest.mark.parametrize("what", ["some", "last", "last:0", "last:-1", "last:x", "first:2", ""])
def test_other_words_are_refused(what):
    with pytest.raises(BadInput, match="expected none, last:N"):
        check(Recipe(train=TrainArgs(unfreeze=what)))


def test_more_blocks_than_there_are():
    with pytest.raises(BadInput, match="reads 2 blocks"):
        unfreeze(make("evl", "clip"), "last:3")


def test_a_method_that_looks_without_a_graph_is_told(monkeypatch):
    walk = METHODS["probe"].frozen
    monkeypatch.setattr(
        METHODS["probe"], "frozen", lambda self, video: {"summary": walk(self, video)["summary"].detach()}
    )
    with pytest.raises(BadInput, match="runs without a graph"):
        unfreeze(make("probe", "clip"), "all")


def test_cache_is_refused():
    with pytest.raises(BadInput, match="train.unfreeze=all changes it"):
        check(Recipe(train=TrainArgs(unfreeze="all", cache="memory", fixed_views=1)))


@pytest.fixture
def recipe(videos):
    return validate(probe_recipe(videos, epochs=2, batch_size=4, unfreeze="last:1", backbone_lr=1e-3, slim=True))


def test_the_changed_backbone_is_saved_with_its_own_hash(recipe, tmp_path):
    start = random_backbone(tiny_backbones()["dinov2"])
    before = {key: value.clone() for key, value in start.state_dict().items()}
    result = train(recipe, tmp_path / "run", backbone=start)
    method, spec, _ = load_model(tmp_path / "run")  # slim does not apply: nobody else has these weights
    after = method.backbone.state_dict()
    assert spec.own_backbone
    assert spec.backbone_sha256 == backbone_sha256(method.backbone)
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed
    assert all(key.startswith(("blocks.1.", "norm.")) for key in changed)
    assert "blocks.1.mlp.fc1.weight" in changed
    assert result.trainable > sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert method.freezes_backbone
    assert not math.isnan(result.evaluation.top1)


def test_a_frozen_run_says_so(recipe, tmp_path):
    frozen = replace(recipe, train=replace(recipe.train, unfreeze="none", slim=False, epochs=1))
    train(frozen, tmp_path / "run", backbone=random_backbone(tiny_backbones()["dinov2"]))
    assert not load_model(tmp_path / "run").spec.own_backbone
