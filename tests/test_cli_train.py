"""`muybridge train` as a person meets it: what is told before the start, other starts, and mistakes."""

import json
from dataclasses import replace

import pytest

from muybridge import cli
from muybridge.backbones import weights as weights_module
from muybridge.cli.preparing import differences
from muybridge.engine.checkpoint import read_spec
from muybridge.engine.train import train
from muybridge.recipes import check, find_recipe, read_recipe, recipe_names, validate
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

SMALL = ["--train.workers", "0", "--train.batch-size", "5", "--epochs", "1", "--sampling.frames", "4"]
SMALL += ["--transform.size", "32", "--evl.layers", "2", "--evl.heads", "3"]


@pytest.fixture
def tiny(monkeypatch):
    """`vits14_imgfocus` is a tiny backbone with random weights."""
    config = tiny_backbones()["dinov2"]
    info = replace(weights_module.BACKBONES["vits14_imgfocus"], config=config)
    monkeypatch.setattr(weights_module, "load_backbone", lambda *_: (random_backbone(config), info))
    return ["--backbone", "vits14_imgfocus"]


@pytest.fixture
def first(videos, tmp_path):
    """A finished run of three classes."""
    recipe = Recipe(
        method="evl",
        options={"layers": 2, "heads": 3},
        backbone="custom",
        data=str(videos),
        sampling=Sampling(frames=4),
        transform=Transform(size=(32, 32), grayscale=0.25),
        train=TrainArgs(epochs=1, batch_size=5, workers=0),
    )
    train(recipe, tmp_path / "first", backbone=random_backbone(tiny_backbones()["dinov2"]))
    return tmp_path / "first"


