"""What every method must do on every family of backbones."""

import copy

import pytest
import torch
from method_cases import BACKBONES, CLASSES, CLOSE, FRAMES, SIZE, WITH_LABELS, draw_labels, draw_video, make

from muybridge.engine.checkpoint import MODEL, load_model, model_spec, save_model
from muybridge.engine.loss import total_loss
from muybridge.errors import BadInput, CheckpointError
from muybridge.methods import METHODS
from muybridge.methods.base import text_head
from muybridge.structures import Sampling, TrainArgs, Transform

LABELS = ("closing", "falling", "größer werden", "opening", "rising")


@pytest.fixture(params=[(name, family) for name in METHODS for family in BACKBONES], ids=lambda p: "-".join(p))
def method(request):
    return make(*request.param)


@pytest.fixture
def video():
    return draw_video(3)


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


def assert_gradients_reach_what_trains(method, video):
    method.train()
    total_loss(method(video), torch.tensor([0, 1, 2])).backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_gradients_reach_exactly_the_trainable_parameters(method, video):
    assert_gradients_reach_what_trains(method, video)
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


# Methods that compare videos with class names: the same, with a text head.


@pytest.fixture(params=[(name, family) for name in WITH_LABELS for family in ("clip", "siglip")], ids="-".join)
def named(request):
    """(name, family, method with a text head for five class names)."""
    name, family = request.param
    return name, family, make(name, family, draw_labels(family))


def test_there_are_methods_with_text_heads():
    assert {"dist", "ila"} <= set(WITH_LABELS)


def test_text_head_shapes(named, video):
    _, family, method = named
    head = text_head(method)
    assert head is not None
    assert torch.equal(head.features, draw_labels(family))
    logits = method(video).logits
    assert logits.shape == (3, CLASSES)
    assert torch.isfinite(logits).all()
    # Cosines, scaled.
    assert logits.abs().max() <= head.logit_scale.exp() * (1 + 1e-5)


def test_relabel_changes_the_classes_and_keeps_the_logits_of_a_name(named, video):
    _, family, method = named
    before, own = method(video).logits, draw_labels(family)
    strangers = draw_labels(family, classes=6, seed=3)
    method.relabel(torch.cat([strangers, own[[4, 1]]]))
    after = method(video).logits
    assert method.classes == 8
    assert after.shape == (3, 8)
    torch.testing.assert_close(after[:, 6:], before[:, [4, 1]], **CLOSE)
    assert not torch.allclose(after[:, :5], before, atol=1e-2)
    method.relabel(own[:2])
    assert method(video).logits.shape == (3, 2)
    method.relabel(own)
    assert torch.equal(method(video).logits, before)


def test_text_head_is_saved_and_loaded(named, video, tmp_path):
    name, _, method = named
    spec = model_spec(name, method, "custom", LABELS, Sampling(frames=FRAMES), Transform(size=SIZE))
    save_model(tmp_path / MODEL, method, spec)
    loaded, told, _ = load_model(tmp_path)
    assert told == spec
    assert text_head(loaded) is not None
    assert torch.equal(loaded(video).logits, method(video).logits)


def test_gradients_of_a_text_head_reach_exactly_the_trainable_parameters(named, video):
    _, _, method = named
    assert_gradients_reach_what_trains(method, video)
    assert not any(tensor.requires_grad for tensor in text_head(method).buffers())


def test_label_features_of_another_width_are_refused(named):
    name, family, method = named
    wide = torch.nn.functional.pad(draw_labels(family), (0, 1))
    sentence = rf"label features have shape \[5, {wide.shape[1]}\]; expected \[K, {wide.shape[1] - 1}\]"
    with pytest.raises(BadInput, match=sentence):
        make(name, family, wide)
    with pytest.raises(BadInput, match=sentence):
        method.relabel(wide)
