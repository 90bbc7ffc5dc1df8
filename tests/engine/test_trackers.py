"""Figures sent to trackers, and told on the way."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from muybridge.engine import trackers
from muybridge.engine.progress import Progress, duration, peak_memory
from muybridge.engine.trackers import check_tracker, flat
from muybridge.engine.train import train
from muybridge.errors import BadInput, UnknownName
from muybridge.recipes import override, validate
from muybridge.structures import Recipe
from trainings import backbone, probe_recipe


@pytest.fixture
def recipe(videos):
    return validate(probe_recipe(videos, epochs=2, batch_size=5))


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_library_that_is_missing_is_named_before_anything_is_written(recipe, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    recipe = replace(recipe, train=replace(recipe.train, tracker=name))
    with pytest.raises(BadInput, match=rf"pip install 'muybridge\[{name}\]'"):
        train(recipe, tmp_path / "run", backbone=backbone())
    assert not (tmp_path / "run").exists()
    check_tracker("none")


def test_other_trackers_are_refused():
    with pytest.raises(UnknownName, match="tensorboard"):
        override(Recipe(), {"train.tracker": "tensorbord"})


def test_settings_are_flat():
    plain = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": "x", "g": True}
    assert flat(plain) == {"a.b": 1, "a.c.d": "1,2", "e": "", "f": "x", "g": True}


class Recorded:
    """A stand-in for accelerate's side of it."""

    def __init__(self):
        self.lines, self.config, self.ended = [], None, 0

    def init_trackers(self, project, config, kinds):
        self.config, self.kinds = config, kinds

    def log(self, values, step):
        self.lines.append((step, values))

    def end_training(self):
        self.ended += 1


def test_every_epoch_is_sent(recipe, tmp_path, monkeypatch):
    recorded = Recorded()
    original = trackers.Tracker.__init__
    monkeypatch.setattr(trackers, "check_tracker", lambda name: None)
    monkeypatch.setattr("muybridge.engine.train.check_tracker", lambda name: None)
    monkeypatch.setattr(trackers.Tracker, "__init__", lambda self, _, *rest: original(self, recorded, *rest))
    recipe = replace(recipe, train=replace(recipe.train, tracker="wandb", lr=3e-3))
    train(recipe, tmp_path / "run", backbone=backbone())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in recorded.lines] == [1, 2]
    assert [{"epoch": step, **values} for step, values in recorded.lines] == lines
    assert recorded.config["train.lr"] == 3e-3
    assert recorded.kinds["wandb"]["name"] == "run"
    assert recorded.ended == 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_can_be_read(recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = replace(recipe, train=replace(recipe.train, tracker="tensorboard"))
    train(recipe, tmp_path / "run", backbone=backbone())
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    sent = events.Scalars("val_top1")
    assert [event.step for event in sent] == [1, 2]
    assert [event.value for event in sent] == pytest.approx([line["val_top1"] for line in lines])


class Said(Progress):
    def __init__(self):
        self.lines, self.figures = [], []

    def say(self, text):
        self.lines.append(text)

    def advance(self, amount, **figures):
        self.figures.append(figures)


def test_time_memory_and_waiting_are_told(recipe, tmp_path):
    progress = Said()
    train(recipe, tmp_path / "run", backbone=backbone(), progress=progress)
    times = [line for line in progress.lines if line.startswith("By the first steps an epoch takes about")]
    assert len(times) == 1
    assert "the 2 to come" in times[0]
    steps = [figures for figures in progress.figures if "loss" in figures]
    assert all(0 < figures["data_wait"] <= 1 for figures in steps)
    assert all(figures["memory_gb"] > 0.05 for figures in steps)
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert {"data_wait", "memory_gb", "videos_per_second"} <= json.loads(line).keys()


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(int((before + 0.2) * 1e9 / 4))
    assert peak_memory(torch.device("cpu")) >= before + 0.1
    del held


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.034, "0.034 s"), (3.21, "3.2 s"), (45.4, "45 s"), (600, "10 min"), (9000, "2.5 h"), (400000, "4.6 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
