"""EVL's quick lines against plain ones, values and gradients, and what its config refuses."""

import math

import pytest
import torch

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.methods import build_method
from muybridge.methods.evl import QueryAttention
from muybridge.methods.local_temporal import TemporalConv, TemporalMatch, affinity_maps, stretch_index
from muybridge.published.assemble import Model, assemble, read_published, to_published
from muybridge.testing.tiny import random_backbone

# fp64: any difference but rounding shows.
CLOSE = {"atol": 1e-10, "rtol": 1e-10}


def plain_attention(module, query, tokens):
    """Keys and values of all tokens, softmax, weighted sum: nothing absorbed."""
    heads = module.heads
    q = module.q(query).unflatten(-1, (heads, -1))  # [B, h, d]
    k = module.k(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, h, S, d]
    v = module.v(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = torch.einsum("bhd,bhsd->bhs", q, k) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v)
    return module.proj(mixed.flatten(1))


def plain_conv(module, x):
    """torch's depthwise convolution on [B * L, D, T]."""
    b, t, length, width = x.shape
    folded = x.permute(0, 2, 3, 1).reshape(b * length, width, t)
    out = torch.nn.functional.conv1d(folded, module.weight, module.bias, padding=1, groups=width)
    return out.reshape(b, length, width, t).permute(0, 3, 1, 2)


def plain_match(module, affinity, grid, prefix):
    """The sum over patches written as loops over frames and patches."""
    b, _, pairs, patches, _ = affinity.shape
    rows, columns = grid
    out = torch.zeros(b, pairs + 1, prefix + patches, module.next.shape[1], dtype=affinity.dtype)
    for t in range(pairs + 1):
        for table, maps, there in ((module.previous, affinity[:, 0], t - 1), (module.next, affinity[:, 1], t)):
            if not 0 <= there < pairs or (table is module.next and t == pairs):
                continue
            for p in range(patches):
                for r in range(patches):
                    di, dj = p // columns - r // columns, p % columns - r % columns
                    index = (di + rows - 1) * (2 * columns - 1) + dj + columns - 1
                    out[:, t, prefix + p] = out[:, t, prefix + p] + maps[:, there, p, r, None] * table[index]
    return out


def compare(fast, plain, parameters):
    """Values, and the gradients of a loss that weighs every element differently."""
    torch.testing.assert_close(fast, plain, **CLOSE)
    weights = torch.randn(fast.shape, dtype=fast.dtype, generator=torch.Generator().manual_seed(5))
    ours = torch.autograd.grad((fast * weights).sum(), parameters)
    theirs = torch.autograd.grad((plain * weights).sum(), parameters, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, **CLOSE)


def test_absorbed_projections_equal_plain_attention():
    torch.manual_seed(0)
    module, norm = QueryAttention(24, 32, 4).double(), torch.nn.LayerNorm(24).double()
    parameters = [*module.parameters(), *norm.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.3)
    query, tokens = torch.randn(3, 24).double(), torch.randn(3, 50, 24).double()
    compare(module(query, tokens, norm), plain_attention(module, query, norm(tokens)), parameters)


def test_shifted_sums_equal_the_convolution():
    torch.manual_seed(0)
    module = TemporalConv(12).double()
    for frames in (1, 2, 5):
        x = torch.randn(2, frames, 7, 12).double()
        before = x.clone()
        compare(module(x), x + plain_conv(module, x), list(module.parameters()))
        assert torch.equal(x, before)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_displacement_bins_equal_the_loops(prefix, frames):
    torch.manual_seed(0)
    grid = (2, 3)
    module = TemporalMatch(4, grid).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    affinity = torch.rand(2, 2, frames - 1, 6, 6).double().softmax(-1)
    y = torch.randn(2, frames, prefix + 6, 4).double()
    fast = module.onto(y, module.added(affinity, stretch_index(grid)))
    if frames == 1:
        assert torch.equal(fast, y)
    else:
        compare(fast, y + plain_match(module, affinity, grid, prefix), list(module.parameters()))


