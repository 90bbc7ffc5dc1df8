"""ILA by itself: where it starts, what its options do, its edges, its published format."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.methods import build_method
from muybridge.methods.alignment import Alignment, ConvNorm, merge
from muybridge.methods.ila import ILA, ILAConfig, choose_heads, class_token_only
from muybridge.plain.ila import PlainILA
from muybridge.published.assemble import Model, to_published
from muybridge.published.ila import names
from muybridge.structures import TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones

FRAMES, SIZE, CLASSES = 4, (32, 32), 5


def make(family="clip", frames=FRAMES, size=SIZE, text=False, fresh=False, **options):
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()[family])
    labels = torch.randn(CLASSES, backbone.config.projection or backbone.config.width) if text else None
    method = ILA(backbone, ILAConfig(**options), CLASSES, frames, size, labels).eval()
    if not fresh:
        for parameter in method.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return method


def clip(batch=2, frames=FRAMES, size=SIZE, seed=1):
    return torch.randn(batch, frames, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def alignment():
    torch.manual_seed(0)
    return Alignment(8, (5, 7), prefix=1).eval()


# ---- where it starts


def test_a_fresh_model_is_the_plain_backbone_frame_by_frame():
    method, video = make(fresh=True), clip()
    with torch.no_grad():
        traced, x = method.trace(video), method.backbone.embed(video.flatten(0, 1))
        for i, block in enumerate(method.backbone.blocks):
            x = block(x)
            torch.testing.assert_close(traced[f"block.{i}"], x, rtol=1e-5, atol=1e-6)
    assert not traced["layers.0.points"].any()
    assert not torch.equal(traced["layers.0.aligned"], traced["layers.0.inter"])


def test_initial_values():
    method = make("in21k", text=True, fresh=True)
    state = method.own_state()
    assert (state["prompts.alpha"] == 0.1).all()
    assert 0.9 < state["prompts.visual_proj"].std() < 1.1
    assert not state["layers.0.alignment.prediction.out.weight"].any()
    assert state["layers.0.alignment.prediction.hidden.weight"].any()
    for name in ("integration.blocks.0.mlp.fc1", "integration.blocks.0.attn.proj", "prompts.layers.1.mlp.fc2"):
        assert 0.018 < state[f"{name}.weight"].std() < 0.022
        assert not state[f"{name}.bias"].any()
    assert 0.015 < state["integration.temporal_embedding"].std() < 0.025
    bound = (6 / (48 + 3 * 48)) ** 0.5  # torch's nn.MultiheadAttention
    in_proj = state["integration.blocks.0.attn.qkv.weight"]
    assert 0.98 * bound < in_proj.abs().max() <= bound
    assert 0.018 < make(fresh=True).head.fc.weight.std() < 0.022


# ---- the alignment module


def test_mask_is_a_square_plateau_whose_first_coordinate_is_the_column(alignment):
    mask = alignment.mask(torch.tensor([[[0.5, -0.25]]])).reshape(5, 7)
    for i in range(5):
        for j in range(7):
            down, across = abs(2 * i / 4 - 1 + 0.25), abs(2 * j / 6 - 1 - 0.5)
            expected = 1.0
            for distance in (down, across):
                expected *= 1.0 if distance <= 0.25 else max(0.0, 1 - 1.5 * (distance - 0.25))
            assert mask[i, j].item() == pytest.approx(expected, abs=1e-6)


def test_in_training_a_mask_is_the_mean_of_nine(alignment):
    point = torch.tensor([[[0.3, -0.6]]])
    single = [alignment.mask(point + 0.2 * torch.tensor([x, y])) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
    torch.testing.assert_close(alignment.train().mask(point), torch.stack(single).mean(dim=0))


def test_frames_between_are_in_two_pairs():
    earlier, later = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    assert merge(earlier, later).tolist() == [[1.0, 6.0, 11.5, 30.0]]
    assert merge(earlier[:, :1], later[:, :1]).tolist() == [[1.0, 10.0]]


@pytest.mark.parametrize("interaction", ["depthwise", "full"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_alignment_takes_any_tokens(interaction, prefix):
    torch.manual_seed(0)
    module = Alignment(8, (4, 6), prefix, interaction)
    f = torch.randn(2, 3, prefix + 24, 8)
    aligned, inter, loss = module(f)
    assert aligned.shape == inter.shape == f.shape
    assert torch.equal(aligned[:, :, :prefix], f[:, :, :prefix])
    assert torch.equal(inter[:, :, :prefix], f[:, :, :prefix])
    assert 0 < loss < 2
    assert module.look(f).points.shape == (2, 2, 4)


def test_one_frame_has_no_pairs(alignment):
    f = torch.randn(2, 1, 36, 8)
    aligned, inter, loss = alignment(f)
    assert torch.equal(aligned, f)
    assert loss == 0
    assert torch.equal(inter[0, :, 1:], inter[1, :, 1:])  # what the biases make of nothing
    method = make(frames=1).train()
    assert method(clip(frames=1)).losses["alignment"] == 0


def test_equal_frames_cost_nothing(alignment):
    f = torch.randn(1, 1, 36, 8).expand(1, 3, -1, -1)
    pairs = alignment.look(f)
    assert pairs.points[..., :2].equal(pairs.points[..., 2:])  # both in the middle
    assert alignment.loss(f, pairs).item() == pytest.approx(0, abs=1e-6)


def test_loss_is_computed_in_fp32(alignment):
    f = torch.randn(1, 2, 36, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = alignment(f)[2]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, alignment(f)[2], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("grid", [(3, 8), (8, 3)])
def test_small_grids_are_told(grid):
    with pytest.raises(BadInput, match=rf"at least 4x4 patches; it is {grid[0]}x{grid[1]}"):
        Alignment(8, grid, prefix=0)
    with pytest.raises(BadInput, match="at least 4x4"):
        make(size=(8 * grid[0], 8 * grid[1]))


def test_unknown_interaction_is_told():
    with pytest.raises(UnknownName, match="depthwise"):
        Alignment(8, (4, 4), 0, "dephtwise")


# ---- training


@pytest.mark.parametrize(
    ("epoch", "epochs", "expected"),
    [(0, 50, 0.2), (29, 50, 0.2), (30, 50, 0.1), (31, 50, 0.05), (5, 10, 0.2), (6, 10, 0.1), (4, 7, 0.2), (5, 7, 0.1)],
)
def test_disturbance_halves_from_sixty_percent_on(epoch, epochs, expected):
    method = make()
    method.on_epoch(49, 50)  # what an earlier epoch left does not matter
    method.on_epoch(epoch, epochs)
    assert [layer.alignment.disturbance.item() for layer in method.layers] == pytest.approx([expected] * 2)
    assert not any("disturbance" in name for name in method.own_state())


def test_disturbance_acts_in_training_only():
    method, video = make(dropout=0.0), clip()
    still = method(video).logits
    method.on_epoch(49, 50)
    assert torch.equal(method(video).logits, still)
    quiet = method.train()(video).logits
    method.on_epoch(0, 50)
    assert (method(video).logits - quiet).abs().max() > 1e-5


def test_losses_are_weighted_and_in_training_only():
    assert make()(clip()).losses == {}
    one, three = make(dropout=0.0).train(), make(dropout=0.0, auxiliary_weight=3.0).train()
    traced = one.trace(clip())
    blocks = traced["layers.0.loss"] + traced["layers.1.loss"]
    assert blocks > 0
    torch.testing.assert_close(traced["loss.alignment"], blocks)
    torch.testing.assert_close(three(clip()).losses["alignment"], 3 * blocks)


def test_gradients_pass_through_the_frozen_blocks_and_end_above_the_stem():
    method = make().train()
    method(clip()).logits.sum().backward()
    assert method.layers[0].message.weight.grad.any()
    assert not method.trace(clip())["embedded"].requires_grad


def test_parameter_groups_follow_the_published_factors():
    method, args = make(text=True), TrainArgs(lr=4e-4, weight_decay=0.01)
    found = {}
    for group in method.parameter_groups(args):
        for parameter in group["params"]:
            found[id(parameter)] = (pytest.approx(group["lr"]), pytest.approx(group["weight_decay"]))
    expected = {
        "layers.0.message.weight": (5e-4, 0.01),
        "layers.0.message_norm.weight": (5e-4, 0),
        "layers.1.alignment.interaction.0.conv.weight": (5e-4, 0.01),
        "layers.1.alignment.interaction.0.norm.weight": (5e-4, 0),
        "layers.1.skip.weight": (8e-5, 0.001),
        "layers.1.skip_aligned.bias": (8e-5, 0),
        "integration.blocks.0.mlp.fc1.weight": (4e-4, 0.003),
        "integration.temporal_embedding": (4e-4, 0),
        "prompts.visual_proj": (4e-4, 0.003),
        "prompts.alpha": (4e-4, 0),
    }
    parameters = dict(method.named_parameters())
    assert {name: found[id(parameters[name])] for name in expected} == expected
    decayed = method.parameter_groups(TrainArgs(decay_all=True))
    assert all(group["weight_decay"] > 0 for group in decayed)
    linear = make()
    group = next(g for g in linear.parameter_groups(args) if any(p is linear.head.fc.weight for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(4e-4), pytest.approx(0.003))


def test_prompts_can_stay_as_they_are():
    method = make(text=True, train_prompts=False).train()
    method(clip()).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is None for p in method.prompts.parameters())
    grouped = {id(p) for group in method.parameter_groups(TrainArgs()) for p in group["params"]}
    assert grouped == {id(p) for name, p in method.named_parameters() if name.startswith(("layers.", "integration."))}


# ---- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interaction": "half"}, "ila.interaction"),
        ({"head": "txt"}, "ila.head"),
        ({"integration_layers": 0}, "ila.integration_layers is 0"),
        ({"prompt_layers": 0}, "ila.prompt_layers is 0"),
        ({"integration_heads": 5}, "ila.integration_heads is 5; it must divide the features' width 32"),
        ({"integration_heads": -1}, "ila.integration_heads is -1"),
        ({"dropout": 1.0}, "ila.dropout"),
        ({"auxiliary_weight": -0.5}, "ila.auxiliary_weight is -0.5"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises((BadInput, UnknownName), match=message):
        make(**options)


def test_heads_are_of_64_channels_or_as_wide_as_the_backbones():
    backbone = ViTConfig(width=48, heads=3)  # 16 channels a head
    assert [choose_heads("x", 0, width, backbone) for width in (128, 48, 32, 50)] == [2, 3, 2, 1]
    assert choose_heads("x", 6, 48, backbone) == 6


def test_batch_statistics_follow_the_batch_and_leave_the_running_ones():
    running, batch = make(), make(batch_statistics=True)
    batch.load_own(running.own_state())
    before = {name: tensor.clone() for name, tensor in batch.own_state().items()}
    one, two = clip(1, seed=1), clip(1, seed=2)
    both = torch.cat([one, two])
    assert torch.allclose(running(both).logits[:1], running(one).logits, atol=1e-5)
    assert (batch(both).logits[:1] - batch(one).logits).abs().max() > 1e-4
    assert all(torch.equal(before[name], tensor) for name, tensor in batch.own_state().items())
    batch.train()(both)
    assert batch.own_state()["layers.0.alignment.interaction.0.norm.num_batches_tracked"] == 1


def test_labels_are_compared_one_by_one_and_can_be_exchanged():
    method, video = make(text=True), clip()
    logits, features = method(video).logits, method.head.features
    method.relabel(features[[4, 2, 0]])
    torch.testing.assert_close(method(video).logits, logits[:, [4, 2, 0]], rtol=1e-5, atol=1e-5)
    with pytest.raises(BadInput, match="expected"):
        method.relabel(torch.zeros(3, 7))
    with pytest.raises(BadInput, match="linear head"):
        make().relabel(features)


def test_prompts_see_the_video():
    method = make(text=True)
    prompted = method.trace(clip())["prompted"]
    assert prompted.shape == (2, CLASSES, 32)
    assert (prompted[0] - prompted[1]).abs().max() > 1e-4


def test_text_head_and_training_compile():
    method, video = make(text=True).train(), clip()
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(video).logits, method(video).logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", ["clip", "dinov2_reg4"])
def test_last_block_for_the_class_token_alone(family):
    backbone = random_backbone(tiny_backbones()[family])
    x = torch.randn(3, backbone.config.prefix + 16, 48)
    block = backbone.blocks[1]
    torch.testing.assert_close(class_token_only(block, x), block(x)[:, :1], rtol=1e-5, atol=1e-6)


def test_other_frames_and_sizes():
    method = make(text=True)
    longer = method.adapted(8, (32, 48))
    table = method.integration.temporal_embedding
    assert longer.integration.temporal_embedding.shape == (1, 8, 32)
    torch.testing.assert_close(longer.integration.temporal_embedding[:, 0], table[:, 0])
    torch.testing.assert_close(longer.integration.temporal_embedding.mean(1), table.mean(1), rtol=1e-4, atol=1e-6)
    assert longer(clip(frames=8, size=(32, 48))).logits.shape == (2, CLASSES)
    with pytest.raises(BadInput, match="at least 4x4"):
        method.adapted(FRAMES, (32, 24))


# ---- sizes and costs stated by the authors, or counted on their code (torch's counter, multiply-adds)

FULL_SIZE = [
    # width, depth, patch, pixels, frames, head; millions trained, in message_*, temporal_*, mit; G multiply-adds
    (768, 12, 32, 224, 8, "text", 50.32, 26.29, 14.17, 3.16, 52.3),
    (768, 12, 16, 224, 8, "text", 50.32, 26.29, 14.17, 3.16, 201.7),
    (1024, 24, 14, 336, 16, "text", 140.14, 67.70, 50.38, 7.10, 4110.0),
    (768, 12, 16, 224, 8, "linear", 81.24, 63.82, 14.17, 3.25, 250.2),
    (1024, 24, 14, 224, 8, "linear", 225.38, 167.77, 50.38, 7.23, 1054.8),
]


@pytest.mark.parametrize("row", FULL_SIZE, ids=lambda row: f"{row[0]}-{row[2]}-{row[3]}px-{row[4]}f-{row[5]}")
def test_parameters_and_cost_are_the_published_ones(row):
    width, depth, patch, pixels, frames, head, *millions, cost = row
    shape = ViTConfig(
        width=width,
        depth=depth,
        heads=width // 64,
        mlp_hidden=4 * width,
        patch=(patch, patch),
        image_size=(pixels, pixels),
        pre_norm=True,
        patch_bias=False,
        projection={768: 512, 1024: 768}[width],
        projection_bias=False,
    )
    config = ILAConfig(interaction="depthwise" if head == "text" else "full", head=head)
    counted = {}
    with torch.device("meta"), torch.no_grad():
        vit = ViT(shape)
        for kind in (ILA, PlainILA):
            method = kind(vit, config, 400 if head == "text" else 174, frames, (pixels, pixels)).eval()
            with FlopCounterMode(display=False) as counter:
                method(torch.empty(1, frames, 3, pixels, pixels))
            counted[kind] = counter.get_total_flops() / 2e9
    theirs = names(method)
    trained = {theirs[name]: p.numel() / 1e6 for name, p in method.named_parameters() if p.requires_grad}
    found = [sum(n for name, n in trained.items() if part in name) for part in ("", "message_", "temporal_", "mit.")]
    assert found == pytest.approx(millions, abs=0.006)
    assert counted[PlainILA] == pytest.approx(cost, abs=max(0.06, 5e-5 * cost))
    assert counted[ILA] < 0.97 * cost


def test_alignments_before_the_last_blocks_only():
    backbone = random_backbone(tiny_backbones()["clip"])
    with pytest.raises(BadInput, match="ila.layers is 3; the backbone has 2 blocks"):
        build_method("ila", backbone, 5, 4, (32, 32), {"layers": 3})
    method = build_method("ila", backbone, 5, 4, (32, 32), {"layers": 1})
    assert len(method.layers) == 1
    traced = method.train().trace(torch.randn(2, 4, 3, 32, 32))
    assert "block.0" not in traced
    assert traced["block.1"].requires_grad
    with pytest.raises(CheckpointError, match="1 alignments in 2 blocks"):
        to_published(Model("ila", method))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_norm_folded_into_its_convolution_equals_both(groups, pool):
    torch.manual_seed(0)
    layer = ConvNorm(6, 6, 3, groups, batch_statistics=False, pool=pool).double().eval()
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(layer.norm.running_var, 0.5, 2)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    plain = layer.norm(layer.conv(x))
    plain = torch.relu(torch.nn.functional.max_pool2d(plain, 2) if pool else plain)
    fast, trained = layer(x), [layer.conv.weight, layer.conv.bias, layer.norm.weight, layer.norm.bias]
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(
        torch.autograd.grad(fast.square().sum(), trained),
        torch.autograd.grad(plain.square().sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
