"""What every method must do on every family of backbones."""

import copy

import pytest
import torch

from muybridge.engine.loss import total_loss
from muybridge.errors import BadInput, CheckpointError
from muybridge.methods import METHODS, build_method
from muybridge.structures import TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones

FRAMES, SIZE, CLASSES = 4, (32, 32), 5
# fp32, outputs of order 1 that pass a few dozen sums of some hundred terms each.
CLOSE = {"atol": 2e-6, "rtol": 1e-5}
BACKBONES = tiny_backbones()
OPTIONS = {
    "dist": {"width": 48, "temporal_width": 12, "pooling_layers": 2},
    "evl": {"layers": 2, "heads": 3},
    "ila": {},
    "probe": {},
    "st_adapter": {"before_mlp": True, "kernel": (3, 3, 1)},
    "zeroi2v": {"shifts": "-1:16,+1:20,-2:5"},
}


def make(name, family):
    torch.manual_seed(0)
    method = build_method(name, random_backbone(BACKBONES[family]), CLASSES, FRAMES, SIZE, OPTIONS.get(name, {}))
    for parameter in method.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # tables that start at zero would hide what they do
    return method.eval()


@pytest.fixture(params=[(name, family) for name in METHODS for family in BACKBONES], ids=lambda p: "-".join(p))
def method(request):
    return make(*request.param)


@pytest.fixture
def video():
    return torch.randn(3, FRAMES, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_shapes(method, video):
    output = method(video)
    assert output.logits.shape == (3, CLASSES)
    assert torch.isfinite(output.logits).all()


def test_batch_of_three_is_three_batches_of_one(method, video):
    together = method(video).logits
    alone = torch.cat([method(one[None]).logits for one in video])
    torch.testing.assert_close(together, alone, **CLOSE)


def test_forward_is_readout_of_frozen(method, video):
    features = method.frozen(video)
    if features is None:
        pytest.skip("this method trains through its backbone; nothing is frozen")
    assert all(tensor.shape[0] == 3 and not tensor.requires_grad for tensor in features.values())
    torch.testing.assert_close(method.readout(features).logits, method(video).logits, rtol=0, atol=0)
    # Features can be read twice: nothing is changed in place.
    before = copy.deepcopy(features)
    method.readout(features)
    assert all(torch.equal(features[name], before[name]) for name in features)


def test_gradients_reach_exactly_the_trainable_parameters(method, video):
    method.train()
    total_loss(method(video), torch.tensor([0, 1, 2])).backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    groups = method.parameter_groups(TrainArgs())
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_frozen_bytes_do_not_change_and_trainable_ones_do(method, video):
    before = copy.deepcopy(method.state_dict())
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    method.train()
    optimizer = torch.optim.AdamW(method.parameter_groups(TrainArgs(decay_all=True)), lr=1e-2)
    total_loss(method(video), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    after = method.state_dict()
    if method.freezes_backbone:
        assert not any(name.startswith("backbone.") for name in trainable)
        assert not method.backbone.training
    for name in before:
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            continue  # statistics of a batch norm follow the data
        assert torch.equal(before[name], after[name]) == (name not in trainable), name


def test_merged_gives_the_same(method, video):
    torch.testing.assert_close(method.merged()(video).logits, method(video).logits, **CLOSE)


def test_own_state_goes_into_a_fresh_method(method, video):
    torch.manual_seed(7)
    fresh = type(method)(method.backbone, method.config, CLASSES, FRAMES, SIZE).eval()
    fresh.load_own(method.own_state())
    torch.testing.assert_close(fresh(video).logits, method(video).logits, rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_own_state_is_loaded_strictly(method, damage):
    state = method.own_state()
    key = sorted(state)[0]
    if damage == "missing":
        del state[key]
    elif damage == "unknown":
        state["stranger"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(*state[key].shape, 2)
    with pytest.raises(CheckpointError, match="stranger" if damage == "unknown" else key):
        method.load_own(state)


def test_trace_is_forward(method, video):
    traced = method.trace(video)
    assert torch.equal(traced["logits"], method(video).logits)


def test_compiles_without_a_graph_break(method, video):
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(video).logits, method(video).logits, **CLOSE)


def test_wrong_shapes_are_told(method, video):
    with pytest.raises(BadInput, match=r"expected \[B, T, 3, H, W\]. Did you mean video.transpose"):
        method(video.transpose(1, 2))
    with pytest.raises(BadInput, match="reads 4 frames; the video has 2"):
        method(video[:, :2])
    with pytest.raises(BadInput, match="reads 32x32 px; the video has 32x24"):
        method(video[..., :24])
    with pytest.raises(BadInput, match="at least 2 classes"):
        type(method)(method.backbone, method.config, 1, FRAMES, SIZE)


def test_evaluation_is_deterministic_and_training_mode_survives(method, video):
    assert torch.equal(method(video).logits, method(video).logits)
    assert method.train().training
