"""A loss or gradients that are not finite: told with everything one needs, or left out, and never in a checkpoint."""

import json
import math
from dataclasses import replace

import pytest
import torch
from killed_run import backbone, go_on

from muybridge.engine.batches import Batch
from muybridge.engine.last import load_last
from muybridge.engine.progress import Progress
from muybridge.engine.step import Stepper
from muybridge.engine.train import resume
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.structures import TrainArgs
from muybridge.video.dataset import VideoDataset

ARGS = TrainArgs(lr=1e-2, batch_size=2)


class Heard(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def spoilt(monkeypatch):
    """Some videos are not finite once they are read: those that the test puts into this set."""
    wanted, original = set(), VideoDataset.__getitem__

    def spoil(self, key):
        sample = original(self, key)
        if self.training and key[1] in wanted:
            sample["video"] = sample["video"] * math.nan
        return sample

    monkeypatch.setattr(VideoDataset, "__getitem__", spoil)
    return wanted


def test_the_report_tells_where_what_and_how_to_go_on(videos, tmp_path, spoilt):
    spoilt.add(3)
    with pytest.raises(BadInput) as caught:
        go_on(videos, tmp_path / "run", workers=0)
    told = str(caught.value)
    assert "the loss is nan" in told
    assert "In epoch 1, batch " in told
    assert "learning rate 0.0" in told
    assert "norm of the gradients nan" in told
    assert "closing/3.mp4" in told
    assert "--train.skip_bad_steps 10" in told
    assert f"and the best model so far are in {tmp_path / 'run'}" in told
    state = load_last(tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())
    spoilt.clear()
    resume(tmp_path / "run", backbone())


def test_bad_steps_are_left_out_up_to_a_limit_and_leave_no_trace(videos, tmp_path, spoilt):
    spoilt.add(3)
    heard = Heard()
    result = go_on(videos, tmp_path / "run", heard, workers=0, skip_bad_steps=2)
    told = [line for line in heard.said if "this step is left out" in line]
    assert [line[-15:] for line in told] == ["1 of at most 2.", "2 of at most 2."]
    assert all(tensor.isfinite().all() for tensor in result.method.state_dict().values())
    state = load_last(tmp_path / "run")
    assert state["skipped"] == 2
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert math.isfinite(json.loads(line)["loss"])
    with pytest.raises(BadInput, match=r"Left out before: 1. .*--train.skip_bad_steps 10"):
        go_on(videos, tmp_path / "less", workers=0, skip_bad_steps=1)


def stepper(name="ila", **changes):
    torch.manual_seed(0)
    options = {"ila": {"layers": 1, "dropout": 0.0}}.get(name, {})
    method = build_method(name, backbone(), 3, 4, (32, 32), options)
    made = Stepper(method, replace(ARGS, **changes), 3, 4)
    made.step.train()
    return made


def batch(value=1.0, seed=1):
    video = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * value
    return Batch(video, torch.tensor([0, 2]), torch.arange(2), {})


def test_a_step_that_is_left_out_changes_nothing():
    left_out, plain = stepper(skip_bad_steps=1, ema=0.9), stepper(ema=0.9)
    assert left_out.take(batch(math.nan), True, 1).fault == "the loss is nan"
    for one in (left_out, plain):
        assert not one.take(batch(), True, 1).fault
    ours, theirs = left_out.method.state_dict(), plain.method.state_dict()
    assert left_out.schedule.last_epoch == plain.schedule.last_epoch + 1, "the schedule goes on"
    # Both took one step from the same weights, with the rates of the second and of the first step.
    statistics = [name for name in theirs if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(ours[name], theirs[name]) for name in statistics)
    assert left_out.average.steps == plain.average.steps == 1


def test_one_bad_batch_of_an_accumulated_step_spoils_the_step():
    made = stepper()
    before = {name: tensor.clone() for name, tensor in made.method.named_parameters()}
    assert not made.take(batch(math.inf), False, 2).fault
    assert made.take(batch(), True, 2).fault.startswith("the loss is")
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.method.named_parameters())
    assert not made.take(batch(), False, 2).fault
    assert not made.take(batch(), True, 2).fault, "the next step begins anew"


def test_gradients_that_are_not_finite_are_seen_where_the_loss_is():
    made = stepper("probe")
    head = next(p for p in made.method.parameters() if p.requires_grad)
    head.register_hook(lambda gradient: gradient * math.inf)
    before = head.detach().clone()
    taken = made.take(batch(), True, 1)
    assert math.isfinite(taken.loss)
    assert not math.isfinite(taken.norm)
    assert taken.fault == "the gradients are not finite"
    assert torch.equal(head, before)


def test_the_norm_is_that_before_clipping_and_clipping_keeps_to_it():
    norms, gradients = [], []
    for clip in (0.0, 0.01):
        made = stepper("probe", clip_grad=clip)
        made.optimizer.zero_grad = lambda made=made: gradients.append([p.grad.clone() for p in made.trained])
        norms.append(made.take(batch(), True, 1).norm)
    assert norms[0] == norms[1] > 0.01
    plain, clipped = (torch.cat([g.flatten() for g in group]) for group in gradients)
    assert plain.norm().item() == pytest.approx(norms[0], rel=1e-5)
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), plain / plain.norm())


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_batches_are_one_large_batch(parts):
    whole, made = stepper("zeroi2v", lr=1e-3), stepper("zeroi2v", lr=1e-3)
    for one in (whole, made):
        for module in one.method.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    found = []
    for one in (whole, made):
        one.optimizer.zero_grad = lambda one=one: found.append([p.grad.clone() for p in one.trained])
    videos, labels = torch.randn(4, 4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    total = whole.take(Batch(videos, labels, torch.arange(4), {}), True, 1)
    size, losses = 4 // parts, []
    for number in range(parts):
        part = slice(number * size, (number + 1) * size)
        piece = Batch(videos[part], labels[part], torch.arange(4)[part], {})
        losses.append(made.take(piece, number == parts - 1, parts).loss)
    assert sum(losses) / parts == pytest.approx(total.loss, abs=1e-6)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.gpu
def test_fp16_steps_that_the_scaler_leaves_out_are_no_fault():
    made = stepper(precision="fp16", ema=0.9)
    made.accelerator.scaler._init_scale = 2.0**40  # far too large: the first steps overflow
    faults = [made.take(batch(seed=i), True, 1).fault for i in range(40)]
    assert not any(faults)
    assert 0 < made.average.steps < 40
    assert made.finite()
