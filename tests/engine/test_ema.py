"""The moving average: its arithmetic, what is evaluated and saved with it, and that it leaves the weights alone."""

import torch
from killed_run import backbone, go_on

from muybridge.engine import run
from muybridge.engine.checkpoint import load_model
from muybridge.engine.ema import Average, changing
from muybridge.engine.evaluate import evaluate
from muybridge.engine.last import load_last
from muybridge.methods import build_method


def make():
    torch.manual_seed(0)
    return build_method("ila", backbone(), 3, 4, (32, 32), {"layers": 1})


def test_it_is_the_mean_that_its_formula_says():
    method = make()
    average = Average(method, 0.5)
    name, parameter = next((name, p) for name, p in method.named_parameters() if p.requires_grad)
    expected = parameter.detach().double().clone()
    for step in range(1, 9):
        with torch.no_grad():
            parameter += step
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    torch.testing.assert_close(average.tensors[name].double(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(average.tensors[name], parameter)


def test_it_holds_what_trains_and_nothing_of_a_frozen_backbone():
    method = make()
    held = Average(method, 0.9).tensors
    assert not [name for name in held if name.startswith("backbone.")]
    assert {name for name, parameter in method.named_parameters() if parameter.requires_grad} <= held.keys()
    assert [name for name in held if "running_mean" in name]
    assert [name for name in held if "num_batches_tracked" in name]


def test_within_the_method_has_the_average_and_afterwards_its_own():
    method = make()
    average = Average(method, 0.9)
    with torch.no_grad():
        for tensor in changing(method).values():
            tensor.add_(1)
    average.update()
    own = {name: tensor.clone() for name, tensor in changing(method).items()}
    mean = {name: tensor.clone() for name, tensor in average.tensors.items()}
    with average.applied():
        assert all(torch.equal(changing(method)[name], mean[name]) for name in mean)
    assert all(torch.equal(changing(method)[name], own[name]) for name in own)
    assert all(torch.equal(average.tensors[name], mean[name]) for name in mean)


def test_the_average_is_evaluated_and_saved_and_does_not_change_the_training(videos, tmp_path, monkeypatch):
    seen = []

    def watch(method, *args, **named):
        seen.append({name: tensor.clone() for name, tensor in changing(method).items()})
        return evaluate(method, *args, **named)

    monkeypatch.setattr(run, "evaluate", watch)
    result = go_on(videos, tmp_path / "with", workers=0, ema=0.9, epochs=1)
    state = load_last(tmp_path / "with")
    mean, own = state["average"]["tensors"], state["tensors"]
    assert all(torch.equal(seen[-1][name], mean[name]) for name in mean)
    saved = load_model(tmp_path / "with").method.own_state()
    assert all(torch.equal(saved[name], mean[name]) for name in mean)
    assert max((mean[name].float() - own[name].float()).abs().max().item() for name in mean) > 1e-4
    assert all(torch.equal(result.method.own_state()[name], mean[name]) for name in mean)
    go_on(videos, tmp_path / "without", workers=0, ema=0.0, epochs=1)
    plain = load_last(tmp_path / "without")
    assert "average" not in plain
    assert all(torch.equal(plain["tensors"][name], own[name]) for name in own)
