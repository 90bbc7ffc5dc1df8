"""The schedule to the step, and which parameters are decayed."""

import math

import pytest
import torch

from muybridge.engine.loss import total_loss
from muybridge.engine.optim import make_optimizer, rate_factor
from muybridge.methods import build_method
from muybridge.structures import Output, TrainArgs
from muybridge.testing.tiny import random_backbone, tiny_backbones


def test_warmup_then_cosine_to_the_floor():
    factor = rate_factor(TrainArgs(epochs=10, warmup=2, lr=1.0, min_lr=0.1), 5)
    assert [factor(step) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert factor(9) == pytest.approx(1.0)
    assert factor(10) == pytest.approx(1.0)
    assert factor(30) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(50) == pytest.approx(0.1)


def test_published_evl_schedule_has_no_warmup():
    factor = rate_factor(TrainArgs(epochs=1, warmup=0), 50_000)
    assert factor(0) == 1.0
    assert factor(25_000) == pytest.approx(0.5)
    assert factor(49_999) == pytest.approx(0.5 * (1 + math.cos(math.pi * 49_999 / 50_000)))


def test_constant_after_the_warmup():
    factor = rate_factor(TrainArgs(epochs=4, warmup=0.5, schedule="constant"), 4)
    assert [factor(step) for step in range(4)] == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("decay_all", [False, True])
def test_only_matrices_are_decayed_unless_asked(decay_all):
    method = build_method("probe", random_backbone(tiny_backbones()["in21k"]), 3, 4, (32, 32), {})
    optimizer = make_optimizer(method, TrainArgs(weight_decay=0.3, decay_all=decay_all))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if decay_all or parameter.ndim > 1 else 0.0)


def test_loss_adds_the_methods_own():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    plain = total_loss(Output(logits), labels)
    assert total_loss(Output(logits, {"alignment": torch.tensor(0.25)}), labels) == pytest.approx(plain.item() + 0.25)
    assert plain == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert total_loss(Output(logits), labels, 0.1) != plain
