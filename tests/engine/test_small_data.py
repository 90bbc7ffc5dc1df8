"""Few videos and uneven classes: how many epochs, what classes weigh, and what stops early."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from muybridge.engine import run as run_module
from muybridge.engine.loss import total_loss
from muybridge.engine.metrics import Evaluation
from muybridge.engine.small_data import FEWEST, MOST, STEPS, auto_epochs, balanced_items, class_weights, fit_to_data
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput
from muybridge.recipes import check, override, read_recipe, validate
from muybridge.structures import Item, Output, Recipe, TrainArgs
from muybridge.video.dataset import read_source
from trainings import backbone, probe_recipe


@pytest.fixture
def recipe(videos):
    return validate(probe_recipe(videos, epochs=3, batch_size=5))


def with_train(recipe, **changes):
    return replace(recipe, train=replace(recipe.train, **changes))


@pytest.mark.parametrize("videos", [100, 300, 500, 1000, 3000])
@pytest.mark.parametrize("args", [TrainArgs(), TrainArgs(batch_size=8, accumulate=4)])
def test_auto_takes_about_as_many_steps_whatever_the_number_of_videos(videos, args):
    epochs = auto_epochs(videos, args)
    steps = epochs * -(-videos // (args.batch_size * args.accumulate))
    assert epochs in (FEWEST, MOST) or abs(steps - STEPS) <= STEPS / FEWEST / 2


def test_auto_has_ends():
    assert auto_epochs(3, TrainArgs()) == MOST
    assert auto_epochs(240_000, TrainArgs()) == FEWEST
    assert auto_epochs(320, TrainArgs(), processes=2) == auto_epochs(320, TrainArgs(batch_size=32))


def test_auto_is_the_default_and_a_word(recipe, videos):
    assert Recipe().train.epochs == 0
    assert override(Recipe(), {"train.epochs": "auto"}).train.epochs == 0
    source = read_source(videos)
    fitted, same = fit_to_data(with_train(recipe, epochs=0), source)
    assert fitted.train.epochs == auto_epochs(15, recipe.train)
    assert same is source
    assert fit_to_data(recipe, source)[0] is recipe


def test_auto_is_settled_in_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("muybridge.engine.small_data.STEPS", 6)
    monkeypatch.setattr("muybridge.engine.small_data.FEWEST", 1)
    train(with_train(recipe, epochs=0), tmp_path / "run", backbone=backbone())
    assert read_recipe(tmp_path / "run/recipe.json").train.epochs == 2
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


LABELS = [0] * 6 + [1] * 3 + [2]


def test_class_weights():
    assert class_weights(LABELS, 3, "none") is None
    balanced = class_weights(LABELS, 3, "balanced")
    torch.testing.assert_close(balanced * torch.tensor([6.0, 3.0, 1.0]), torch.full((3,), 10 / 3))
    many = [0] * 6000 + [1] * 30
    effective = class_weights(many, 2, "effective")
    torch.testing.assert_close(effective[1] / effective[0], torch.tensor((1 - 0.999**6000) / (1 - 0.999**30)).float())
    assert (
        class_weights(many, 2, "balanced")[1] / class_weights(many, 2, "balanced")[0] > 3 * effective[1] / effective[0]
    )
    for weights, labels in ((balanced, LABELS), (effective, many)):
        assert weights[torch.tensor(labels)].mean().item() == pytest.approx(1, abs=1e-5)
    assert class_weights(LABELS, 4, "balanced")[3] == 0  # a class without a video


def test_weighted_loss_adds_up_over_batches():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, weights = torch.tensor([0, 0, 1, 0, 2, 1]), torch.tensor([0.5, 1.0, 2.5])
    whole = total_loss(Output(logits, {}), labels, 0.1, weights)
    parts = [total_loss(Output(logits[i : i + 2], {}), labels[i : i + 2], 0.1, weights) for i in (0, 2, 4)]
    torch.testing.assert_close(whole, sum(parts) / 3)
    plain = (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).sum() / 6
    torch.testing.assert_close(total_loss(Output(logits, {}), labels, 0.0, weights), plain)
    soft = F.one_hot(labels, 3).float()
    torch.testing.assert_close(total_loss(Output(logits, {}), soft, 0.1, weights), plain)
    torch.testing.assert_close(
        total_loss(Output(logits, {}), labels, 0.1, torch.ones(3)), total_loss(Output(logits, {}), labels, 0.1)
    )


def test_class_weights_reach_the_training(recipe, videos, tmp_path, monkeypatch):
    seen = []
    original = run_module.class_weights

    def watched(labels, classes, kind):
        seen.append((Counter(labels), kind))
        return original(labels, classes, kind)

    monkeypatch.setattr(run_module, "class_weights", watched)
    source = read_source(videos)
    uneven = replace(
        source, train=tuple(item for item in source.train if item.label != 1 or item.name.endswith("0.mp4"))
    )
    digests = set()
    for kind in ("none", "balanced", "effective"):
        train(with_train(recipe, class_weights=kind), tmp_path / kind, uneven, backbone())
        digests.add((tmp_path / kind / "model.safetensors").read_bytes()[-5000:])
    assert seen[1] == (Counter({0: 5, 1: 1, 2: 5}), "balanced")
    assert len(digests) >= 2


def items(*counts):
    return tuple(
        Item(path=f"{label}/{number}", label=label, name=f"{label}/{number}")
        for label, count in enumerate(counts)
        for number in range(count)
    )


def test_every_class_as_often_as_the_largest():
    before = items(7, 3, 1)
    after = balanced_items(before, seed=0)
    assert after[: len(before)] == before
    assert Counter(item.label for item in after) == {0: 7, 1: 7, 2: 7}
    assert set(Counter(item.name for item in after if item.label == 1).values()) == {2, 3}
    assert balanced_items(before, 0) == after
    assert {balanced_items(before, seed) for seed in range(8)} != {after}
    assert balanced_items(items(4, 4), 0) == items(4, 4)


def test_balanced_run_resumes_with_the_same_videos(recipe, videos, tmp_path):
    source = read_source(videos)
    uneven = replace(source, train=source.train[:11])
    recipe = with_train(recipe, balanced_sampling=True, epochs=1)
    train(recipe, tmp_path / "run", uneven, backbone())
    rows = (tmp_path / "run/split.csv").read_text().splitlines()
    assert sum(row.endswith(",train") or ",train" in row for row in rows) == 15
    result = resume(tmp_path / "run", backbone())
    assert len(result.evaluation.labels) == 9


def test_both_corrections_are_too_much():
    with pytest.raises(BadInput, match="give one of them"):
        check(Recipe(train=TrainArgs(balanced_sampling=True, class_weights="balanced")))


def pretending(monkeypatch, right):
    """Evaluations with these numbers of right answers out of 4, in turn."""
    answers = iter(right)

    def pretend(*_, **__):
        number = next(answers)
        scores = torch.eye(3)[torch.tensor([0] * number + [1] * (4 - number))]
        return Evaluation(scores, torch.zeros(4, dtype=torch.long), torch.arange(4))

    monkeypatch.setattr(run_module, "evaluate", pretend)


def epochs_run(folder):
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("patience", "last"), [(0, 8), (1, 3), (2, 6), (3, 8)])
def test_stops_after_evaluations_without_a_better_one(recipe, tmp_path, monkeypatch, patience, last):
    pretending(monkeypatch, [1, 2, 2, 3, 3, 1, 4, 4])
    result = train(with_train(recipe, epochs=8, patience=patience), tmp_path / "run", backbone=backbone())
    assert epochs_run(tmp_path / "run")[-1] == last
    assert result.evaluation.top1 == max([1, 2, 2, 3, 3, 1, 4, 4][:last]) / 4


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(recipe, tmp_path, monkeypatch):
    pretending(monkeypatch, [3, 1, 1, 2, 2, 2])
    recipe = with_train(recipe, epochs=6, patience=2)
    train(recipe, tmp_path / "run", backbone=backbone())
    assert epochs_run(tmp_path / "run")[-1] == 3
    resume(tmp_path / "run", backbone())
    assert epochs_run(tmp_path / "run")[-1] == 3
