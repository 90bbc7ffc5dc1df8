"""What methods tell of their own parts: EVL's query, ILA's alignment."""

import pytest
import torch
from explain_cases import draw_video, make

from muybridge.methods import METHODS, build_method
from muybridge.testing.tiny import random_backbone, tiny_backbones


@pytest.mark.parametrize("family", ["clip", "dinov2_reg4", "siglip"])
def test_evl_weights_sum_to_one_and_make_its_output(family):
    method, video = make("evl", family), draw_video(2)
    with torch.no_grad():
        trace = method.trace(video)
    x = method.query.expand(2, -1)
    for i, layer in enumerate(method.layers):
        weights = trace[f"layers.{i}.attention"]  # [B, h, T, L]
        assert weights.shape == (2, 3, 4, method.backbone.config.prefix + 16)
        torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(2, 3))
        tokens = layer.norm_frames(trace[f"layers.{i}.frame_features"].flatten(1, 2))
        values = layer.attention.v(tokens).unflatten(-1, (3, -1))  # [B, S, h, d]
        mixed = torch.einsum("bhs,bshd->bhd", weights.flatten(2), values).flatten(1)
        x = x + layer.attention.proj(mixed)
        x = x + layer.mlp(layer.norm_mlp(x))
        torch.testing.assert_close(trace[f"layers.{i}.out"], x, atol=1e-5, rtol=1e-4)
        x = trace[f"layers.{i}.out"]


def test_evl_maps_are_means_of_layers_and_heads():
    method, video = make("evl", "dinov2_reg4"), draw_video(2)
    with torch.no_grad():
        trace = method.trace(video)
        maps = method.looked(trace).maps
    assert list(maps)[:3] == ["query attention", "query attention, layer 0", "query attention, layer 0, head 0"]
    assert len(maps) == 1 + 2 * (1 + 3)
    assert {tuple(tensor.shape) for tensor in maps.values()} == {(2, 4, 4, 4)}
    heads = [maps[f"query attention, layer {i}, head {j}"] for i in range(2) for j in range(3)]
    torch.testing.assert_close(maps["query attention"], torch.stack(heads).mean(dim=0))
    # Row 1 of the patches begins with patch 4, behind the class token and four registers.
    expected = trace["layers.1.attention"][:, 2, :, 5 + 4]
    assert torch.equal(maps["query attention, layer 1, head 2"][:, :, 1, 0], expected)


def test_nothing_is_weighed_where_nobody_traces(monkeypatch):
    method = make("evl", "clip")
    called = []
    monkeypatch.setattr(type(method.layers[0]), "attended", lambda *args: called.append(1))
    with torch.no_grad():
        method(draw_video(1))
    assert not called


def test_ila_points_and_masks():
    method = make("ila", "clip")
    with torch.no_grad():
        looked = method.looked(method.trace(draw_video(2)))
    assert list(looked.maps) == list(looked.points) == ["alignment", "alignment, block 0", "alignment, block 1"]
    for name, mask in looked.maps.items():
        assert mask.shape == (2, 4, 4, 4)
        assert looked.points[name].shape == (2, 3, 2, 2)
        assert looked.points[name].abs().max() <= 0.75
    # The first frame's mask is highest at the patch nearest to its point: (x, y) is (column, row).
    mask, (x, y) = looked.maps["alignment, block 1"][0, 0], looked.points["alignment, block 1"][0, 0, 0]
    places = torch.linspace(-1, 1, 4)
    near = mask[(places - y).abs().argmin(), (places - x).abs().argmin()]
    assert near == mask.max()


def test_one_frame_has_no_pair():
    method = build_method("ila", random_backbone(tiny_backbones()["clip"]), 5, 1, (32, 32), {}).eval()
    with torch.no_grad():
        assert not method.looked(method.trace(draw_video(1)[:, :1])).maps


@pytest.mark.parametrize("name", METHODS)
def test_maps_of_every_method(name):
    method, video = make(name, "in21k"), draw_video(2)
    with torch.no_grad():
        looked = method.looked(method.trace(video))
    assert bool(looked.maps) == (name in ("evl", "ila"))
    assert all(tensor.shape == (2, 4, 4, 4) and (tensor >= 0).all() for tensor in looked.maps.values())
    shares = method.head_frames()
    torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), torch.ones(method.backbone.config.heads))
