"""Running an evaluation: over batches, and over a data set."""

import csv
import json
import shutil

import pytest
import torch

from muybridge.engine import evaluate as evaluate_module
from muybridge.engine.batches import Batch
from muybridge.engine.evaluate import EvaluateArgs, Evaluation, evaluate, evaluate_data, with_views, write_evaluation
from muybridge.engine.processes import is_first, join_processes
from muybridge.errors import BadInput, UnknownName
from muybridge.loading import load
from muybridge.methods import build_method
from muybridge.structures import Item, Sampling
from muybridge.testing.tiny import random_backbone, tiny_backbones
from trainings import trained

SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
EVALUATION = Evaluation(SCORES, torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 3, 4]), ("b.mp4: broken",))


def test_files_of_a_run(tmp_path):
    items = [Item(f"/x/{i}.mp4", 0, f"{i}.mp4") for i in range(5)]
    write_evaluation(tmp_path / "out", EVALUATION, items, ("a", "b", "c"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "predictions.csv"]
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert summary["unreadable"] == ["b.mp4: broken"]
    assert summary["classes"]["c"] == {"videos": 2, "top1": 0.5, "top5": 1.0}
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert [row["name"] for row in rows] == ["0.mp4", "1.mp4", "3.mp4", "4.mp4"]
    expected = {"name": "1.mp4", "label": "b", "predicted": "a", "score": "0.500000", "right": "0", "top5": "1"}
    assert rows[1] == expected


def test_a_run_is_finished_only_when_all_is_written(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(evaluate_module, "write_predictions", fail)
    with pytest.raises(OSError, match="no space left"):
        write_evaluation(tmp_path, EVALUATION, [Item("/x", 0, "x")] * 5, ("a", "b", "c"))
    assert not list(tmp_path.iterdir())


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


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A probe on a tiny random backbone, one epoch."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    return trained(videos, folder)


def test_a_data_set_gives_what_the_training_saw(run, videos):
    result = evaluate_data(load(run.folder), videos)
    torch.testing.assert_close(result.scores, run.evaluation.scores)
    assert result.classes == ("closing", "falling", "rising")
    assert result.names[:2] == ("val/closing/0.mp4", "val/closing/1.mp4")
    assert result.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert result.top1 == run.evaluation.top1


def test_views_of_a_video_are_those_of_predict(run, videos):
    recogniser = load(run.folder)
    result = evaluate_data(recogniser, videos, EvaluateArgs(split="all", views="2x3", batch_size=1))
    assert len(result.labels) == 24
    recogniser.spec = type(recogniser.spec)(
        **{**recogniser.spec.__dict__, "sampling": with_views(recogniser.sampling, "2x3")}
    )
    for row in (0, 17, 23):
        torch.testing.assert_close(result.scores[row], recogniser.scores(videos / result.names[row]))


def test_batches_of_any_size_give_the_same_scores(run, videos):
    one, many = (evaluate_data(load(run.folder), videos, EvaluateArgs(batch_size=size)) for size in (1, 64))
    torch.testing.assert_close(one.scores, many.scores)


@pytest.mark.parametrize("views", ["3", "0x1", "2x2", "ax1", "2x", "-1x1"])
def test_views_that_cannot_be_are_refused(views):
    with pytest.raises(BadInput, match="such as 3x1 or 4x3"):
        with_views(Sampling(), views)
    assert with_views(Sampling(views=5, crops=3), "") == Sampling(views=5, crops=3)


def test_settings_that_cannot_be_are_refused(run, videos):
    recogniser = load(run.folder)
    with pytest.raises(BadInput, match="batch_size is 0"):
        evaluate_data(recogniser, videos, EvaluateArgs(batch_size=0))
    with pytest.raises(UnknownName, match="split"):
        evaluate_data(recogniser, videos, EvaluateArgs(split="tests"))


def test_unreadable_videos_are_left_out_and_named(run, videos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(videos / "val", data / "val")
    (data / "val/falling/1.mp4").write_bytes(b"no video")
    result = evaluate_data(load(run.folder), data, EvaluateArgs(split="all"))
    assert result.indices.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    (sentence,) = result.unreadable
    assert "falling/1.mp4" in sentence
    assert result.summary()["unreadable"] == [sentence]


def test_scores_that_are_not_numbers_are_told(run, videos):
    recogniser = load(run.folder)
    for parameter in recogniser.method.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(BadInput, match=r"scores of val/closing/0.mp4 are not numbers"):
        evaluate_data(recogniser, videos)


def test_alone_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    processes = join_processes()
    assert (processes.rank, processes.count, processes.first) == (0, 1, True)
    assert processes.agree(lambda: 3) == 3
    assert processes.gather("x") == processes.collect(lambda: "x") == ["x"]


def test_an_environment_that_tells_half_is_told(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert join_processes().count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(BadInput, match="MASTER_ADDR expected.*Start them with torchrun, or unset RANK"):
        join_processes()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(BadInput, match="RANK is 'first' in the environment"):
        is_first()
