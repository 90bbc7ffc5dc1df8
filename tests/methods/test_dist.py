"""DiST's options and edges, and what trains."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput, UnknownName
from muybridge.methods import build_method
from muybridge.methods.dist import DiST, DiSTConfig, hidden_width
from muybridge.methods.heads import LinearHead
from muybridge.methods.integration import NORM_EPS, convolve_time, normed_linear
from muybridge.plain.dist import PlainDiST
from muybridge.structures import TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones

BACKBONES = tiny_backbones()
SIZE, FRAMES = (32, 32), 4
SMALL = {"width": 48, "temporal_width": 12, "pooling_layers": 2}
CLIP = {"pre_norm": True, "patch_bias": False, "projection_bias": False, "norm_eps": 1e-5, "activation": "quick_gelu"}


def make(family="clip", frames=FRAMES, classes=5, text=True, **options):
    torch.manual_seed(0)
    backbone = random_backbone(BACKBONES[family])
    config = backbone.config
    labels = torch.randn(classes, config.projection or config.width) if text else None
    return build_method("dist", backbone, classes, frames, SIZE, {**SMALL, **options}, labels).eval()


def film(batch=2, frames=FRAMES, size=SIZE):
    return torch.randn(batch, frames, 3, *size, generator=torch.Generator().manual_seed(1))


# What is published of the models' sizes.


@pytest.mark.parametrize(
    ("vit", "pooling_layers", "frames", "own", "all_of_it", "gmacs"),
    [
        ("B", 4, 16, 26.105, 112.298, 163.83),
        ("B", 4, 64, 26.253, 112.445, 655.30),
        ("B", 2, 16, 19.001, 105.194, 162.87),
        ("B", 2, 32, 19.044, 105.237, 325.73),
        ("L", 4, 16, 39.610, 343.576, 708.25),
        ("L", 2, 64, 32.745, 336.712, 2828.00),
    ],
)
def test_parameters_and_operations_are_the_published_ones(vit, pooling_layers, frames, own, all_of_it, gmacs):
    config = ViTConfig(**CLIP, projection=512)
    if vit == "L":
        config = ViTConfig(**CLIP, width=1024, depth=24, heads=16, mlp_hidden=4096, patch=(14, 14), projection=768)
    with torch.device("meta"):
        options = DiSTConfig(pooling_layers=pooling_layers, head="text")
        plain = PlainDiST(ViT(config), options, 400, frames, (224, 224)).eval()
        with FlopCounterMode(display=False) as counter:
            plain(torch.zeros(1, frames, 3, 224, 224))
    mine = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("backbone."))
    assert mine / 1e6 == pytest.approx(own, abs=6e-4)
    assert sum(p.numel() for p in plain.parameters()) / 1e6 == pytest.approx(all_of_it, abs=6e-4)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=4e-5)  # the table is rounded


# Initialisation and training.


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    dist = build_method("dist", random_backbone(BACKBONES["clip"]), 5, 4, SIZE, {}, torch.randn(5, 32))
    width = dist.config.width
    checked = set()
    for name, p in dist.named_parameters():
        if name.startswith("backbone."):
            continue
        if name == "proj":
            kind, std = "proj", width**-0.5
        elif name.endswith("qkv.weight"):
            kind, std = "qkv", (2 / (4 * width)) ** 0.5  # uniform between -+ sqrt(6 / (D + 3 D))
            assert p.abs().max() <= (6 / (4 * width)) ** 0.5
        elif name.endswith("bias"):
            kind, std = "bias", 0.0
        elif p.ndim == 1:
            kind, std = "norm", 0.0
            assert (p == 1).all()
        else:
            kind, std = "token" if p.shape[0] == 1 else "map", 0.02
        checked.add(kind)
        if kind == "bias":
            assert not p.any(), name
        elif std:
            assert p.std().item() == pytest.approx(std, rel=0.15), name
            assert abs(p.mean().item()) < 6 * std * p.numel() ** -0.5, name
    assert checked == {"proj", "qkv", "bias", "norm", "token", "map"}


def test_last_to_temporal_is_dead_and_kept():
    dist = make()
    frozen = {name for name, p in dist.named_parameters() if not p.requires_grad and "backbone" not in name}
    assert frozen == {"layers.1.to_temporal.weight", "layers.1.to_temporal.bias"}
    before = dist(film()).logits
    torch.nn.init.normal_(dist.layers[1].to_temporal.weight)
    assert torch.equal(dist(film()).logits, before)
    torch.nn.init.normal_(dist.layers[0].to_temporal.weight)
    assert not torch.allclose(dist(film()).logits, before, atol=1e-3)
    assert "layers.1.to_temporal.weight" in dist.own_state()


def test_tokens_and_vectors_are_not_decayed():
    dist = make()
    groups = dist.parameter_groups(TrainArgs(weight_decay=0.1, lr=0.2))
    names = {id(p): name for name, p in dist.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert all(group["lr"] == 0.2 for group in groups)
    ends = ("bias", "norm.weight", "class_token", "temporal_embedding", "video_token", "frame_token")
    for name, decay in decays.items():
        assert decay == (0.0 if name.endswith(ends) else 0.1), name
    assert decays["proj"] == decays["temporal_stem.weight"] == 0.1
    (everything,) = dist.parameter_groups(TrainArgs(weight_decay=0.1, decay_all=True))
    assert len(everything["params"]) == len(decays)
    assert everything["weight_decay"] == 0.1


# What is read.


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_backbone_reads_the_first_frame_of_each_group(ratio):
    dist = make(ratio=ratio)
    video = film()
    taps = dist.frozen(video)["taps"]
    assert taps.shape == (2, 2, FRAMES // ratio, 17, 48)
    for frame in range(FRAMES):
        changed = video.clone()
        changed[:, frame] += 1
        others = dist.frozen(changed)["taps"]
        moved = [t for t in range(FRAMES // ratio) if not torch.equal(others[:, :, t], taps[:, :, t])]
        assert moved == ([frame // ratio] if frame % ratio == 0 else [])
        assert not torch.allclose(dist(changed).logits, dist(video).logits, atol=1e-5)


def test_order_of_frames_matters():
    dist = make()
    assert not torch.allclose(dist(film()).logits, dist(film().flip(1)).logits, atol=1e-4)


def test_blocks_after_the_last_tapped_one_are_not_run():
    dist = make(layers=(0,))
    short = dist(film()).logits
    torch.nn.init.constant_(dist.backbone.blocks[1].mlp.fc2.weight, float("nan"))
    assert torch.equal(dist(film()).logits, short)
    assert len(dist.layers) == 1
    assert make(layers=(0, 1)).tapped == make().tapped == (0, 1)


def test_rows_of_backbones_with_registers_and_without_class_token():
    for family, prefix in (("dinov2_reg4", 5), ("siglip", 0), ("clip", 1)):
        dist = make(family)
        x = dist.backbone.embed(film()[:, ::2].flatten(0, 1))
        for i, block in enumerate(dist.backbone.blocks):
            x = block(x)
            first = x[:, :1] if prefix else x.mean(dim=1, keepdim=True)
            expected = torch.cat([first, x[:, prefix:]], dim=1).unflatten(0, (2, 2))
            torch.testing.assert_close(dist.frozen(film())["taps"][:, i], expected)


def test_pixels_that_fill_no_patch_are_dropped():
    backbone = random_backbone(replace(BACKBONES["clip"], patch=(8, 6)))
    torch.manual_seed(0)
    dist = build_method("dist", backbone, 3, 4, (27, 34), SMALL).eval()
    video = film(size=(27, 34))
    changed = video.clone()
    changed[..., 24:, :] = 9.0
    changed[..., 30:] = 9.0
    assert torch.equal(dist(video).logits, dist(changed).logits)
    assert dist.temporal_stem.weight.shape == (12, 3, 5, 8, 6)


# Heads.


def test_logits_are_cosines_of_the_embedding():
    dist = make()
    embedding = dist.encode_video(film())
    assert embedding.shape == (2, 32)
    cosines = torch.cosine_similarity(embedding[:, None], dist.head.features, dim=-1)
    torch.testing.assert_close(dist(film()).logits, 100 * cosines, atol=1e-4, rtol=1e-5)
    labels = torch.randn(9, 32)
    dist.relabel(labels)
    cosines = torch.cosine_similarity(embedding[:, None], labels, dim=-1)
    torch.testing.assert_close(dist(film()).logits, 100 * cosines, atol=1e-4, rtol=1e-5)


def test_linear_head_has_no_projection():
    dist = make(text=False, dropout=0.5)
    assert isinstance(dist.head, LinearHead)
    assert dist.proj is None
    assert "proj" not in dist.own_state()
    assert dist.encode_video(film()).shape == (2, 48)
    torch.testing.assert_close(dist.head(dist.encode_video(film())), dist(film()).logits)
    torch.manual_seed(0)
    dist.train()
    assert not torch.equal(dist(film()).logits, dist(film()).logits)


def test_zero_shot_is_half_of_the_backbones_own_answer_in_evaluation():
    dist, half = make(), make(zero_shot=True, layers=(0, 1))
    half.load_own(dist.own_state())
    images = dist.backbone(film()[:, ::2].flatten(0, 1)).unflatten(0, (2, 2))
    cosines = torch.cosine_similarity(images[:, :, None], dist.head.features, dim=-1).mean(dim=1)
    expected = 0.5 * dist(film()).logits + 50 * cosines
    torch.testing.assert_close(half(film()).logits, expected, atol=1e-4, rtol=1e-5)
    assert half.frozen(film())["image_features"].shape == (2, 2, 32)
    features = half.frozen(film())
    torch.testing.assert_close(half.train()(film()).logits, dist(film()).logits)
    torch.testing.assert_close(half.readout(features).logits, dist(film()).logits)
    # Blocks after the last tapped one are needed then.
    early, late = make(layers=(0,)), make(layers=(0,), zero_shot=True)
    late.load_own(early.own_state())
    torch.testing.assert_close(late(film()).logits, 0.5 * early(film()).logits + 50 * cosines, atol=1e-4, rtol=1e-5)


# Options.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 0}, "dist.ratio is 0"),
        ({"ratio": 3}, "frames is 4; .* dist.ratio=3 .* such as 3 or 6"),
        ({"ratio": 8}, "such as 8\\."),
        ({"width": 0}, "dist.width is 0"),
        ({"temporal_width": -1}, "dist.temporal_width is -1"),
        ({"pooling_layers": 0}, "dist.pooling_layers is 0"),
        ({"kernel": 2}, "dist.kernel is 2; expected an odd"),
        ({"stem_kernel": -1}, "dist.stem_kernel is -1"),
        ({"temporal_mlp_ratio": 0.0}, "dist.temporal_mlp_ratio is 0"),
        ({"mlp_ratio": -1.0}, "dist.mlp_ratio is -1"),
        ({"integration_temporal_ratio": 0.01}, "at least 1 of 48 channels"),
        ({"mlp_ratio": float("nan")}, "dist.mlp_ratio is nan"),
        ({"pooling_heads": 5}, "5 heads; they must divide dist.width 48"),
        ({"pooling_heads": -1}, "dist.pooling_heads is -1"),
        ({"width": 200}, "so 3 heads; they must divide"),
        ({"layers": (1, 0)}, "ascending"),
        ({"layers": (0, 0)}, "ascending"),
        ({"layers": (-1,)}, "from 0"),
        ({"layers": (0, 2)}, "dist.layers has 2; the backbone's blocks are 0 to 1"),
        ({"dropout": 1.0}, "dist.dropout"),
    ],
)
def test_options_that_do_not_fit_are_told(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        make(**options)


def test_heads_that_do_not_fit_are_told():
    with pytest.raises(UnknownName, match="dist.head"):
        make(head="cosine")
    with pytest.raises(BadInput, match="reads no label features"):
        make(head="linear")
    with pytest.raises(BadInput, match="zero_shot .* needs dist.head 'text'"):
        make(text=False, zero_shot=True)
    with pytest.raises(BadInput, match=r"expected \[K, 32\]"):
        build_method("dist", random_backbone(BACKBONES["clip"]), 5, 4, SIZE, SMALL, torch.randn(5, 48))


def test_hidden_width_is_the_published_truncation_and_finds_itself_again():
    assert [hidden_width(384, ratio) for ratio in (1, 0.25, 0.3)] == [384, 96, 115]
    for width in range(1, 400):
        for hidden in (1, width // 2, width - 1, width, width + 1):
            assert hidden_width(width, hidden / width) == hidden


# Other frames and sizes.


def test_other_frames_and_sizes():
    dist = make()
    longer = dist.adapted(8, SIZE)
    assert longer(film(frames=8)).logits.shape == (2, 5)
    for name in ("layers.0.class_token", "pooling.1.temporal_embedding"):
        old, new = dist.own_state()[name].squeeze(), longer.own_state()[name].squeeze()
        assert (old.shape[0], new.shape[0]) == (2, 4)
        torch.testing.assert_close(new[[0, 3]], old)  # linear between the middles of the old frames, flat outside
        torch.testing.assert_close(new[1], 0.75 * old[0] + 0.25 * old[1])
    assert torch.equal(dist.adapted(FRAMES, SIZE)(film()).logits, dist(film()).logits)
    assert dist.adapted(FRAMES, (24, 40))(film(size=(24, 40))).logits.shape == (2, 5)
    with pytest.raises(BadInput, match="multiple of it, such as 4 or 6"):
        dist.adapted(5, SIZE)


def test_text_head_without_labels_waits_for_a_saved_model():
    dist = make()
    fresh = DiST(dist.backbone, dist.config, 5, FRAMES, SIZE).eval()
    assert not fresh.head.features.any()
    fresh.load_own(dist.own_state())
    assert torch.equal(fresh(film()).logits, dist(film()).logits)


@pytest.mark.parametrize(("frames", "kernel"), [(8, 3), (8, 5), (2, 5), (1, 3), (4, 1)])
def test_convolution_over_time(frames, kernel):
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(6, 7, (kernel, 1, 1), padding=(kernel // 2, 0, 0)).double()
    x = torch.randn(2, frames, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    found, wanted = convolve_time(x, conv), conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(found, wanted)
    grad, leaves = torch.randn_like(found), [x, conv.weight, conv.bias]
    ours, theirs = (torch.autograd.grad(out, leaves, grad) for out in (found, wanted))
    for here, there in zip(ours, theirs, strict=True):
        torch.testing.assert_close(here, there)


def test_a_normalised_linear_map_is_its_formula_and_keeps_its_input_alone():
    torch.manual_seed(0)
    given = [torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 7, 12), (5, 12), (5,))]
    x, weight, bias = given
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        ours = normed_linear(x, weight, bias)
    plain = torch.nn.functional.linear(torch.nn.functional.layer_norm(x, (12,), eps=NORM_EPS), weight, bias)
    torch.testing.assert_close(ours, plain)
    grad = torch.randn_like(plain)
    for one, other in zip(torch.autograd.grad(ours, given, grad), torch.autograd.grad(plain, given, grad), strict=True):
        torch.testing.assert_close(one, other)
    assert {t.data_ptr() for t in kept if t.shape in (x.shape, (42, 12))} == {x.data_ptr()}
