"""Figures of an evaluation, counted by hand or by the obvious loop."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muybridge.engine.metrics import ActionEvaluation, Evaluation, join_actions, wilson_interval
from muybridge.errors import BadInput

SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
EVALUATION = Evaluation(SCORES, torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 3, 4]), ("b.mp4: broken",))


def test_figures():
    assert EVALUATION.top1 == 0.5
    assert EVALUATION.topk(2) == 0.75
    assert EVALUATION.top5 == 1.0
    assert EVALUATION.mean_class == pytest.approx((1 + 0 + 0.5) / 3)
    assert EVALUATION.predicted.tolist() == [0, 0, 2, 0]


def test_confusion_counts_true_rows_and_predicted_columns():
    assert EVALUATION.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    pairs = EVALUATION.confused_pairs(names=("a", "b", "c"))
    assert [(p.label, p.predicted, p.count, p.share) for p in pairs] == [("b", "a", 1, 1.0), ("c", "a", 1, 0.5)]
    assert EVALUATION.confused_pairs(1)[0].label == "class 1"


def test_classes_without_a_video_are_in_no_figure():
    some = Evaluation(torch.eye(4)[[0, 0, 3]], torch.tensor([0, 3, 3]), torch.arange(3), classes=tuple("abcd"))
    assert [(one.name, one.videos, one.top1) for one in some.per_class()] == [("a", 1, 1.0), ("d", 2, 0.5)]
    assert some.mean_class == 0.75
    assert set(some.summary()["classes"]) == {"a", "d"}


def test_top5_of_classes_counts_the_five_best():
    scores = torch.arange(14.0).flip(0).view(2, 7)  # the classes in falling order, twice
    some = Evaluation(scores, torch.tensor([4, 5]), torch.arange(2))
    assert some.top5 == 0.5
    assert [one.top5 for one in some.per_class()] == [1.0, 0.0]


@pytest.mark.parametrize("classes", [3, 10, 400])
def test_of_equal_scores_the_first_class_leads_in_every_figure(classes):
    same = Evaluation(torch.full((3, classes), 1 / classes), torch.tensor([0, 1, 2]), torch.arange(3))
    assert same.predicted.tolist() == [0, 0, 0]
    assert same.hits(1).tolist() == [True, False, False]
    assert same.hits(2).tolist() == [True, True, False]
    assert same.hits(classes + 1).all()
    assert int(same.confusion.diagonal().sum()) == same.hits(1).sum() == 1
    named = replace(same, names=("a", "b", "c"))
    assert join_actions(named, named).hits(1).tolist() == [True, False, False]


def test_repr_can_be_read():
    assert repr(EVALUATION) == (
        "Evaluation(4 videos, 3 classes: top-1 50.0% [15.0%, 85.0%], top-5 100.0%, mean over classes 50.0%; "
        "1 unreadable)"
    )


def test_names_must_be_as_many_as_classes():
    with pytest.raises(BadInput, match="2 class names for 3 classes"):
        EVALUATION.per_class(("a", "b"))


@given(st.integers(1, 400), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_shares_that_do_not_contradict_the_count(count, share):
    right = round(share * count)
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    # Wilson's bounds are the shares p of which the count lies exactly 1.96 deviations sqrt(p (1 - p) / n) away.
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(right / count - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / count), rel=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def actions(count=40, verbs=6, nouns=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for classes in (verbs, nouns):
        labels = torch.randint(classes, (count,), generator=generator)
        scores = (torch.randn(count, classes, generator=generator) + 1.5 * torch.eye(classes)[labels]).softmax(1)
        names = tuple(f"P01_{i}" for i in range(count))
        parts.append(Evaluation(scores, labels, torch.arange(count), (), names))
    return parts


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_actions_are_the_best_products_of_all_pairs(k):
    verb, noun = actions()
    result = join_actions(verb, noun)
    right = []
    for row in range(40):
        products = verb.scores[row].double()[:, None] * noun.scores[row].double()[None]
        best = products.flatten().topk(k).indices.tolist()
        right.append(int(verb.labels[row]) * 7 + int(noun.labels[row]) in best)
    assert result.hits(k).tolist() == right
    assert sum(right) > 0


def test_an_action_is_right_if_both_are():
    verb, noun = actions()
    both = ((verb.predicted == verb.labels) & (noun.predicted == noun.labels)).double().mean().item()
    assert join_actions(verb, noun).top1 == both
    assert 0 < both < min(verb.top1, noun.top1)


def test_actions_are_matched_by_name():
    verb, noun = actions()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:30]
    moved = Evaluation(
        noun.scores[order], noun.labels[order], noun.indices[order], (), tuple(noun.names[i] for i in order)
    )
    whole, part = join_actions(verb, noun), join_actions(verb, moved)
    assert len(part.alone) == 10
    assert len(part.verb.labels) == 30
    kept = torch.tensor(sorted(order.tolist()))
    assert torch.equal(part.hits(5), whole.hits(5)[kept])
    assert part.verb.names == part.noun.names == tuple(verb.names[i] for i in kept)
    assert isinstance(part, ActionEvaluation)
    assert "10 in one only" in repr(part)
    assert part.summary()["action"]["top1"] == part.top1


def test_actions_without_shared_names_are_refused():
    verb, noun = actions()
    other = Evaluation(noun.scores, noun.labels, noun.indices, (), tuple(f"x{i}" for i in range(40)))
    with pytest.raises(BadInput, match="share no video .the first: P01_0 and x0"):
        join_actions(verb, other)
    with pytest.raises(BadInput, match="0 different names for 40 videos"):
        join_actions(Evaluation(verb.scores, verb.labels, verb.indices), noun)
