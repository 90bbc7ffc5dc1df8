"""What `muybridge benchmark` measures: the right frames, the right differences, nothing changed."""

import copy

import pytest
import torch

from muybridge.errors import BadInput, MuybridgeError
from muybridge.measure.machine import machine_facts
from muybridge.measure.speed import BARE, STEPS, WAYS, compare, inference, int8, pick_ways, training
from muybridge.measure.workload import Workload, bare_backbone, random_video, training_step
from muybridge.methods import METHODS, build_method
from muybridge.methods.base import Method
from muybridge.testing.tiny import random_backbone, tiny_backbones

FRAMES, SIZE = 4, (32, 32)


OPTIONS = {"evl": {"layers": 2, "heads": 3}, "ila": {"head": "linear"}, "dist": {"head": "linear"}}


def tiny(name):
    vit = random_backbone(tiny_backbones()["clip"])
    return build_method(name, vit, 7, FRAMES, SIZE, OPTIONS.get(name, {})).eval()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_backbone_reads_as_many_frames_as_the_method_says(name, monkeypatch):
    method = tiny(name)
    read = []
    embed = method.backbone.embed
    monkeypatch.setattr(
        method.backbone, "embed", lambda images, *rest: read.append(len(images)) or embed(images, *rest)
    )
    video = random_video(method, 2)
    method(video)
    assert sum(read) == 2 * method.backbone_frames
    read.clear()
    bare_backbone(method, video)()
    assert sum(read) == 2 * method.backbone_frames


def test_bare_backbone_reads_the_frames_that_the_method_reads():
    dist = tiny("dist")
    video = random_video(dist, 2)
    expected = dist.backbone(torch.cat([video[b, ::2] for b in range(2)]))
    torch.testing.assert_close(bare_backbone(dist, video)(), expected)


@pytest.mark.parametrize("name", ["evl", "zeroi2v"])
def test_inference_figures(name):
    method = tiny(name)
    before = copy.deepcopy(method.state_dict())
    ways = ["eager", "unmerged", "bf16", "int8"] + (["cached", "stream"] if name == "evl" else [])
    figures = {figure.way: figure for figure in inference(method, ways, batch=2, rounds=2)}
    assert list(figures) == [BARE, *ways]
    assert figures[BARE].ratio == 1
    assert figures["eager"].difference == 0
    assert figures["unmerged"].difference < 1e-5
    assert "stream" not in figures or figures["stream"].difference < 1e-5
    assert 1e-5 < figures["bf16"].difference < 0.1
    assert 1e-5 < figures["int8"].difference < 0.5
    assert figures[BARE].multiply_adds > 0 == figures["int8"].multiply_adds
    assert all(figure.milliseconds > 0 for figure in figures.values())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert {"milliseconds", "ratio", "same_top5"} < set(figures["eager"].row())


def test_training_figures_leave_the_model_as_it_is():
    method = tiny("evl")
    before = copy.deepcopy(method.state_dict())
    figures = training(method, tuple(STEPS), batch=2, rounds=2)
    assert [figure.way for figure in figures] == [BARE, *STEPS]
    assert all(figure.milliseconds > 0 for figure in figures)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_step_trains():
    method = tiny("probe")
    before = copy.deepcopy(method.own_state())
    step = training_step(method, random_video(method, 2))
    step()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in method.own_state().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_compare():
    logits = torch.tensor([[1.0, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    other = logits.clone()
    other[0, 0] += 0.6
    assert compare(other, logits) == (pytest.approx(0.1), True)
    other[0, 0] = 10
    assert compare(other, logits)[1] is False


def test_int8_replaces_linear_layers_in_a_copy():
    method = tiny("zeroi2v")
    smaller = int8(method.merged())
    kinds = {type(module).__module__.split(".")[-1] for module in smaller.modules()}
    assert not any(type(module) is torch.nn.Linear for module in smaller.backbone.blocks.modules())
    assert kinds
    assert any(type(module) is torch.nn.Linear for module in method.backbone.modules())


def test_what_cannot_be_cached_says_why():
    with pytest.raises(BadInput, match="nothing to cache"):
        inference(tiny("zeroi2v"), ["cached"], rounds=1)
    with pytest.raises(BadInput, match="computes every window of a stream anew"):
        inference(tiny("zeroi2v"), ["stream"], rounds=1)
    with pytest.raises(BadInput, match="no cached step"):
        training(tiny("zeroi2v"), ["train-cached"], rounds=1)


def test_names_of_ways():
    assert pick_ways("all", WAYS) == tuple(WAYS)
    assert pick_ways("eager, bf16", WAYS) == ("eager", "bf16")
    with pytest.raises(MuybridgeError, match="compiled"):
        pick_ways("compild", WAYS)


def test_workload_builds_what_it_says():
    workload = Workload("ila", backbone="dinov2_vits14", frames=2, image_size=(56, 56), classes=5)
    method = workload.build()
    assert isinstance(method, Method)
    assert (method.frames, method.image_size, method.classes) == (2, (56, 56), 5)
    # Nothing starts at zero, so that every path is there.
    assert all(
        tensor.any() for name, tensor in method.own_state().items() if "running_" not in name and "num_" not in name
    )


def test_facts_name_the_machine():
    facts = machine_facts()
    assert facts["machine"]
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
