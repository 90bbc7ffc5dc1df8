"""Recipes to files and back, single fields by name, and what is refused."""

import json
from dataclasses import replace

import pytest
import yaml

from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.recipes import fit_to_backbone, override, read_recipe, to_dict, validate, write_recipe
from muybridge.recipes.describe import attributes, field_table
from muybridge.structures import CLIP_MEAN, IMAGENET_MEAN, IMAGENET_STD, Recipe, Sampling, TrainArgs, Transform

RECIPE = validate(
    Recipe(
        method="evl",
        options={"layers": 2},
        data="videos",
        sampling=Sampling(frames=4),
        transform=Transform(size=(84, 112)),
        train=TrainArgs(lr=3e-4, betas=(0.9, 0.98)),
    )
)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"recipe.{suffix}"
    if suffix == "json":
        write_recipe(path, RECIPE)
    else:
        path.write_text(yaml.safe_dump(to_dict(RECIPE)))
    assert read_recipe(path) == RECIPE


def test_options_stand_under_the_method(tmp_path):
    write_recipe(tmp_path / "recipe.json", RECIPE)
    plain = json.loads((tmp_path / "recipe.json").read_text())
    assert plain["evl"]["layers"] == 2
    assert "options" not in plain


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.lr", "3e-4", 3e-4),
        ("train.epochs", "7", 7),
        ("train.decay_all", "yes", True),
        ("train.betas", "0.9,0.95", (0.9, 0.95)),
        ("transform.size", "112", (112, 112)),
        ("transform.size", "96x128", (96, 128)),
        ("transform.mean", "0.5, 0.5, 0.5", (0.5, 0.5, 0.5)),
        ("sampling.rule", "stride", "stride"),
    ],
)
def test_single_fields_from_text(name, text, value):
    changed = override(RECIPE, {name: text})
    group, field = name.split(".")
    assert getattr(getattr(changed, group), field) == value
    assert replace(changed, **{group: getattr(RECIPE, group)}) == RECIPE


def test_options_of_the_method_from_text():
    changed = validate(override(RECIPE, {"evl.dropout": "0.1", "evl.temporal_conv": "false"}))
    assert changed.options["dropout"] == 0.1
    assert changed.options["temporal_conv"] is False
    assert changed.options["layers"] == 2


def test_another_method_starts_with_its_own_options():
    changed = validate(override(RECIPE, {"method": "probe", "probe.pool": "concat"}))
    assert changed.options == {"pool": "concat", "dropout": 0.0}


def test_another_backbone_starts_with_its_own_weights_and_pixel_statistics():
    clip = fit_to_backbone(replace(RECIPE, weights="clip.pt"), None)
    assert clip.transform.mean == CLIP_MEAN
    same = override(clip, {"backbone": "clip_vitb16"})
    assert same == clip
    other = override(clip, {"backbone": "dinov2_vits14"})
    assert other.weights == ""
    assert fit_to_backbone(other, None).transform.mean == IMAGENET_MEAN
    given = override(clip, {"backbone": "dinov2_vits14", "weights": "x.pt", "transform.mean": "0.5,0.5,0.5"})
    assert given.weights == "x.pt"
    assert fit_to_backbone(given, None).transform.mean == (0.5, 0.5, 0.5)
    assert fit_to_backbone(given, None).transform.std == IMAGENET_STD


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"train.lrr": "1"}, UnknownName, "train.lr"),
        ({"trian.lr": "1"}, UnknownName, "train.lr"),
        ({"train.lr": "fast"}, BadInput, "train.lr is 'fast'; expected a number"),
        ({"train.epochs": "1.5"}, BadInput, "expected a whole number"),
        ({"train.decay_all": "maybe"}, BadInput, "expected true or false"),
        ({"sampling.rule": "segment"}, UnknownName, "Did you mean segments"),
        ({"transform.mean": "0.5,0.5"}, BadInput, "has 2 values; expected 3"),
        ({"probe.pool": "mean"}, UnknownName, "probe.pool"),
        ({"train": "x"}, UnknownName, "field 'train'"),
    ],
)
def test_wrong_fields_are_told(changes, kind, sentence):
    with pytest.raises(kind, match=sentence):
        validate(override(RECIPE, changes))


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("{", BadInput, "not readable as json"),
        ("[1]", BadInput, "holds no recipe"),
        ('{"method": "evll"}', UnknownName, "Did you mean evl"),
        ('{"method": "evl", "probe": {}}', BadInput, "has options of 'probe'"),
        ('{"method": "evl", "evl": {"layer": 1}}', UnknownName, "evl.layers"),
        ('{"schema": 2}', BadInput, "schema 2"),
        ('{"train": {"lr": "x"}}', BadInput, "train.lr"),
        ('{"train": 3}', BadInput, "expected its fields by name"),
        ('{"evl": 5}', BadInput, "expected the method's options by name"),
        ('{"weights": null}', BadInput, "weights is empty; give it a value or remove it"),
        ('{"options": {}}', UnknownName, "options stand under its name"),
    ],
)
def test_wrong_files_are_told(tmp_path, text, kind, sentence):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(kind, match=sentence):
        read_recipe(path)


def test_missing_file():
    with pytest.raises(MissingFile, match="no recipe file"):
        read_recipe("nowhere.json")


@pytest.mark.parametrize("kind", [Sampling, Transform, TrainArgs])
def test_every_field_is_explained(kind):
    assert set(attributes(kind)) == set(kind.__dataclass_fields__)


def test_field_table_lists_every_option():
    names = list(field_table().columns[0].cells)
    assert "--train.lr" in names
    assert "--evl.layers" in names
    assert "--probe.pool" in names
