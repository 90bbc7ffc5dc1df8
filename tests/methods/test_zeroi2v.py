"""ZeroI2V: shifts, adapters, what trains, merging, and the published format's variants and errors."""

import dataclasses
import json

import pytest
import torch

from muybridge.backbones.vit import LayerScale, ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.methods import build_method
from muybridge.methods.base import count
from muybridge.methods.zeroi2v import (
    LinearAdapter,
    ZeroI2V,
    ZeroI2VConfig,
    added,
    fold_after,
    fold_before,
    look,
    parse_shifts,
    shifts_text,
)
from muybridge.plain.zeroi2v import shifted
from muybridge.published.assemble import Model, assemble, read_published, to_published
from muybridge.published.base import Told
from muybridge.published.zeroi2v import official_shifts
from muybridge.structures import TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones

CLIP_B16 = ViTConfig(pre_norm=True, patch_bias=False, norm_eps=1e-5, activation="quick_gelu")
CLIP_L14 = dataclasses.replace(CLIP_B16, width=1024, depth=24, heads=16, mlp_hidden=4096, patch=(14, 14))


def make(family="clip", frames=4, size=(32, 32), classes=5, random=True, **options):
    torch.manual_seed(0)
    method = build_method("zeroi2v", random_backbone(tiny_backbones()[family]), classes, frames, size, options)
    if random:
        for parameter in method.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
    return method.eval()


def on_meta(config, classes=400, **options):
    with torch.device("meta"):
        return ZeroI2V(ViT(config), ZeroI2VConfig(**options), classes, 8, (224, 224))


# Options


@pytest.mark.parametrize(
    ("text", "slices"),
    [("-1:64,+1:64", ((-1, 64), (1, 64))), (" 2:5 , -3:1", ((2, 5), (-3, 1))), ("none", ()), ("", ())],
)
def test_shifts_are_read_and_written(text, slices):
    assert parse_shifts(text) == slices
    assert parse_shifts(shifts_text(slices)) == slices


@pytest.mark.parametrize("text", ["64", "-1:", "0:8", "1:0", "1:8;2:8", "a:b", "1:8,", "[[1, 8]]", "1:-8"])
def test_other_shifts_are_refused(text):
    with pytest.raises(BadInput, match="is not offset:channels, such as"):
        ZeroI2VConfig(shifts=text)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("hidden", -1, "expected channels"),
        ("scale", float("nan"), "expected a number"),
        ("backbone_lr", 0.0, "factor above 0"),
        ("dropout", 1.0, "expected 0 to below 1"),
        ("head_dropout", -0.1, "head_dropout is -0.1"),
    ],
)
def test_other_values_are_refused(option, value, said):
    with pytest.raises(BadInput, match=said):
        ZeroI2VConfig(**{option: value})


def test_default_shifts_are_those_of_the_published_b16():
    assert on_meta(CLIP_B16).config.shifts == "-1:64,+1:64"
    assert on_meta(CLIP_L14).config.shifts == "-1:64,+1:64"
    assert make().config.shifts == "-1:16,+1:16"  # 3 heads: at least one
    assert make(shifts="none").config.shifts == "none"


def test_shifts_must_fit_the_width():
    with pytest.raises(BadInput, match=r"'-1:40,\+1:9' takes more channels than the backbone's 48"):
        make(shifts="-1:40,+1:9")


def test_saved_options_build_the_same_model():
    method = make(hidden=0, scale=0.7)
    options = json.loads(json.dumps(dataclasses.asdict(method.config)))
    assert build_method("zeroi2v", method.backbone, 5, 4, (32, 32), options).config == method.config
    assert options["hidden"] == 12
    assert options["shifts"] == "-1:16,+1:16"


# Shift


