"""Few-shot and zero-shot: what is drawn, what is trained, what is asked."""

import csv
import json
import random
from dataclasses import replace

import pytest
import torch

from muybridge.backbones.text import TextConfig, TextTower
from muybridge.engine import sweeps
from muybridge.engine.checkpoint import model_spec
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.progress import Progress
from muybridge.engine.protocols import Spread, as_words, draw_shots, few_shot, zero_shot
from muybridge.engine.train import train
from muybridge.errors import BadInput, CheckpointError
from muybridge.loading import load
from muybridge.methods import build_method
from muybridge.recogniser import Recogniser
from muybridge.structures import Item, Sampling, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.sources import read_source
from trainings import probe_recipe

ITEMS = tuple(Item(f"/x/{label}/{i}", label, f"{label}/{i}.mp4") for label in range(3) for i in range(4 + 6 * label))


def names(items):
    return {item.name for item in items}


def test_draws_are_nested_and_do_not_depend_on_the_order_of_the_files():
    drawn = {k: draw_shots(ITEMS, k, 0) for k in (1, 2, 4, 8)}
    for k, items in drawn.items():
        counts = [sum(item.label == label for item in items) for label in range(3)]
        assert counts == [min(k, 4), min(k, 10), min(k, 16)]
    assert names(drawn[1]) < names(drawn[2]) < names(drawn[4]) < names(drawn[8])
    shuffled = list(ITEMS)
    random.Random(0).shuffle(shuffled)
    assert names(draw_shots(shuffled, 4, 0)) == names(drawn[4])
    assert names(draw_shots([item for item in ITEMS if item.label], 4, 0)) < names(drawn[4])
    assert drawn[4] == tuple(item for item in ITEMS if item in drawn[4]), "the order is that of the files"


def test_a_video_that_is_listed_twice_counts_once():
    assert draw_shots((*ITEMS, *ITEMS), 4, 0) == draw_shots(ITEMS, 4, 0)


def test_seeds_draw_differently_and_evenly():
    assert names(draw_shots(ITEMS, 4, 0)) != names(draw_shots(ITEMS, 4, 1))
    counts = dict.fromkeys(names(ITEMS), 0)
    for seed in range(400):
        for item in draw_shots(ITEMS, 2, seed):
            counts[item.name] += 1
    large = [count for name, count in counts.items() if name.startswith("2/")]
    assert sum(large) == 800
    assert min(large) > 25, "2 of 16 in 400 draws: 50 each, standard deviation 6.6"
    assert max(large) < 75
    with pytest.raises(BadInput, match="shots is 0"):
        draw_shots(ITEMS, 0, 0)


def test_spread():
    assert str(Spread.of([0.5, 0.7])) == "60.0% ± 14.1"
    assert str(Spread.of([0.5])) == "50.0%"


def test_names_become_words():
    assert [as_words(name) for name in ("brush_hair", "ApplyEyeMakeup", "YoYo", "playing TV", "Opening", "_")] == [
        "brush hair",
        "apply eye makeup",
        "yo yo",
        "playing TV",
        "opening",
        "_",
    ]


def backbone():
    return random_backbone(tiny_backbones()["dinov2"])


@pytest.fixture
def recipe(videos):
    return probe_recipe(videos, frames=2, epochs=2, batch_size=4, seed=3)


class Told(Progress):
    def __init__(self, stop_at=None):
        self.trainings, self.stop_at = [], stop_at

    def say(self, text):
        if "videos a class, seed" in text:
            self.trainings.append(text)
            if len(self.trainings) == self.stop_at:
                raise KeyboardInterrupt


def test_every_cell_is_trained_once_and_judged_on_the_whole_other_half(recipe, tmp_path):
    told = Told()
    result = few_shot(recipe, tmp_path / "sweep", (2, 1), 2, backbone=backbone(), progress=told)
    assert [(cell.shots, cell.seed, cell.videos) for cell in result.cells] == [
        (1, 3, 3),
        (1, 4, 3),
        (2, 3, 6),
        (2, 4, 6),
    ]
    assert len(told.trainings) == 4
    for cell in result.cells:
        folder = tmp_path / "sweep" / cell.folder
        figures = json.loads((folder / "evaluation.json").read_text())
        assert (figures["videos"], figures["top1"]) == (9, cell.top1)
        assert json.loads((folder / "recipe.json").read_text())["train"]["seed"] == cell.seed
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert ["val_top1" in line for line in lines] == [False, True], "judged after the last epoch only"
    tops = [cell.top1 for cell in result.cells if cell.shots == 2]
    assert result.spread(2).mean == pytest.approx(sum(tops) / 2)
    table = list(csv.DictReader((tmp_path / "sweep/few_shot.csv").open()))
    assert [(row["shots"], row["seeds"]) for row in table] == [("1", "2"), ("2", "2")]
    assert float(table[1]["top1"]) == pytest.approx(result.spread(2).mean, abs=1e-6)
    assert len(list(csv.DictReader((tmp_path / "sweep/cells.csv").open()))) == 4
    assert repr(result).startswith("FewShot(2 seeds, top-1: 1: ")

    again = Told()
    more = few_shot(recipe, tmp_path / "sweep", (1, 2, 4), 2, backbone=backbone(), progress=again)
    assert len(again.trainings) == 2, "finished cells are not run again"
    assert more.cells[:4] == result.cells
    with pytest.raises(BadInput, match="sweep of another setting: recipe.train.lr was 0.0004, now 0.1"):
        few_shot(replace(recipe, train=replace(recipe.train, lr=0.1)), tmp_path / "sweep", (1,), 1, backbone=backbone())
    source = read_source(recipe.data)
    moved = replace(source, train=tuple(replace(item, label=2 - item.label) for item in source.train))
    with pytest.raises(BadInput, match=r"sweep of another setting: videos.train was"):
        few_shot(recipe, tmp_path / "sweep", (1,), 2, moved, backbone=backbone())
    (tmp_path / "sweep/1-shot/seed-3/evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation.json is damaged .* move .*seed-3 away"):
        few_shot(recipe, tmp_path / "sweep", (1,), 2, backbone=backbone())


