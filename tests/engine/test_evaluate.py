"""Figures of an evaluation, counted by hand."""

import csv
import json

import pytest
import torch

from muybridge.engine.batches import Batch
from muybridge.engine.evaluate import Evaluation, evaluate, write_evaluation
from muybridge.errors import BadInput
from muybridge.methods import build_method
from muybridge.structures import Item
from muybridge.testing.tiny import random_backbone, tiny_backbones

SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
EVALUATION = Evaluation(SCORES, torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 3, 4]), ("b.mp4: broken",))


def test_figures():
    assert EVALUATION.top1 == 0.5
    assert EVALUATION.topk(2) == 0.75
    assert EVALUATION.top5 == 1.0
    assert EVALUATION.mean_class == pytest.approx((1 + 0 + 0.5) / 3)


def test_files(tmp_path):
    items = [Item(f"/x/{i}.mp4", 0, f"{i}.mp4") for i in range(5)]
    write_evaluation(tmp_path / "out", EVALUATION, items, ("a", "b", "c"))
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert summary["unreadable"] == ["b.mp4: broken"]
    assert summary["classes"]["c"] == {"videos": 2, "top1": 0.5}
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert [row["name"] for row in rows] == ["0.mp4", "1.mp4", "3.mp4", "4.mp4"]
    assert rows[1] == {"name": "1.mp4", "label": "b", "predicted": "a", "score": "0.500000", "right": "0"}


class Given:
    """Batches that are there already."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, start=0):
        return iter(self.batches[start:])


def test_score_is_the_mean_of_the_views_probabilities():
    method = build_method("probe", random_backbone(tiny_backbones()["clip"]), 3, 2, (32, 32), {}).train()
    video = torch.randn(2, 4, 2, 3, 32, 32)
    batch = Batch(video, torch.tensor([0, 1]), torch.tensor([0, 1]), {})
    result = evaluate(method, Given(batch), torch.device("cpu"))
    expected = torch.stack([method(one).logits.softmax(-1).mean(0) for one in video])
    torch.testing.assert_close(result.scores, expected)
    assert method.training, "evaluation must leave the mode as it was"


def test_nothing_readable_is_told():
    method = build_method("probe", random_backbone(tiny_backbones()["clip"]), 3, 2, (32, 32), {})
    nothing = Batch(None, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), {0: "a.mp4: broken"})
    with pytest.raises(BadInput, match="None of the videos can be decoded; the first: a.mp4: broken"):
        evaluate(method, Given(nothing), torch.device("cpu"))