@pytest.mark.parametrize("offset", [-5, -3, -2, -1, 1, 2, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_frames_without_a_neighbour_keep_their_own(offset, frames):
    seen = look(torch.arange(frames)[None, :, None], offset)[0, :, 0].tolist()
    assert seen == [t + offset if 0 <= t + offset < frames else t for t in range(frames)]


@pytest.mark.parametrize("grad", [True, False])
def test_only_the_shifted_channels_move(grad):
    method = make(shifts="-1:3,+2:20")
    x = torch.randn(8, 3, 5, 16)  # two clips of 4 frames; 3 heads of 16 channels
    before = x.transpose(1, 2).reshape(2, 4, 5, 48).clone()
    with torch.set_grad_enabled(grad):
        after = method.shift(x).transpose(1, 2).reshape(2, 4, 5, 48)
    assert torch.equal(after[..., 23:], before[..., 23:])
    assert torch.equal(after[..., :3], before[:, [0, 0, 1, 2], :, :3])
    assert torch.equal(after[..., 3:23], before[:, [2, 3, 2, 3], :, 3:23])


@pytest.mark.parametrize("shifts", ["-1:3,+2:20", "+1:16,-3:16", "-5:8,+1:40", "none"])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_shift_with_gradients_is_its_formula(shifts, frames):
    torch.manual_seed(0)
    slices = parse_shifts(shifts)
    method = ZeroI2V.__new__(ZeroI2V)
    torch.nn.Module.__init__(method)
    method.shifts, method.frames = slices, frames
    qkv = torch.randn(2 * frames, 5, 3 * 48, dtype=torch.float64, requires_grad=True)
    again = qkv.detach().clone().requires_grad_()
    # In place, so of what is no leaf.
    (q, *ours), (same, *plain) = (
        [part.unflatten(-1, (3, 16)).transpose(1, 2) for part in whole.chunk(3, dim=-1)] for whole in (1 * qkv, again)
    )
    ours, plain = [q, *map(method.shift, ours)], [same, *(shifted(part, slices, frames) for part in plain)]
    torch.testing.assert_close(ours, plain)
    grads = [torch.randn_like(part) for part in plain]
    (found,), (wanted,) = torch.autograd.grad(ours, qkv, grads), torch.autograd.grad(plain, again, grads)
    torch.testing.assert_close(found, wanted)


def test_order_of_frames_matters_through_the_shift_alone():
    video = torch.randn(2, 4, 3, 32, 32)
    for shifts, differs in (("-1:16", True), ("none", False)):
        method = make(shifts=shifts)
        torch.nn.init.zeros_(method.temporal_embedding)
        with torch.no_grad():
            there, back = method(video).logits, method(video.flip(1)).logits
        assert torch.allclose(there, back, atol=1e-5) != differs


# Adapters and merging


def test_starts_as_the_image_model_with_shifts():
    method = make(random=False)
    adapter = method.adapters[0].before_mlp
    assert 0.015 < adapter.fc1.weight.std().item() < 0.025
    assert not any(p.any() for p in (adapter.fc1.bias, adapter.fc2.weight, adapter.fc2.bias))
    assert not method.temporal_embedding.any()
    assert not method.head.bias.any()
    assert 0.005 < method.head.weight.std().item() < 0.015
    assert torch.equal(method.norm.weight, method.backbone.norm.weight)
    without = make(random=False, shifts="none")
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        frames = without.trace(video)["frame_features"]
        image = without.backbone
        x = image.embed(video.flatten(0, 1))
        for block in image.blocks:
            x = block(x)
        torch.testing.assert_close(frames.flatten(0, 1), image.summary(x), rtol=1e-5, atol=1e-5)


def test_folding_is_exact_in_double():
    adapter = LinearAdapter(6, 3, 0.7, 0.1).double().eval()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(4, 6, dtype=torch.float64)
    for bias in (True, False):
        before = torch.nn.Linear(6, 9, bias=bias).double()
        expected = before(adapter(x))
        fold_before(before, adapter)
        torch.testing.assert_close(before(x), expected, rtol=1e-12, atol=1e-12)
    after = torch.nn.Linear(9, 6).double()
    y = torch.randn(4, 9, dtype=torch.float64)
    expected = adapter(after(y))
    fold_after(after, adapter)
    torch.testing.assert_close(after(y), expected, rtol=1e-12, atol=1e-12)


def test_merging_leaves_the_method_alone_and_is_final():
    method = make("dinov2", shifts="-1:5,+1:16")
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    merged = method.merged()
    assert all(torch.equal(before[key], tensor) for key, tensor in method.state_dict().items())
    assert merged.merged() is merged
    assert merged.config == dataclasses.replace(method.config, merged=True)
    assert not any("adapters" in key for key in merged.state_dict())
    assert count(merged.backbone.parameters()) == count(method.backbone.parameters())
    assert not any(p.requires_grad for p in merged.backbone.parameters())
    with torch.no_grad():
        merged.temporal_embedding.zero_()  # nothing is shared
    assert torch.equal(before["temporal_embedding"], method.temporal_embedding)


def test_a_backbone_without_projection_bias_gets_one_when_merged():
    config = dataclasses.replace(tiny_backbones()["clip"], qkv_bias=False)
    torch.manual_seed(0)
    method = ZeroI2V(random_backbone(config), ZeroI2VConfig(scale=1.0), 5, 4, (32, 32)).eval()
    for parameter in method.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    merged, video = method.merged(), torch.randn(2, 4, 3, 32, 32)
    torch.testing.assert_close(merged(video).logits, method(video).logits, rtol=1e-5, atol=1e-5)
    ViT(merged.backbone.config).load_state_dict(merged.backbone.state_dict())


def test_without_the_fourth_adapter():
    assert not any("after_mlp" in key for key in make(output_adapter=False).own_state())


def test_dropout_acts_in_training_only():
    method, video = make(), torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(method(video).logits, method(video).logits)
    method.train()
    assert not torch.equal(method(video).logits, method(video).logits)


# What trains


def test_published_parameter_counts():
    """Section 2.4 and 8 of the published description: B/16 and L/14, 8 frames, 400 classes."""
    b16, l14 = on_meta(CLIP_B16), on_meta(CLIP_L14)
    assert count(b16.parameters(), trainable_only=True) == 14_517_136
    assert count(b16.adapters.parameters()) == 14_201_856
    assert count(l14.parameters(), trainable_only=True) == 50_874_768
    # The backbone's own norm stays beside the trained one, which the published totals count once.
    assert count(b16.parameters()) - 2 * 768 == 100_315_024
    assert count(l14.parameters()) - 2 * 1024 == 354_052_496


def test_gradients_reach_the_first_vectors_through_the_frozen_blocks():
    method = make()
    method(torch.randn(2, 4, 3, 32, 32)).logits.square().sum().backward()
    assert method.temporal_embedding.grad.norm() > 0
    assert all(p.grad is None for p in method.backbone.parameters())


def groups_by_name(method, args):
    names = {id(p): name for name, p in method.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in method.parameter_groups(args) for p in g["params"]}


def test_rates_and_decay_as_published():
    found = groups_by_name(make(backbone_lr=0.1), TrainArgs(lr=3e-4, weight_decay=0.05))
    assert found["head.bias"] == found["head.weight"] == (3e-4, 0.05)
    assert found["adapters.1.after_mlp.fc2.bias"] == (pytest.approx(3e-5), 0.05)
    assert found["temporal_embedding"] == found["norm.weight"] == (pytest.approx(3e-5), 0.0)
    everything = groups_by_name(make(), TrainArgs(weight_decay=0.05, decay_all=True))
    assert {decay for _, decay in everything.values()} == {0.05}


def test_other_numbers_of_frames():
    method = make(frames=4)
    other = method.adapted(8, (32, 32))
    table = other.temporal_embedding
    assert table.shape == (1, 8, 48)
    assert torch.equal(table[:, 0], method.temporal_embedding[:, 0])
    middle = 0.75 * method.temporal_embedding[0, 0] + 0.25 * method.temporal_embedding[0, 1]
    torch.testing.assert_close(table[0, 1], middle)
    assert other(torch.randn(1, 8, 3, 32, 32)).logits.shape == (1, 5)


# Published format


def layout(kind, width=768, **cfg):
    told = Told({"stdha_cfg": cfg}, "ZeroI2V's")
    text = official_shifts(kind, told.group("stdha_cfg"), width)
    told.finish()
    return text


@pytest.mark.parametrize(
    ("kind", "width", "cfg", "expected"),
    [
        ("ViT_Zero_CLIP", 768, {}, "-1:64,+1:64"),
        ("ViT_Zero_CLIP", 1024, {"shift_div": 8, "divide_head": False}, "-1:128,+1:128"),
        ("ViT_Zero_CLIP", 1024, {"shift_div": 8, "long_shift_div": 8}, "-1:128,+1:128,-2:128"),
        ("ViT_Zero_CLIP", 768, {"shift_stride": 3, "long_shift_div": 12}, "-3:64,+3:64,-2:64"),
        ("ViT_Zero_CLIP", 768, {"shift_div": -1}, "none"),
        ("ViT_Zero_CLIP_ablation", 768, {"long_shift_div": 12}, "-1:64,+1:64,-2:64"),
        (
            "ViT_Zero_CLIP_ablation",
            768,
            {"ops_type": "stdha", "long_shift_div": 12, "long_shift_right": True},
            "-1:64,+1:64,-2:64,+2:64",
        ),
        (
            "ViT_Zero_CLIP_long",
            1024,
            {"shift1_div": 8, "shift2_div": 16, "shift3_div": 16, "shift3_right": False, "shift4_div": -1},
            "-1:128,+1:128,-2:64,+2:64,-3:64",
        ),
        ("ViT_Zero_CLIP_long", 768, {"shift4_div": 24, "shift4_right": True}, "-1:64,+1:64,-4:32,+4:32"),
        ("ViT_Zero_CLIP_eval", 768, {}, "-1:192,+1:192"),
        ("ViT_Zero_CLIP_eval", 768, {"shift_div": 12, "shift_stride": 2}, "-2:64,+2:64"),
    ],
)
def test_the_authors_words_for_the_shifts(kind, width, cfg, expected):
    assert layout(kind, width, **cfg) == expected


def test_what_the_published_words_cannot_say():
    with pytest.raises(BadInput, match="divide_head=True is not supported"):
        layout("ViT_Zero_CLIP", divide_head=True)
    with pytest.raises(BadInput, match="ops_type other than 'stdha'"):
        layout("ViT_Zero_CLIP_ablation", ops_type="tcs")
    with pytest.raises(UnknownName, match="long_shift_div"):
        layout("ViT_Zero_CLIP_eval", long_shift_div=12)
    with pytest.raises(UnknownName, match="ViT_Zero_CLIP_lang"):
        layout("ViT_Zero_CLIP_lang")
    with pytest.raises(BadInput, match="give official_class"):
        layout(None, shift_div=12)


TOLD = {"shifts": "-1:16,+1:16", "scale": 0.7, "heads": 3}


@pytest.fixture
def published():
    """A published state dict of a tiny model, and the model."""
    method = make(scale=0.7)
    return to_published(Model("zeroi2v", method)), method


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("projection", [0, 32])
def test_every_variant_comes_back(prefix, merged, output, projection):
    config = dataclasses.replace(tiny_backbones()["clip"], projection=projection)
    torch.manual_seed(0)
    method = ZeroI2V(random_backbone(config), ZeroI2VConfig(output_adapter=output, scale=0.7), 5, 4, (32, 32)).eval()
    for parameter in method.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    method = method.merged() if merged else method
    state = {prefix + key: tensor for key, tensor in to_published(Model("zeroi2v", method)).items()}
    told = TOLD | ({} if output or not merged else {"num_tadapter": 1})
    model = assemble(read_published(state, told))
    assert model.method.config == (dataclasses.replace(method.config, hidden=12) if merged else method.config)
    video = torch.randn(2, 4, 3, 32, 32)
    assert torch.equal(model.method(video).logits, method(video).logits)
    back = to_published(model)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("merged", [False, True])
def test_all_options_of_a_recipe_may_be_told(published, merged):
    state, method = published
    state = to_published(Model("zeroi2v", method.merged())) if merged else state
    options = dataclasses.asdict(method.config) | {"hidden": 0, "merged": False}
    assert read_published(state, options | {"heads": 3}).config == dataclasses.replace(
        method.config, merged=merged, hidden=12
    )


def test_the_trained_norm_is_written_not_the_backbones(published):
    state, method = published
    assert not torch.equal(method.norm.weight, method.backbone.norm.weight)
    assert torch.equal(state["backbone.ln_post.weight"], method.norm.weight)
    read = read_published(state, TOLD)
    assert torch.equal(read.clip["visual.ln_post.weight"], read.state["norm.weight"])


def test_needed_words_are_asked_for(published):
    state, _ = published
    with pytest.raises(BadInput, match="do not tell scale.*0.5 for Kinetics-400"):
        read_published(state, {"shifts": "-1:16"})
    with pytest.raises(BadInput, match=r"do not tell shifts.*recipe.*'-1:64,\+1:64' \(ViT-B/16, 8 frames\)"):
        read_published(state, {"scale": 1})
    with pytest.raises(UnknownName, match="adapter_scal"):
        read_published(state, TOLD | {"adapter_scal": 1})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"num_frames": 8}, "num_frames is given as 8, but the tensors say 4"),
        ({"num_classes": 7}, "num_classes"),
        ({"width": 64}, "width"),
        ({"layers": 3}, "layers"),
        ({"patch_size": 16}, "patch_size"),
        ({"input_resolution": 48}, "grid|position|positional"),
        ({"num_tadapter": 1}, "num_tadapter is given as 1, but the tensors say 2"),
        ({"mlp_ratio": 0.5}, "mlp_ratio is given as 0.5, but the tensors have 12"),
        ({"hidden": 7}, "hidden is given as 7, but the tensors have 12"),
        ({"merged": True}, "merged is given, but the tensors have adapters"),
        ({"stdha_cfg": {"shift_div": 4}, "official_class": "ViT_Zero_CLIP"}, r"stdha_cfg says '-1:12,\+1:12'"),
        ({"official_class": "ViT_Zero_CLIP_eval"}, "the tensors have adapters"),
    ],
)
def test_words_that_contradict_the_tensors(published, told, said):
    with pytest.raises(CheckpointError, match=said):
        assemble(read_published(published[0], TOLD | told))


