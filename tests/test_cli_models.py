"""`muybridge list | info | convert` and the options that load published checkpoints."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from muybridge import cli
from muybridge.backbones.weights import BACKBONES
from muybridge.loading import load
from muybridge.methods import METHODS, build_method
from muybridge.published.assemble import Model, to_published
from muybridge.recipes import recipe_names
from muybridge.testing.tiny import random_backbone, tiny_backbones

OPTIONS = {"shifts": "-1:16,+1:16", "scale": 1.0}


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ZeroI2V file as its authors write it, tiny, and the recipe that says what it does not tell."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    method = build_method("zeroi2v", random_backbone(tiny_backbones()["clip"]), 2, 4, (32, 32), OPTIONS).eval()
    for parameter in method.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"state_dict": to_published(Model("zeroi2v", method)), "meta": {"epoch": 3}}, folder / "x.pth")
    recipe = {"method": "zeroi2v", "backbone": "tiny_clip", "sampling": {"frames": 4}, "transform": {"size": [32, 32]}}
    (folder / "x.json").write_text(json.dumps(recipe | {"zeroi2v": OPTIONS | {"hidden": 12}}))
    return folder


def test_list_recipes(capsys):
    code, out, _ = told(capsys, "list", "recipes", "--json")
    assert code == 0
    recipes = json.loads(out)["recipes"]
    assert len(recipes) == len(recipe_names()) == 36
    assert all(recipe["reproduced"] is False for recipe in recipes.values())
    code, out, _ = told(capsys, "list", "recipes")
    assert all(name.split("_")[0] in out for name in recipe_names())
    code, _, err = told(capsys, "list", "receipts")
    assert code == 2
    assert "Did you mean recipes?" in err


def test_info_of_a_recipe(capsys):
    code, out, _ = told(capsys, "info", "evl_vitb16_k400_8f", "--json")
    assert code == 0
    assert json.loads(out)["trainable"] == 33_183_376
    code, _, err = told(capsys, "info", "evl_vitb16_k400_9f")
    assert code == 2
    assert "evl_vitb16_k400_8f" in err


def convert(capsys, checkpoint, out, *more):
    return told(capsys, "convert", checkpoint / "x.pth", "--recipe", checkpoint / "x.json", "--out", out, *more)


@pytest.fixture(autouse=True)
def tiny_clip(monkeypatch):
    """A backbone of the table with 3 heads of 16 channels."""
    entry = replace(BACKBONES["clip_vitb16"], name="tiny_clip", config=tiny_backbones()["clip"])
    monkeypatch.setitem(BACKBONES, "tiny_clip", entry)


def test_convert_there_and_back(capsys, checkpoint, tmp_path):
    code, out, err = convert(capsys, checkpoint, tmp_path / "run", "--labels", "falling, rising")
    assert code == 0, err
    assert "muybridge predict" in out
    run = load(tmp_path / "run")
    assert run.labels == ("falling", "rising")
    assert (tmp_path / "run/labels.txt").read_text() == "falling\nrising\n"
    assert json.loads((tmp_path / "run/recipe.json").read_text())["zeroi2v"]["scale"] == 1.0
    direct = load(checkpoint / "x.pth", recipe=checkpoint / "x.json")
    video = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(run.method(video).logits, direct.method(video).logits)
    code, out, err = told(capsys, "convert", tmp_path / "run", "--out", tmp_path / "back.pth", "--to", "published")
    assert code == 0, err
    wanted = torch.load(checkpoint / "x.pth", weights_only=True)["state_dict"]
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert set(back) == set(wanted)
    assert all(torch.equal(back[key], tensor) for key, tensor in wanted.items())


def test_convert_writes_nothing_over_and_says_what_is_not_known(capsys, checkpoint, tmp_path):
    code, _, err = convert(capsys, checkpoint, tmp_path / "run")
    assert code == 0
    assert "The class names are not known" in err
    code, _, err = convert(capsys, checkpoint, tmp_path / "run")
    assert code == 2
    assert "exists already" in err
    code, _, err = told(capsys, "convert", checkpoint / "x.pth", "--out", tmp_path / "other")
    assert code == 2
    assert "do not tell" in err
    assert not (tmp_path / "other").exists()
    code, _, err = convert(capsys, checkpoint, tmp_path / "x", "--to", "onnx")
    assert "Choose one of: muybridge, published" in err


def test_info_of_a_run_reads_no_tensors(capsys, checkpoint, tmp_path):
    convert(capsys, checkpoint, tmp_path / "run")
    code, out, err = told(capsys, "info", tmp_path / "run", "--json")
    assert code == 0, err
    found = json.loads(out)
    with safe_open(tmp_path / "run/model.safetensors", "pt") as file:
        own = sum(file.get_tensor(key).numel() for key in file.keys() if key.startswith("method."))  # noqa: SIM118
    assert found["own"] == own
    assert found["method"] == "zeroi2v"


def test_predicting_with_another_number_of_frames_is_refused_or_interpolated(capsys, checkpoint, tmp_path, videos):
    convert(capsys, checkpoint, tmp_path / "run", "--labels", "falling,rising")
    film = videos / "val/rising/0.mp4"
    code, _, err = told(capsys, "predict", tmp_path / "run", film, "--frames", 6)
    assert code == 2
    assert "allow it with --interpolate" in err
    code, out, err = told(capsys, "predict", tmp_path / "run", film, "--frames", 6, "--size", 48, "--interpolate")
    assert code == 0, err
    assert "rising" in out
    code, _, err = told(capsys, "predict", tmp_path / "run", film, "--labels", "opening, closing")
    assert code == 2
    assert "linear head for its 2 classes" in err


def test_the_help_of_train_has_every_method(capsys):
    assert cli.run(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{name}." in out for name in METHODS if name != "probe")
