"""Counts without weights: what papers' codes count, and what a real model really has and stores."""

import dataclasses
import io
import json
import math

import pytest
import torch
from rich.console import Console

from muybridge.backbones.text import TextTower
from muybridge.backbones.weights import BACKBONES
from muybridge.errors import BadInput, UnknownName
from muybridge.info import (
    compare,
    describe,
    model_info,
    multiply_adds,
    parameters_read,
    recipe_info,
    setting_info,
    to_dict,
    training_memory,
)
from muybridge.info.counting import text_parameters
from muybridge.methods import METHODS, build_method
from muybridge.methods.base import count
from muybridge.plain import PLAIN
from muybridge.recipes import published_recipe, recipe_names
from muybridge.recipes.library import Stated, methods_with_recipes
from muybridge.testing.tiny import random_backbone, tiny_backbones

TINY = tiny_backbones()
OPTIONS = {
    "evl": {"layers": 2, "width": 48, "heads": 3},
    "ila": {"head": "linear", "integration_heads": 2},
    "dist": {"width": 48, "temporal_width": 24, "head": "linear", "pooling_heads": 3},
    "zeroi2v": {},
    "probe": {},
}


def shown(info, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(describe(info))
    return console.export_text()


def test_every_published_method_has_a_plain_twin():
    assert set(methods_with_recipes()) == {"evl", "ila", "dist", "zeroi2v"} <= set(PLAIN)


def quick(name):
    return "_vitb" in name and "8f" in name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if quick(name) else pytest.mark.slow) for name in recipe_names()]
)
def test_counts_agree_with_what_is_stated(name):
    rows = compare(recipe_info(name), published_recipe(name))
    assert {"trainable", "multiply_adds"} <= {row.stated.figure for row in rows}
    assert [f"{row.stated.figure}: {row.stated.value} stated, {row.ours} ours" for row in rows if not row.agrees] == []


def test_comparison_notices():
    info, published = recipe_info("evl_vitb16_k400_8f"), published_recipe("evl_vitb16_k400_8f")

    def agrees(figure, value, extra=0):
        changed = dataclasses.replace(published, stated=(Stated(figure, value, "here", extra),))
        return compare(info, changed)[0].agrees

    assert agrees("trainable", "33,183,376")
    assert not agrees("trainable", "33,183,377")
    assert agrees("trainable", "33.18 M")
    assert not agrees("trainable", "33.19 M")
    assert agrees("backbone", "85,798,656", extra=768)
    assert not agrees("backbone", "85,798,656")
    assert agrees("multiply_adds", "152.0 G")
    assert not agrees("multiply_adds", "152.2 G")
    assert not agrees("merged", "1 M")  # nothing is merged
    with pytest.raises(UnknownName, match="figure"):
        agrees("paramters", "1 M")


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("method", OPTIONS)
def test_counts_are_those_of_a_real_model(method, family):
    info = model_info(method, TINY[family], 5, 4, (32, 32), OPTIONS[method])
    model = build_method(method, random_backbone(TINY[family]), 5, 4, (32, 32), OPTIONS[method]).eval()
    video = torch.randn(1, 4, 3, 32, 32)
    assert info.own + info.backbone_whole == count(model.parameters())
    assert info.trainable == count(model.parameters(), trainable_only=True)
    assert info.backbone_read == parameters_read(model, model.backbone, video) <= info.backbone_whole
    assert info.multiply_adds_ours == multiply_adds(model.merged(), video) > 0
    assert count(model.parameters(), trainable_only=True) == info.trainable
    assert info.memory == training_memory(model, 1)
    assert info.memory.gradients * 2 == info.memory.moments == info.trainable * 8
    assert (info.multiply_adds is None) == (method not in PLAIN)
    if info.multiply_adds is not None:
        # ILA multiplies two of its matrices at every call, which pays from a width of 128 on; this one has 48.
        assert info.multiply_adds_ours <= 1.01 * info.multiply_adds