MARKS = ("backbone.temporal_embedding", "cls_head.fc_cls.weight")  # by which the format is recognised


@pytest.mark.parametrize(
    "key",
    [
        "backbone.temporal_embedding",
        "backbone.ln_post.bias",
        "backbone.conv1.weight",
        "backbone.class_embedding",
        "backbone.positional_embedding",
        "backbone.transformer.resblocks.1.attn.in_proj_bias",
        "backbone.transformer.resblocks.0.MLP_Adapter.D_fc1.weight",
        "backbone.transformer.resblocks.0.T_Adapter_in.D_fc1.weight",
        "backbone.transformer.resblocks.1.MLP_Adapter_out.D_fc2.bias",
        "cls_head.fc_cls.weight",
        "cls_head.fc_cls.bias",
    ],
)
def test_a_missing_key_is_an_error(published, key):
    state = dict(published[0])
    del state[key]
    with pytest.raises(CheckpointError, match="not of a published format" if key in MARKS else key):
        assemble(read_published(state, TOLD))


@pytest.mark.parametrize(
    "key",
    ["backbone.stranger", "decode_head.weight", "backbone.transformer.resblocks.0.Q_Adapter.D_fc1.weight"],
)
def test_an_unknown_key_is_named(published, key):
    with pytest.raises(CheckpointError, match=key):
        read_published(published[0] | {key: torch.zeros(2)}, TOLD)