@pytest.mark.parametrize("graph", [True, False])
def test_affinity_maps_are_mean_probabilities_between_neighbours(graph):
    torch.manual_seed(0)
    frames, heads, prefix, patches, d = 3, 2, 1, 6, 4
    q, k = torch.randn(2 * frames, heads, prefix + patches, d), torch.randn(2 * frames, heads, prefix + patches, d)
    with torch.set_grad_enabled(graph):
        maps = affinity_maps(q, k, frames, prefix)
    assert maps.shape == (2, 2, frames - 1, patches, patches)
    for b in range(2):
        for i in range(frames - 1):
            for direction, (here, there) in enumerate([(i + 1, i), (i, i + 1)]):
                scores = torch.stack(
                    [
                        (q[b * frames + here, head, prefix:] @ k[b * frames + there, head, prefix:].T / d**0.5).softmax(
                            -1
                        )
                        for head in range(heads)
                    ]
                )
                torch.testing.assert_close(maps[b, direction, i], scores.mean(0))


CONFIG = ViTConfig(width=48, depth=3, heads=3, mlp_hidden=96, patch=(8, 8), image_size=(32, 32))


def test_frames_shuffled_change_the_answer():
    torch.manual_seed(0)
    evl = build_method("evl", ViT(CONFIG), 3, 4, (32, 32), {"layers": 2, "heads": 3}).eval()
    video = torch.randn(1, 4, 3, 32, 32)
    assert not torch.allclose(evl(video).logits, evl(video.flip(1)).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": 4}, "evl.layers is 4; the backbone has 3 blocks"),
        ({"layers": 0}, "evl.layers is 0"),
        ({}, "has 3 blocks"),
        ({"layers": 2}, "evl.heads is needed"),
        ({"layers": 2, "heads": 7}, "evl.heads is 7; it must divide"),
    ],
)
def test_config_that_does_not_fit_is_told(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        build_method("evl", ViT(CONFIG), 3, 4, (32, 32), options)


def test_unknown_option_names_the_closest():
    with pytest.raises(UnknownName, match="layers"):
        build_method("evl", ViT(CONFIG), 3, 4, (32, 32), {"layer": 2})


def published_state():
    evl = build_method("evl", ViT(CONFIG), 3, 4, (32, 32), {"layers": 2, "heads": 3})
    return evl, to_published(Model("evl", evl))


def test_published_format_with_and_without_prefix():
    evl, published = published_state()
    assert all(key.startswith("module.") for key in published)
    bare = {key.removeprefix("module."): value for key, value in published.items()}
    for state in (published, bare):
        read = read_published(state, {"heads": 3})
        assert read.config == type(evl.config)(layers=2, width=48, heads=3)
        back = to_published(assemble(read, backbone=ViT(CONFIG)))
        assert set(back) == set(state)
        assert all(torch.equal(back[key], state[key]) for key in state)


def test_published_keys_are_all_listed_or_refused():
    _, published = published_state()
    with pytest.raises(CheckpointError, match="stranger"):
        read_published({**published, "module.stranger": torch.zeros(1)}, {"heads": 3})
    wrong = {**published, "module.proj.0.bias": torch.zeros(7)}
    with pytest.raises(CheckpointError, match=r"module.proj.0.bias is \[7\], expected \[48\]"):
        assemble(read_published(wrong, {"heads": 3}), backbone=ViT(CONFIG))
    del published["module.decoder.decoder_layers.0.mlp.fc1.weight"]
    with pytest.raises(CheckpointError, match="mlp.fc1.weight"):
        read_published(published, {"heads": 3})


def test_what_the_tensors_do_not_tell_is_asked_for_and_contradictions_are_told():
    _, published = published_state()
    with pytest.raises(BadInput, match="do not tell heads"):
        read_published(published)
    with pytest.raises(CheckpointError, match="num_frames is given as 8, but the tensors say 4"):
        read_published(published, {"heads": 3, "num_frames": 8})
    with pytest.raises(UnknownName, match="heds"):
        read_published(published, {"heads": 3, "heds": 3})


def test_other_frames_and_sizes_are_interpolated():
    torch.manual_seed(0)
    evl = build_method("evl", random_backbone(CONFIG), 3, 4, (32, 32), {"layers": 2, "heads": 3}).eval()
    for parameter in evl.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    other = evl.adapted(6, (48, 40))
    assert other(torch.randn(1, 6, 3, 48, 40)).logits.shape == (1, 3)
    table, wider = evl.layers[0].temporal_match.next, other.layers[0].temporal_match.next
    assert wider.shape == (11 * 9, 48)
    torch.testing.assert_close(wider.reshape(11, 9, -1)[5, 4], table.reshape(7, 7, -1)[3, 3], atol=1e-6, rtol=0)
    video = torch.ones(1, 4, 3, 32, 32)
    assert torch.equal(evl.adapted(4, (32, 32))(video).logits, evl(video).logits)
