"""Models that were trained here, written in the authors' formats."""

from dataclasses import replace

import pytest
import torch

from muybridge.backbones.convert import Converted, to_source
from muybridge.errors import CheckpointError
from muybridge.loading import load
from muybridge.methods import build_method
from muybridge.published.assemble import Model, to_published
from muybridge.testing.tiny import random_backbone, tiny_backbones


@pytest.mark.parametrize("name", ["evl", "ila", "dist", "zeroi2v"])
def test_a_model_that_was_trained_here_is_written_and_read_again(name, tmp_path):
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    options = {
        "evl": {"layers": 2, "heads": 3},
        "ila": {"integration_heads": 2, "prompt_heads": 2},
        "dist": {"width": 64, "temporal_width": 12, "pooling_layers": 1},
        "zeroi2v": {"shifts": "-1:16", "scale": 1.0},
    }[name]
    features = torch.randn(5, 32) if name in ("ila", "dist") else None
    method = build_method(name, backbone, 5, 4, (32, 32), options, features).eval()
    if features is not None:
        method.head.logit_scale.fill_(3.0)
    state = to_published(Model(name, method))
    config = {"evl": {"heads": 3}, "zeroi2v": {"heads": 3, "shifts": "-1:16", "scale": 1.0}}.get(name)
    config = config or {"vision_heads": 3, "num_classes": 5}
    config |= {"integration_heads": 2, "prompt_heads": 2} if name == "ila" else {}
    if name == "evl":
        state |= to_source(clip_of(backbone), "openclip")
        config |= {"backbone": {"heads": 3}}
    again = load(state, config=config)
    if features is not None:
        again.use_label_features(features, list("abcde"))
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.trained(video).logits, method(video).logits, rtol=0, atol=0)
    # Through a run folder too.
    again.save(tmp_path / "run", text=True)
    back = load(tmp_path / "run").to_published()
    own = {key for key in state if not key.startswith("visual.")} if name == "evl" else set(state)
    assert set(back) == own
    assert all(torch.equal(back[key], state[key]) for key in back)


def clip_of(backbone):
    return Converted("openclip", backbone.config, backbone.state_dict(), None, None, {})


@pytest.mark.parametrize("name", ["ila", "dist", "zeroi2v"])
def test_what_the_authors_code_would_compute_otherwise_is_not_written(name):
    options = {"dist": {"width": 64, "temporal_width": 12, "pooling_layers": 1}}.get(name, {})
    features = torch.randn(5, 32) if name in ("ila", "dist") else None
    gelu = random_backbone(replace(tiny_backbones()["clip"], activation="gelu"))
    with pytest.raises(CheckpointError, match="activation=quick_gelu; this backbone has gelu"):
        to_published(Model(name, build_method(name, gelu, 5, 4, (32, 32), options, features)))
    dino = random_backbone(tiny_backbones()["dinov2"])
    with pytest.raises(CheckpointError):
        to_published(Model(name, build_method(name, dino, 5, 4, (32, 32), options)))


def test_evl_with_alignment_has_no_place_in_the_format():
    backbone = random_backbone(tiny_backbones()["clip"])
    method = build_method("evl", backbone, 5, 4, (32, 32), {"layers": 2, "heads": 3, "alignment": True})
    with pytest.raises(CheckpointError, match="no place for 'layers.0.alignment"):
        to_published(Model("evl", method))