@pytest.mark.parametrize(
    "key",
    [
        "backbone.transformer.resblocks.1.S_Adapter.D_fc2.weight",
        "cls_head.fc_cls.bias",
        "backbone.transformer.resblocks.0.mlp.c_fc.weight",
    ],
)
def test_a_misshapen_tensor_is_named(published, key):
    state = dict(published[0])
    state[key] = torch.zeros(*state[key].shape[:-1], state[key].shape[-1] + 1)
    with pytest.raises(CheckpointError, match=key.removeprefix("backbone.")):
        assemble(read_published(state, TOLD))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_an_adapter_is_its_formula(dropout, joined):
    torch.manual_seed(0)
    adapter = LinearAdapter(12, 5, 0.7, dropout).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    z, x = (torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves = [z, *([x] if joined else []), *adapter.parameters()]
    torch.manual_seed(1)
    found = adapter(z, x if joined else None)
    torch.manual_seed(1)
    wanted = z + 0.7 * adapter.fc2(adapter.dropout(adapter.fc1(z))) + (x if joined else 0)
    torch.testing.assert_close(found, wanted)
    grad = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(out, leaves, grad) for out in (found, wanted))
    for here, there in zip(ours, theirs, strict=True):
        torch.testing.assert_close(here, there)


def test_a_layer_scale_stands_between_an_adapter_and_the_sum():
    adapter, scale = LinearAdapter(6, 3, 0.7, 0.0), LayerScale(6)
    for parameter in (*adapter.parameters(), *scale.parameters()):
        torch.nn.init.normal_(parameter)
    x, z = torch.randn(2, 6), torch.randn(2, 6)
    torch.testing.assert_close(added(x, scale, adapter, z), x + scale.gamma * adapter(z))
    torch.testing.assert_close(added(x, torch.nn.Identity(), adapter, z), x + adapter(z))
