"""What a search tries: values and ranges of fields, drawn or combined."""

import pytest
import torch

from muybridge.engine.space import parse_axis, points, value_text
from muybridge.errors import BadInput, UnknownName
from muybridge.recipes import validate
from muybridge.structures import Recipe

BASE = validate(Recipe(method="evl"))


def axes(*texts):
    return [parse_axis(text, BASE) for text in texts]


def test_every_combination():
    found = points(axes("train.lr=1e-4,1e-3,1e-4", "evl.dropout=0,0.5"), None, 0)
    assert found == [{"train.lr": lr, "evl.dropout": dropout} for lr in (1e-4, 1e-3) for dropout in (0.0, 0.5)], (
        "a value that is given twice is tried once"
    )


def test_values_have_the_type_of_their_field():
    found = axes(
        "train.unfreeze=none,last:2", "train.decay_all=true,false", "evl.layers=1,2", "transform.size=28;56,84"
    )
    assert [axis.values for axis in found] == [("none", "last:2"), (True, False), (1, 2), ([28, 28], [56, 84])]
    assert [str(axis) for axis in found] == ["none,last:2", "true,false", "1,2", "28,28;56,84"]
    (empty,) = axes("transform.randaugment=,rand-m7-n4-mstd0.5-inc1")
    assert empty.values[0] == ""
    assert value_text(0.00031623) == "0.0003162"


def test_draws_stay_within_their_range_and_follow_its_scale():
    wide, narrow, whole = axes("train.lr=1e-5..1e-2", "train.weight_decay=0..0.2", "evl.layers=1..4")
    assert (wide.logarithmic, narrow.logarithmic, whole.logarithmic) == (True, False, False)
    found = points([wide, narrow, whole], 400, 0)
    assert len(found) == 400
    lrs = torch.tensor([one["train.lr"] for one in found]).log10()
    assert -5 <= lrs.min() < -4.9
    assert -2.1 < lrs.max() <= -2
    assert abs(lrs.mean() + 3.5) < 0.15, "log-uniform: 3.5 with a standard deviation of 0.043"
    decays = torch.tensor([one["train.weight_decay"] for one in found])
    assert abs(decays.mean() - 0.1) < 0.01
    assert {one["evl.layers"] for one in found} == {1, 2, 3, 4}
    assert all(isinstance(one["evl.layers"], int) for one in found)
    (epochs,) = axes("train.epochs=1..500")
    drawn = [one["train.epochs"] for one in points([epochs], 60, 0)]
    assert epochs.logarithmic
    assert all(isinstance(number, int) and 1 <= number <= 500 for number in drawn)


def test_draws_depend_on_the_seed_and_begin_alike():
    texts = ("train.lr=1e-5..1e-2", "evl.dropout=0,0.5")
    few, more = points(axes(*texts), 3, 7), points(axes(*texts), 9, 7)
    assert more[:3] == few
    assert points(axes(*texts), 3, 8) != few
    assert [one["train.lr"] for one in points(axes(texts[0]), 3, 7)] == [one["train.lr"] for one in few]
    assert len(points(axes("evl.layers=1..3"), 20, 0)) == 3, "there are no more"


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("train.lr", BadInput, "expected FIELD=VALUES"),
        ("=3", BadInput, "expected FIELD=VALUES"),
        ("train.lrr=1,2", UnknownName, "train.lr"),
        ("evl.dropot=0,1", UnknownName, "Did you mean evl.dropout"),
        ("train.lr=1e-4,high", BadInput, "train.lr is 'high'; expected a number"),
        ("train.lr=1e-4,", BadInput, "train.lr is ''"),
        ("evl.layers=0.5..2", BadInput, "expected a whole number"),
        ("train.lr=1e-2..1e-4", BadInput, "the smaller number first"),
        ("transform.crop=1..2", UnknownName, "random_resized"),
        ("train.unfreeze=1..2", BadInput, "is no number"),
        ("transform.size=84,112", BadInput, "separate what is to be tried by semicolons"),
        ("data=a,b", BadInput, "compared on the same videos"),
        ("source.fold=1,2", BadInput, "compared on the same videos"),
        ("method=evl,dist", BadInput, "by one method"),
        ("train.seed=0,1", BadInput, "--seeds"),
        ("train.cache=none,disk", BadInput, "does not change the result"),
    ],
)
def test_what_cannot_be_tried(text, error, sentence):
    with pytest.raises(error, match=None) as caught:
        parse_axis(text, BASE)
    assert sentence in str(caught.value)


def test_ranges_need_a_number_of_trials():
    with pytest.raises(BadInput, match=r"train.lr is drawn from a range: say how often with --trials"):
        points(axes("train.lr=1e-4..1e-2", "evl.dropout=0,0.5"), None, 0)
    with pytest.raises(BadInput, match="trials is 0"):
        points(axes("train.lr=1e-4..1e-2"), 0, 0)
    with pytest.raises(BadInput, match="given twice"):
        points(axes("train.lr=1e-4", "train.lr=1e-3"), None, 0)
    with pytest.raises(BadInput, match="Nothing is tried"):
        points([], None, 0)
