"""Every spelling of DiST's published format, and what is refused."""

import re
from dataclasses import replace

import pytest
import torch

from muybridge.backbones.text import TextConfig, TextTower
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.methods.dist import DiST, DiSTConfig
from muybridge.published.assemble import Model, assemble, read_published, to_published
from muybridge.published.dist import matches
from muybridge.testing.tiny import random_backbone, tiny_backbones

CLIP = replace(tiny_backbones()["clip"], width=64, heads=1)
SIZE, FRAMES = (32, 32), 4
SMALL = {"width": 48, "temporal_width": 12, "pooling_layers": 2}


def film():
    return torch.randn(2, FRAMES, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published():
    """A state dict in today's spelling, with a complete CLIP."""
    torch.manual_seed(0)
    method = DiST(random_backbone(CLIP), DiSTConfig(**SMALL, mlp_ratio=1.5), 5, FRAMES, SIZE, torch.randn(5, 32))
    text = TextTower(
        TextConfig(
            width=64, depth=1, heads=1, mlp_hidden=256, vocabulary=20, context=7, projection=32, activation="quick_gelu"
        )
    )
    return to_published(Model("dist", method, text, {"logit_scale": torch.tensor(4.0)}))


PREFIX = "backbone.base_encoder."
FORMER = {
    "dist_net.input_linears.": "ladder_net.input_map_feat_nets.",
    "dist_net.integration2temporal_nets.": "ladder_net.s2t_fuse_nets.",
    "dist_net.temporal2integration_nets.": "ladder_net.t2s_fuse_nets.",
    "dist_net.integration_nets.": "ladder_net.spatial_nets.",
    "dist_net.adapooling_nets.": "ladder_net.final_temporal_nets.",
    "dist_net.": "ladder_net.",
}


def former(key):
    for new, old in FORMER.items():
        if new in key:
            return key.replace(new, old)
    return key


VARIANTS = {
    "today": lambda state: state,
    "module": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "bare": lambda state: {key.removeprefix(PREFIX): tensor for key, tensor in state.items()},
    "module_alone": lambda state: {"module." + key.removeprefix(PREFIX): tensor for key, tensor in state.items()},
    "former": lambda state: {former(key): tensor for key, tensor in state.items()},
    "former_module": lambda state: {f"module.{former(key)}": tensor for key, tensor in state.items()},
    "extra": lambda state: {
        **state,
        f"{PREFIX}text_features": torch.randn(5, 32),
        f"{PREFIX}prediction_fusion_gating": torch.ones(1),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_spelling_is_read_and_comes_back_bit_for_bit(published, variant):
    state = VARIANTS[variant](published)
    assert matches(state)
    model = assemble(read_published(state, {"classes": 5}))
    plain = assemble(read_published(published, {"classes": 5}))
    assert torch.equal(model.method.encode_video(film()), plain.method.encode_video(film()))
    back = to_published(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    config = model.method.config
    assert config == DiSTConfig(**SMALL, mlp_ratio=1.5, head="text")
    assert (model.method.frames, model.method.head.logit_scale.item()) == (FRAMES, 4.0)


def test_without_clip_the_rest_is_read(published):
    own = {key: tensor for key, tensor in published.items() if "dist_net" in key}
    apart = read_published(own)
    assert apart.clip == {}
    assert apart.classes is None
    whole = assemble(read_published(published, {"classes": 5}))
    model = assemble(apart, classes=5, backbone=whole.method.backbone)
    assert torch.equal(model.method.encode_video(film()), whole.method.encode_video(film()))
    back = to_published(model)
    assert back.keys() == own.keys()


def test_tapped_blocks_are_told_where_the_tensors_do_not_tell(published):
    second = re.compile(r"dist_net\.(?!adapooling)\w+\.1\.")  # of all but the pooling layers
    fewer = {key: tensor for key, tensor in published.items() if not second.search(key)}
    with pytest.raises(BadInput, match=r"which 1 of the tower's 2 blocks are tapped; .*'layers'"):
        read_published(fewer)
    assert read_published(fewer, {"layers": [1]}).config.layers == (1,)
    assert read_published(fewer, {"selected_layers": [0]}).config.layers == (0,)
    with pytest.raises(CheckpointError, match="of 1 tapped blocks"):
        read_published(fewer, {"layers": [0, 1]})
    assert read_published(published, {"selected_layers": [0, 1]}).config.layers == ()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"ratio": 4}, "ratio is given as 4, but the tensors say 2"),
        ({"num_input_frames": 8}, "num_input_frames is given as 8, but the tensors say 4"),
        ({"integration_dim": 384}, "integration_dim is given as 384"),
        ({"ada_pooling_layers": 4}, "ada_pooling_layers is given as 4"),
        ({"integration_mlp_ratio": 1}, "mlp_ratio is given as 1, but"),
        ({"s_patch_size": 16}, "s_patch_size is given as 16"),
        ({"vision_layers": 12}, "vision_layers is given as 12"),
        ({"text_width": 512}, "text_width is given as 512"),
        ({"head": "linear"}, "head is given as linear"),
    ],
)
def test_what_is_told_must_agree_with_the_tensors(published, config, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        read_published(published, config)


def test_own_options_are_understood(published):
    options = {"pooling_heads": 3, "zero_shot": True, "mlp_ratio": 1.5, "head": "auto", "frames": FRAMES, "layers": []}
    config = read_published(published, options).config
    assert (config.pooling_heads, config.zero_shot, config.layers) == (3, True, ())
    with pytest.raises(UnknownName, match="pooling_heads"):
        read_published(published, {"pooling_head": 3})


def test_damaged_files_are_refused_by_key(published):
    name = f"{PREFIX}dist_net.integration_nets.1.ffn.c_fc.weight"
    for stranger in (f"{PREFIX}dist_net.stranger", "stranger", "dist_net.proj", f"{PREFIX}ladder_net.proj"):
        with pytest.raises(CheckpointError, match=stranger.removeprefix(PREFIX)):
            read_published({**published, stranger: torch.zeros(1)})
    missing = dict(published)
    del missing[name]
    with pytest.raises(CheckpointError, match="integration_nets.1.ffn.c_fc.weight"):
        assemble(read_published(missing, {"classes": 5}))
    del missing[f"{PREFIX}dist_net.temporal_stem.weight"]
    with pytest.raises(CheckpointError, match="temporal_stem.weight"):
        read_published(missing)
    misshapen = {**published, name: torch.zeros(7, 48)}
    with pytest.raises(CheckpointError, match="integration_nets.1.ffn.c_fc.weight"):
        assemble(read_published(misshapen, {"classes": 5}))
    del misshapen[f"{PREFIX}visual.ln_post.weight"]
    with pytest.raises(CheckpointError, match="ln_post.weight"):
        assemble(read_published(misshapen, {"classes": 5}))
    stem = {**published, f"{PREFIX}dist_net.temporal_stem.weight": torch.zeros(12, 3, 5, 16, 16)}
    with pytest.raises(CheckpointError, match=r"temporal_stem.weight has patches of \[16, 16\] px"):
        read_published(stem)
    assert not matches(["decoder.cls_token", "visual.proj", "net.dist_net.proj"])


def test_a_linear_head_has_no_place_in_the_format():
    with pytest.raises(CheckpointError, match="linear head"):
        to_published(Model("dist", DiST(random_backbone(CLIP), DiSTConfig(**SMALL), 5, FRAMES, SIZE)))