def test_a_stopped_sweep_goes_on(recipe, tmp_path, monkeypatch):
    whole = few_shot(recipe, tmp_path / "whole", (1, 2), 1, backbone=backbone())
    with pytest.raises(KeyboardInterrupt):
        few_shot(recipe, tmp_path / "cut", (1, 2), 1, backbone=backbone(), progress=Told(stop_at=2))

    original = sweeps.train

    def interrupted(setting, folder, *arguments, **options):
        original(setting, folder, *arguments, **options)
        (folder / "evaluation.json").unlink()  # as a training leaves its folder that was stopped before its end
        raise Interrupted("Stopped")

    monkeypatch.setattr(sweeps, "train", interrupted)
    with pytest.raises(Interrupted):
        few_shot(recipe, tmp_path / "cut", (1, 2), 1, backbone=backbone())
    monkeypatch.undo()
    (tmp_path / "cut/4-shot/seed-3").mkdir(parents=True)
    (tmp_path / "cut/4-shot/seed-3/recipe.json").write_text("{}")  # stopped before its first checkpoint
    result = few_shot(recipe, tmp_path / "cut", (1, 2, 4), 1, backbone=backbone())
    assert result.cells[:2] == whole.cells


def test_nothing_else_is_written_over(recipe, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is no sweep; nothing is written over"):
        few_shot(recipe, tmp_path, (1,), 1, backbone=backbone())
    with pytest.raises(BadInput, match="shots are none and seeds 1"):
        few_shot(recipe, tmp_path / "new", (), 1, backbone=backbone())


@pytest.fixture
def recogniser():
    """With a text head for two other classes, and a tiny text tower."""
    torch.manual_seed(0)
    options = {"width": 64, "temporal_width": 12, "pooling_layers": 1, "head": "text"}
    method = build_method(
        "dist", random_backbone(tiny_backbones()["clip"]), 2, 4, (32, 32), options, torch.randn(2, 32)
    )
    spec = model_spec("dist", method, "custom", ("a", "b"), Sampling(frames=4), Transform(size=(32, 32)))
    text = TextTower(TextConfig(width=64, depth=1, heads=1, mlp_hidden=128, projection=32)).eval()
    return Recogniser(method, spec, text=text)


def test_zero_shot_asks_for_the_names_of_the_data(recogniser, videos, tmp_path):
    result = zero_shot(recogniser, videos, template="a video of {}", out=tmp_path / "out")
    assert result.texts == ("a video of closing", "a video of falling", "a video of rising")
    assert recogniser.labels == result.texts
    (evaluation,) = result.evaluations.values()
    assert evaluation.classes == ("closing", "falling", "rising")
    assert len(evaluation.labels) == 9
    torch.testing.assert_close(evaluation.scores[4], recogniser.scores(videos / evaluation.names[4]))
    assert json.loads((tmp_path / "out/zero_shot.json").read_text()) == result.summary()
    assert "3 classes" in repr(result)
    other = zero_shot(recogniser, videos, labels=["to close", "to fall", "to rise"])
    assert other.texts == ("to close", "to fall", "to rise")
    assert not torch.equal(other.evaluations[1].scores, evaluation.scores)


def test_zero_shot_on_several_splits(recogniser, videos, tmp_path):
    data = tmp_path / "ucf"
    films = {label: sorted((videos / "train" / label).iterdir()) for label in ("closing", "falling", "rising")}
    for label, files in films.items():
        (data / label).mkdir(parents=True)
        for number, file in enumerate(files):
            (data / label / f"v_{label}_{number}.avi").symlink_to(file)
    for fold in (1, 2, 3):
        for half, kept in (("train", lambda n, f=fold: n != f), ("test", lambda n, f=fold: n == f)):
            lines = [f"{label}/v_{label}_{n}.avi" for label in films for n in range(5) if kept(n)]
            (data / f"{half}list0{fold}.txt").write_text("\n".join(lines) + "\n")
    result = zero_shot(recogniser, data, folds=(1, 3), out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fold-1", "fold-3", "zero_shot.json"]
    assert [name[-6:] for name in result.evaluations[3].names] == ["_3.avi"] * 3
    assert (result.top1.count, list(result.evaluations)) == (2, [1, 3])
    tops = [one.top1 for one in result.evaluations.values()]
    assert result.top1.mean == pytest.approx(sum(tops) / 2)


def test_zero_shot_needs_no_half_to_train_on(recogniser, videos, tmp_path):
    (tmp_path / "val").symlink_to(videos / "val")
    assert len(zero_shot(recogniser, tmp_path).evaluations[1].labels) == 9


def test_zero_shot_that_cannot_be(recogniser, videos, recipe, tmp_path):
    with pytest.raises(BadInput, match="2 labels for the 3 classes"):
        zero_shot(recogniser, videos, labels=["a", "b"])
    with pytest.raises(BadInput, match="where the class name goes"):
        zero_shot(recogniser, videos, template="a video")
    train(recipe, tmp_path / "run", backbone=backbone())
    with pytest.raises(BadInput, match="This probe has a linear head for its 3 classes"):
        zero_shot(load(tmp_path / "run"), videos)
