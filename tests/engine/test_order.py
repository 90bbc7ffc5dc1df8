"""What the order of the frames is worth: recognisers that see nothing else, or nothing of it."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from muybridge.engine.metrics import Evaluation
from muybridge.engine.order import (
    FROZEN,
    REVERSED,
    SHUFFLED,
    find_twins,
    order_diagnostics,
    parse_twins,
    read_order,
    reorders,
    within_twins,
)
from muybridge.engine.predictions import RIGHT, read_evaluation
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.structures import ModelSpec, Output, Sampling, Transform
from muybridge.video.dataset import VideoDataset

NAMES = ("closing", "falling", "rising")


def video(count=3, views=2, frames=5):
    """[B, V, T, 1, 1, 1] in which every frame knows its number."""
    numbers = torch.arange(float(frames)).expand(count, views, frames)
    return numbers[..., None, None, None]


def test_reversed_and_frozen():
    order = reorders(0)
    assert order[REVERSED](video(), torch.arange(3))[1, 1].flatten().tolist() == [4, 3, 2, 1, 0]
    assert order[FROZEN](video(), torch.arange(3))[2, 0].flatten().tolist() == [2] * 5
    assert order[FROZEN](video(frames=4), torch.arange(3))[2, 0].flatten().tolist() == [2] * 4
    assert torch.equal(order[RIGHT](video(), torch.arange(3)), video())


def test_a_shuffle_depends_on_seed_video_and_view_only():
    shuffled = reorders(0)[SHUFFLED](video(), torch.tensor([7, 8, 9]))
    assert torch.equal(shuffled.sort(dim=2).values, video()), "no frame may be lost"
    alone = reorders(0)[SHUFFLED](video(1), torch.tensor([8]))
    assert torch.equal(alone[0], shuffled[1]), "whatever batch a video is in"
    assert not torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[0, 0], shuffled[0, 1])
    assert not torch.equal(reorders(1)[SHUFFLED](video(), torch.tensor([7, 8, 9])), shuffled)


def answers(labels, predicted, classes=4):
    scores = 0.1 + torch.eye(classes)[torch.tensor(predicted)]
    return Evaluation(scores, torch.tensor(labels), torch.arange(len(labels)))


def test_twins_are_found_where_the_reversed_turn_into_each_other():
    labels = [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    right = answers(labels, labels)
    turned = answers(labels, [1] * 4 + [0] * 4 + [2] * 4 + [0] * 4)
    assert find_twins(right, turned) == [(0, 1)]
    assert find_twins(right, right) == []
    # One way only, or too few, is no pair; and what was confused before is not due to the reversal.
    assert find_twins(right, answers(labels, [1] * 4 + [1] * 4 + [2] * 4 + [3] * 4)) == []
    assert find_twins(right, answers(labels, [1, 0, 0, 0, 0, 1, 1, 1] + [2] * 4 + [3] * 4)) == []
    assert find_twins(turned, turned) == []


def test_within_twins_counts_the_pair_only():
    scores = torch.tensor([[0.3, 0.2, 0.5], [0.1, 0.3, 0.6], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
    evaluation = Evaluation(scores, torch.tensor([0, 0, 1, 2]), torch.arange(4))
    assert within_twins(evaluation, [(0, 1)]) == pytest.approx(1 / 3)
    assert within_twins(evaluation, []) is None
    tie = Evaluation(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.arange(1))
    assert within_twins(tie, [(0, 1)]) == 0.0, "a tie is not right"


def test_twins_are_read():
    assert parse_twins("rising,falling", NAMES) == [(1, 2)]
    assert parse_twins(" 0 , 2 ", NAMES) == [(0, 2)]
    commas = ("moving a, b", "moving b", "moving b, a", "x")
    assert parse_twins("moving a, b,moving b, a; x,moving b", commas) == [(0, 2), (1, 3)]


def test_twins_of_a_file(tmp_path):
    (tmp_path / "twins.txt").write_text("rising\tfalling\n\n")
    assert parse_twins(str(tmp_path / "twins.txt"), NAMES) == [(1, 2)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rising", "expected two class names"),
        ("rising,rising", "twice the same class"),
        ("rising,falling;closing,rising", "names the class 'rising' in two pairs"),
        ("", "expected pairs such as"),
        (";", "expected pairs such as"),
    ],
)
def test_twins_that_are_no_pairs(text, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_twins(text, NAMES)


def test_twins_that_are_no_classes():
    with pytest.raises(UnknownName, match="Unknown class 'risin'. Did you mean rising"):
        parse_twins("risin,falling", NAMES)


class Direction(nn.Module):
    """Says which way the bright square went, from the difference of the first and the last frame; or counts light."""

    def forward(self, video):
        rows = torch.arange(video.shape[-2], dtype=torch.float32)
        light = (video.mean(dim=2) - video.mean(dim=2).amin(dim=(-1, -2), keepdim=True)).sum(-1)  # [B, T, H]
        height = (light * rows).sum(-1) / light.sum(-1).clamp_min(1e-6)  # [B, T]
        down = height[:, -1] - height[:, 0]
        size = 0.02 * (light[:, -1].sum(-1) - light[:, 0].sum(-1)).abs() - 1
        return Output(torch.stack([size, down, -down], dim=1))


class Seer:
    """A recogniser that sees the direction."""

    def __init__(self):
        self.method = self.trained = Direction()
        self.device = torch.device("cpu")
        transform = Transform(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.spec = ModelSpec("direction", {}, "none", {}, "", NAMES, Sampling(frames=4), transform)


def test_a_recogniser_of_directions_loses_them(videos, tmp_path, monkeypatch):
    opened = []
    original = VideoDataset.__getitem__
    monkeypatch.setattr(VideoDataset, "__getitem__", lambda self, key: opened.append(key) or original(self, key))
    result = order_diagnostics(Seer(), videos, out=tmp_path / "out")
    assert len(opened) == 9, "every video is decoded once for all four orders"
    twins = [row for row in result.per_class() if row["class"] in ("falling", "rising")]
    assert [row["right"] for row in twins] == [1.0, 1.0]
    assert [row["reversed"] for row in twins] == [0.0, 0.0]
    assert result.twins == ((1, 2),)
    assert not result.given
    assert result.within_twins() == 1.0
    assert result.within_twins(REVERSED) == 0.0
    assert result.turned == 1.0
    assert result.gap(REVERSED) == pytest.approx(6 / 9)
    assert result.gap(FROZEN) > 0
    assert "within twins 100.0% (1 found)" in repr(result)

    rows = list(csv.DictReader((tmp_path / "out/order.csv").open()))
    assert [row["twin"] for row in rows] == ["", "rising", "falling"]
    assert json.loads((tmp_path / "out/order.json").read_text()) == result.summary()
    assert torch.equal(read_evaluation(tmp_path / "out", REVERSED).scores, result.reversed.scores)
    with pytest.raises(BadInput, match="orders frozen, reversed, right, shuffled; asked for 'sorted'"):
        read_evaluation(tmp_path / "out", "sorted")
    again = order_diagnostics(Seer(), videos, out=tmp_path / "out")
    assert len(opened) == 9, "a finished one is read"
    assert again.summary() == result.summary()
    assert read_order(tmp_path / "out").summary() == result.summary()
    (tmp_path / "out/order.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"order.json is damaged .KeyError: 'twins'."):
        read_order(tmp_path / "out")
    with pytest.raises(BadInput, match="shuffle_seed was 0, now 1"):
        order_diagnostics(Seer(), videos, seed=1, out=tmp_path / "out")


def test_given_twins_are_taken(videos):
    given = order_diagnostics(Seer(), videos, twins="closing,rising")
    assert (given.twins, given.given) == (((0, 2),), True)
    assert order_diagnostics(Seer(), videos, twins=[(2, 1)]).twins == ((1, 2),)
    none = order_diagnostics(Seer(), videos, twins=[])
    assert (none.twins, none.given) == ((), True), "none are given, so none are looked for"
    with pytest.raises(BadInput, match="names the class 'falling' in two pairs"):
        order_diagnostics(Seer(), videos, twins=[(0, 1), (1, 2)])
    with pytest.raises(BadInput, match=r"pair \(0, 3\); expected two different indices of 3 classes"):
        order_diagnostics(Seer(), videos, twins=[(0, 3)])


def test_a_heap_of_pictures_has_no_gap(videos):
    seer = Seer()

    class Heap(nn.Module):
        def forward(self, video):
            return Output(video.double().sort(dim=1).values.float().mean(dim=(1, 3, 4)))

    seer.method = seer.trained = Heap()
    seer.spec = replace(seer.spec, sampling=Sampling(frames=4, views=2))
    result = order_diagnostics(seer, videos)
    assert result.gap(REVERSED) == result.gap(SHUFFLED) == 0.0
    assert result.twins == ()
    assert result.within_twins() is None
    assert result.turned is None
    torch.testing.assert_close(result.right.scores, result.shuffled.scores)
