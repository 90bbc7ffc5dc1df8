"""The demo: its plumbing on a tiny random backbone, and (slow) what it promises on the real one."""

import csv

import pytest
import torch
from rich.console import Console

from muybridge.backbones.weights import backbone_info
from muybridge.demo import run
from muybridge.demo.films import CLASSES, TWINS
from muybridge.engine.evaluate import Evaluation
from muybridge.engine.progress import Progress, ProgressBar
from muybridge.errors import BadInput
from muybridge.testing.tiny import random_backbone, tiny_backbones


def test_within_twins_counts_only_the_pair():
    scores = torch.zeros(len(CLASSES), len(CLASSES))
    for label, name in enumerate(CLASSES):
        scores[label, CLASSES.index(TWINS[name])] = 0.2
        scores[label, label] = 0.3 if label < 3 else 0.1
        scores[label, (label + 1) % len(CLASSES)] += 5 * (CLASSES[(label + 1) % len(CLASSES)] != TWINS[name])
    labels = torch.arange(len(CLASSES))
    evaluation = Evaluation(scores, labels, labels)
    expected = sum(bool(scores[i, i] > scores[i, CLASSES.index(TWINS[name])]) for i, name in enumerate(CLASSES))
    assert run.within_twins(evaluation, CLASSES) == expected / len(CLASSES)
    assert 0 < expected < len(CLASSES)


@pytest.fixture
def tiny(monkeypatch):
    config = tiny_backbones()["dinov2"]
    monkeypatch.setattr(run, "load_backbone", lambda *_: (random_backbone(config), backbone_info("vits14_imgfocus")))
    monkeypatch.setattr(run, "EVL_OPTIONS", {"layers": 1, "heads": 3})


def test_plumbing(tiny, tmp_path, capsys):
    out = tmp_path / "demo"
    budget = run.Budget(train=2, val=1, epochs=1, size=32, frames=4, workers=1)
    rows = run.run_demo(out, "vits14_imgfocus", None, 0, Progress(), budget)
    assert [row.trainable is None for row in rows] == [False, False, False, True]
    assert {path.name for path in out.iterdir()} == {
        "answers.png",
        "evl",
        "ordered",
        "probe",
        "results.csv",
        "unseen.mp4",
        "videos",
    }
    table = list(csv.DictReader((out / "results.csv").open()))
    assert [float(row["top1"]) for row in table] == [row.top1 for row in rows]
    assert "that was in neither set" in capsys.readouterr().out
    with pytest.raises(BadInput, match="nothing is written over"):
        run.run_demo(out, "vits14_imgfocus", None, 0, Progress(), budget)


def test_summaries_are_what_the_probe_would_compute(tiny, tmp_path):
    from muybridge.demo.films import write_films
    from muybridge.engine.batches import VideoBatches
    from muybridge.methods import build_method
    from muybridge.video.dataset import VideoDataset, read_source

    vit = random_backbone(tiny_backbones()["dinov2"])
    videos = write_films(tmp_path / "videos", classes=CLASSES[:2], train=2, val=1, workers=1)
    recipe = run.demo_recipe(run.Budget(size=32, frames=4, workers=0), 0, videos)
    source = read_source(videos)
    shared = run._features(recipe, vit, source.labels, source, Progress())
    probe = build_method("probe", vit, 2, 4, (32, 32), {})
    dataset = VideoDataset(source.train, recipe.sampling, recipe.transform, True, 0)
    batches = VideoBatches(dataset, 4, 0, 1)
    (batch,) = batches.read([[(0, i, 0) for i in range(4)]])
    expected = probe.frozen(batch.inputs)["summary"]
    torch.testing.assert_close(run._summaries(shared[0], vit).features["summary"], expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_keeps_its_promises(tmp_path):
    """The figures that the README quotes, within what is promised; about 3 minutes on two quiet cores."""
    torch.set_num_threads(2)
    rows = run.run_demo(tmp_path / "demo", "vits14_imgfocus", None, 0, ProgressBar(Console(stderr=True)))
    within = {row.name: row.within_twins for row in rows}
    assert 0.42 <= within["probe"] <= 0.58
    assert within["control: ordered linear"] <= 0.90
    assert within["EVL"] >= 0.90
    assert 0.40 <= within["control: EVL, frames shuffled"] <= 0.60