def told(capsys, *words):
    """Exit code, stdout, stderr of `muybridge train`; sentences are not broken into lines."""
    code = cli.run(["train", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_what_is_told_before_the_start(tiny, videos, tmp_path, capsys):
    run = tmp_path / "run"
    code, out, err = told(capsys, "--data", videos, *tiny, *SMALL, "--train.lr", "1e-3", "--out", run, "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == str(run)
    assert "evl on vits14_imgfocus: 4 frames of 32x32 px, 1 epochs of 15 videos, batch 5, lr 0.001" in err
    settings = err.partition("differ from the defaults: ")[2].partition(". All are kept")[0].split(", ")
    assert {"train.lr 0.001", "evl.heads 3", "sampling.frames 4", "train.epochs 1", "train.workers 0"} <= set(settings)
    assert not any(setting.startswith(("data", "transform.mean")) for setting in settings)
    assert " parameters are trained. A step of 5 videos takes about 0.0 GB" in err
    assert "By the first steps an epoch takes about" in err


def test_auto_and_unfreeze(tiny, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("muybridge.engine.small_data.STEPS", 3)
    monkeypatch.setattr("muybridge.engine.small_data.FEWEST", 1)
    words = ["--data", videos, *tiny, *SMALL, "--unfreeze", "last:1", "--train.backbone_lr", "3e-5", "--out"]
    words[words.index("--epochs") + 1] = "auto"
    code, _, err = told(capsys, *words, tmp_path / "run")
    assert code == 0, err
    assert "1 (auto) epochs" in err
    assert "of the backbone are trained too, at the rate 3e-05" in err
    recipe = read_recipe(tmp_path / "run/recipe.json")
    assert (recipe.train.epochs, recipe.train.unfreeze, recipe.train.backbone_lr) == (1, "last:1", 3e-5)
    assert read_spec(tmp_path / "run").own_backbone


def test_init_from_a_run(first, videos, tmp_path, capsys):
    run = tmp_path / "second"
    words = ["--init", first, "--keep-classes", "--data", videos, "--epochs", 1, "--train.workers", 0, "--out", run]
    code, _, err = told(capsys, *words, "--evl.dropout", 0.1)
    assert code == 0, err
    assert "Replaced for 3 classes, anew: head.fc.weight [3, 48], head.fc.bias [3]." in err
    assert "3 of 3 classes are kept by their names (closing, falling, rising)." in err
    recipe = read_recipe(run / "recipe.json")
    assert recipe.init.model == str(first)
    assert recipe.init.keep_classes
    assert (recipe.options["dropout"], recipe.options["layers"]) == (0.1, 2)
    assert (recipe.sampling.frames, recipe.transform.size, recipe.transform.grayscale) == (4, (32, 32), 0.25)
    # Its recipe gives the same run.
    code, _, err = told(capsys, "--recipe", run / "recipe.json", "--out", tmp_path / "third")
    assert code == 0, err
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("second", "third")]
    assert models[0] == models[1]
    code, _, err = told(capsys, "--resume", run)
    assert code == 0, err


def test_init_with_other_frames(first, videos, tmp_path, capsys):
    words = ["--init", first, "--data", videos, "--epochs", 1, "--train.workers", 0, "--sampling.frames", 6, "--out"]
    code, _, err = told(capsys, *words, tmp_path / "second")
    assert code == 2
    assert "6 frames of 32x32 px are asked for" in err
    assert not (tmp_path / "second").exists()
    code, _, err = told(capsys, *words, tmp_path / "second", "--interpolate")
    assert code == 0, err
    assert "interpolated to 6 frames" in err
    assert read_spec(tmp_path / "second").sampling.frames == 6


def test_mistakes(first, tiny, videos, tmp_path, capsys):
    for words, sentence in [
        (["--init", tmp_path / "gone"], "to start from; expected a run folder"),
        (["--init", "evl_vitb16_k400_8f"], "k400_vitb16_8f_dec4x768.pth in the current folder"),
        (["--init", first, "--method", "probe"], "the method evl, and probe is asked for"),
        (["--init", first, "--recipe", "ila_vitb16_k400_8f"], "is of evl, and the recipe is for ila"),
        (["--init", first, "--init.model", "x"], "short form --init are both given"),
        (["--init", first, "--evl.layers", 1], "do not fit the model to start from"),
        (["--keep-classes"], "give it with --init"),
        ([*tiny, "--interpolate"], "give it with --init"),
        ([*tiny, "--epochs", "some"], "train.epochs is 'some'; expected a whole number"),
        ([*tiny, "--epochs", 3, "--train.epochs", 4], "--epochs are both given"),
        ([*tiny, "--epochs", -1], "train.epochs is -1; expected at least 0"),
        ([*tiny, "--unfreeze", "half"], "expected none, last:N"),
        ([*tiny, *SMALL, "--unfreeze", "last:3"], "reads 2 blocks"),
        ([*tiny, "--unfreeze", "all", "--cache"], "keeps what a frozen backbone says"),
        ([*tiny, "--train.tracker", "tensorbord"], "Did you mean tensorboard"),
        ([*tiny, "--transform.swap_labels", "86"], "expected pairs, such as 86-87,93-94"),
        ([*tiny, *SMALL, "--transform.swap_labels", "0-7", "--transform.flip", 0.5], "names class 7"),
        ([*tiny, "--train.class_weights", "even"], "balanced"),
    ]:
        code, _, err = told(capsys, "--data", videos, "--out", tmp_path / "run", *words)
        assert code == 2, words
        assert sentence in err, (words, err)
        assert "Traceback" not in err
        assert not (tmp_path / "run").exists()
    assert told(capsys, "--resume", first, "--init", first)[0] == 2


def test_pairs_of_labels(tiny, videos, tmp_path, capsys):
    words = ["--data", videos, *tiny, *SMALL, "--transform.swap_labels", "0-1", "--transform.flip", 0.5]
    code, _, err = told(capsys, *words, "--out", tmp_path / "run")
    assert code == 0, err
    assert read_recipe(tmp_path / "run/recipe.json").transform.swap_labels == ((0, 1),)
    assert "transform.swap_labels 0-1" in err


@pytest.mark.parametrize("name", [None, *recipe_names()[::7]])
def test_differences_are_typed_as_they_are_told(name):
    setting = validate(find_recipe(name) if name else Recipe())
    check(setting)
    found = differences(setting)
    assert (not found) == (name is None)
    again = validate(cli_override(setting, found))
    assert replace(again, transform=setting.transform) == replace(setting, transform=setting.transform)
    assert differences(again) == found


def cli_override(setting, found):
    from muybridge.recipes import override

    start = replace(Recipe(), method=setting.method, data=setting.data)
    return override(start, found)