@pytest.mark.parametrize("method", OPTIONS)
def test_activations_are_what_autograd_stores(method):
    model = build_method(method, random_backbone(TINY["dinov2_reg4"]), 5, 4, (32, 32), OPTIONS[method]).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    stored = {}

    def keep(tensor):
        stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(1, 4, 3, 32, 32))
    expected = sum(tensor.untyped_storage().nbytes() for key, tensor in stored.items() if key not in own)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert training_memory(model, 3).activations == 3 * expected > 0
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_read_of_a_backbone():
    backbone = random_backbone(TINY["clip"])
    norm, head = count(backbone.norm.parameters()), count(backbone.head.parameters())
    whole = count(backbone.parameters())
    info = {name: model_info(name, TINY["clip"], 5, 4, (32, 32), OPTIONS[name]) for name in OPTIONS}
    assert all(figures.backbone_whole == whole for figures in info.values())
    assert info["evl"].backbone_read == whole - norm - head
    assert info["zeroi2v"].backbone_read == whole - norm - head  # it has its own copy of the norm
    assert info["ila"].backbone_read == whole


def test_a_linear_map_is_counted_to_the_digit():
    vit = TINY["in21k"]
    info = model_info("probe", vit, 5, 2, (32, 32))
    tokens, width, hidden = 17, 48, 96
    block = tokens * width * (4 * width + 2 * hidden) + 2 * tokens * tokens * width
    patches = 16 * 3 * 8 * 8 * width
    assert info.multiply_adds_ours == 2 * (patches + vit.depth * block) + 5 * width


def test_text_tower_and_its_scale():
    config = BACKBONES["clip_vitb16"].text
    with torch.device("meta"):
        tower = TextTower(config)
    assert text_parameters(config) == count(tower.parameters()) + 1 == 63_428_097
    assert recipe_info("ila_vitb16_k400_8f").text == 63_428_097
    assert recipe_info("ila_vitb16_ssv2_8f").text == 0


def test_sums_and_views():
    info = recipe_info("zeroi2v_vitb16_k400_8f", batch=4)
    assert info.views == 3
    assert info.total == info.backbone_read + info.own + info.text == 100_315_024
    assert info.merged == 86_113_168
    assert info.multiply_adds_merged < info.multiply_adds
    one = recipe_info("zeroi2v_vitb16_k400_8f")
    assert info.memory.activations == 4 * one.memory.activations
    assert info.memory.total - info.memory.activations == one.memory.total - one.memory.activations
    # The merged model of 3 views is what the paper prints: 422 G.
    assert info.multiply_adds_merged * info.views / 1e9 == pytest.approx(422, rel=0.005)


def test_other_sizes_and_classes():
    published = published_recipe("evl_vitb16_k400_8f")
    info = setting_info(published.recipe, 51)
    assert info.trainable == 33_183_376 - (400 - 51) * 769
    assert info.name == ""
    wide = model_info("evl", TINY["clip"], 5, 4, (32, 64), OPTIONS["evl"])
    assert wide.multiply_adds > model_info("evl", TINY["clip"], 5, 4, (32, 32), OPTIONS["evl"]).multiply_adds


def test_wrong_names_and_numbers():
    with pytest.raises(UnknownName, match="Closest: evl_vitb16_k400_8f"):
        recipe_info("evl_vitb16_k400_8")
    with pytest.raises(UnknownName, match="method"):
        model_info("evll", TINY["clip"], 5, 4, (32, 32))
    with pytest.raises(BadInput, match="batch is 0"):
        model_info("probe", TINY["clip"], 5, 4, (32, 32), batch=0)


def test_plain_dict_is_json():
    info = recipe_info("zeroi2v_vitb16_k400_8f", batch=2)
    plain = json.loads(json.dumps(to_dict(info)))
    assert plain["total"] == info.total
    assert plain["memory"]["total"] == info.memory.total
    assert plain["multiply_adds_all_views"] == 3 * info.multiply_adds
    assert plain["published"]["top1"] == 83.0
    assert all(row["agrees"] and math.isfinite(row["number"]) for row in plain["stated"])
    assert "stated" not in to_dict(model_info("probe", TINY["clip"], 5, 4, (32, 32)))


def test_tables():
    text = shown(recipe_info("zeroi2v_vitb16_k400_8f", batch=8))
    for words in ("100.32 M", "86.11 M", "162.8 G", "83.0 %", "not reproduced here", "422 G", "8 videos", "agrees"):
        assert words in text
    assert "differs" not in text
    probe = shown(model_info("probe", TINY["clip"], 5, 4, (32, 32)))
    assert "Stated" not in probe
    assert "paper's arithmetic" not in probe


def test_tables_tell_what_differs():
    info = dataclasses.replace(recipe_info("evl_vitb16_k400_8f"), trainable=33_183_377)
    assert "33,183,377   differs" in shown(info)


def test_every_method_has_options_here():
    assert set(OPTIONS) >= set(PLAIN) | {"probe"}
    assert set(OPTIONS) <= set(METHODS)
