"""The schedule to the step, and which parameters are decayed."""

import math

import pytest
import torch

from muybridge.engine.loss import total_loss
from muybridge.engine.optim import make_optimizer, make_schedule, rate_factor
from muybridge.errors import UnknownName
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


# The published schedules


def test_ila_warms_up_to_a_cosine_that_has_gone_on():
    args = TrainArgs(epochs=50, warmup=5, schedule="ila", lr=4e-4, min_lr=8e-8, accumulate=4)
    factor = rate_factor(args, 100)
    assert factor(0) == 0.0
    assert factor(1) == pytest.approx(4 / 2000)  # counted in batches, moved by steps
    assert factor(500) == pytest.approx(0.976, abs=1e-3)
    floor = 8e-8 / 4e-4
    assert factor(500) == pytest.approx(floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * 2000 / 20000)))
    assert factor(5000) == pytest.approx(floor, rel=1e-3)


def test_ila_rates_of_all_groups_end_at_the_same_rate():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [w], "lr": lr} for w, lr in zip(weights, (5e-4, 8e-5), strict=True)])
    args = TrainArgs(epochs=10, warmup=0, schedule="ila", lr=4e-4, min_lr=8e-8)
    schedule = make_schedule(optimizer, args, 1000)
    for _ in range(10_001):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([8e-8, 8e-8])


def test_other_schedules_end_at_a_share_of_each_groups_rate():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [w], "lr": lr} for w, lr in zip(weights, (0.2, 0.1), strict=True)])
    schedule = make_schedule(optimizer, TrainArgs(epochs=1, warmup=0, lr=0.1, min_lr=0.01), 4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.02, 0.01])


def test_dist_warms_up_to_where_the_cosine_is():
    args = TrainArgs(epochs=36, warmup=6, warmup_start=8e-8 / 3.2e-5, schedule="dist", lr=3.2e-4)
    factor = rate_factor(args, 50)
    assert factor(0) * 3.2e-5 == pytest.approx(8e-8)
    assert factor(300) * 3.2e-5 == pytest.approx(2.9856e-5, abs=5e-10)
    assert factor(150) * 3.2e-5 == pytest.approx((8e-8 + 2.98564e-5) / 2, rel=1e-5)
    assert max(factor(step) for step in range(1800)) == factor(300)
    # A fraction of an epoch moves the cosine: epoch 18.5.
    assert factor(925) == pytest.approx(0.5 * (1 + math.cos(math.pi * 18.5 / 36)))
    assert factor(1800) == pytest.approx(0.0)


def test_zeroi2v_multiplies_a_warmup_with_a_cosine_of_whole_epochs():
    args = TrainArgs(epochs=40, warmup=2.5, warmup_start=0.1, schedule="zeroi2v", lr=3e-4)
    factor = rate_factor(args, 100)

    def cosine(epoch):
        return 0.5 * (1 + math.cos(math.pi * epoch / 40))

    assert factor(0) == pytest.approx(0.1)
    assert factor(99) == pytest.approx(0.1 + 0.9 * 99 / 249)
    assert factor(100) == pytest.approx((0.1 + 0.9 * 100 / 249) * cosine(1))
    assert factor(248) < factor(249) == pytest.approx(cosine(2))
    assert factor(299) == factor(250)
    assert factor(2000) == factor(2099) == pytest.approx(0.5)
    assert factor(3999) == pytest.approx(cosine(39))


def test_zeroi2v_without_a_warmup():
    factor = rate_factor(TrainArgs(epochs=4, warmup=0, warmup_start=0.1, schedule="zeroi2v"), 10)
    assert factor(0) == 1.0


def test_unknown_schedule():
    with pytest.raises(UnknownName, match="zeroi2v"):
        rate_factor(TrainArgs(schedule="zeroi2vv"), 10)
