"""The published configurations: all there, complete, buildable, and what they hold is what their papers' codes do."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import BACKBONES
from muybridge.engine.optim import make_optimizer
from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.methods import build_method
from muybridge.recipes import (
    check,
    find_recipe,
    override,
    published_recipe,
    read_recipe,
    recipe_for_sha256,
    recipe_names,
    recipes_for_file,
    write_recipe,
)
from muybridge.recipes.check import NOT_YET
from muybridge.recipes.library import Stated, merge, methods_with_recipes
from muybridge.structures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Recipe, TrainArgs, Transform
from muybridge.video.labels import known_labels
from muybridge.video.sampling import TEST_RULES, TRAIN_RULES

ALL = recipe_names()
NEUTRAL = {f"{group}.{field}": value for name, value in NOT_YET.items() for group, field in [name.split(".")]}


def without_augmentation(recipe):
    return override(recipe, {**NEUTRAL, "transform.flip": 0.0})


def test_every_published_configuration_is_there():
    assert {name: len(recipe_names(name)) for name in methods_with_recipes()} == {
        "evl": 6,
        "ila": 11,
        "dist": 9,
        "zeroi2v": 10,
    }
    assert len(set(ALL)) == 36


@pytest.mark.parametrize("name", ALL)
def test_recipe_is_complete(name):
    published = published_recipe(name)
    recipe = published.recipe
    method, backbone = name.split("_")[:2]
    assert recipe.method == method
    assert recipe.backbone.startswith(f"clip_{backbone}")
    assert ("_336" in name) == (recipe.transform.size == (336, 336))
    assert recipe.transform.resize == recipe.transform.size[0]
    assert published.classes == len(known_labels(published.dataset))
    assert recipe.sampling.rule in TRAIN_RULES
    assert recipe.sampling.rule in TEST_RULES
    frames = name.rsplit("_", 1)[1].removesuffix("f").split("+")[-1]
    assert recipe.sampling.frames == int(frames)
    assert recipe.data == recipe.weights == ""
    assert not published.reproduced
    assert published.source
    assert published.stated
    assert published.gflops is None or published.gflops_means
    assert published.top1 is None or 50 < published.top1 < (published.top5 or 100) <= 100


@pytest.mark.parametrize("name", ALL)
def test_method_takes_the_options(name):
    published = published_recipe(name)
    recipe = published.recipe
    with torch.device("meta"):
        vit = ViT(BACKBONES[recipe.backbone].config)
        method = build_method(
            recipe.method, vit, published.classes, recipe.sampling.frames, recipe.transform.size, recipe.options
        )
    assert (type(method.head).__name__ == "TextHead") == (recipe.options.get("head") == "text")
    groups = make_optimizer(method, recipe.train).param_groups
    assert max(group["lr"] for group in groups) == pytest.approx(5e-4 if recipe.method == "ila" else recipe.train.lr)


@pytest.mark.parametrize("name", ALL)
def test_json_round_trip(name, tmp_path):
    recipe = published_recipe(name).recipe
    write_recipe(tmp_path / "recipe.json", recipe)
    assert read_recipe(tmp_path / "recipe.json") == recipe
    assert find_recipe(tmp_path / "recipe.json") == recipe
    assert find_recipe(name) == recipe
    json.dumps(asdict(published_recipe(name)))


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_trained_yet_is_refused_and_the_rest_passes(name):
    recipe = published_recipe(name).recipe
    with pytest.raises(BadInput, match="which training cannot do yet"):
        check(recipe)
    check(without_augmentation(recipe))


def test_learning_rates_of_ila():
    recipe = published_recipe("ila_vitb16_ssv2_8f").recipe
    with torch.device("meta"):
        method = build_method("ila", ViT(BACKBONES["clip_vitb16"].config), 174, 8, (224, 224), recipe.options)
    decayed = {(g["lr"], g["weight_decay"]) for g in method.parameter_groups(recipe.train) if g["weight_decay"]}
    assert sorted(decayed) == [pytest.approx(pair) for pair in [(8e-5, 1e-3), (4e-4, 3e-3), (5e-4, 1e-2)]]


def test_pixel_statistics():
    transforms = {name: published_recipe(recipe_names(name)[0]).recipe.transform for name in methods_with_recipes()}
    assert (transforms["evl"].mean, transforms["evl"].std) == (CLIP_MEAN, CLIP_STD)
    assert (transforms["dist"].mean, transforms["dist"].std) == (CLIP_MEAN, CLIP_STD)
    assert (transforms["ila"].mean, transforms["ila"].std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert [255 * m for m in transforms["zeroi2v"].mean] == pytest.approx([122.769, 116.74, 104.04])
    assert [255 * s for s in transforms["zeroi2v"].std] == pytest.approx([68.493, 66.63, 70.321])


@pytest.mark.parametrize("name", ["dist_vitb16_ssv2_8+16f", "zeroi2v_vitl14_ssv2_32f"])
def test_swapped_labels_are_left_and_right(name):
    published = published_recipe(name)
    labels = known_labels(published.dataset)
    assert published.recipe.transform.flip == 0.5
    for left, right in published.recipe.transform.swap_labels:
        swapped = labels[left].replace("left", "%").replace("right", "left").replace("%", "right")
        assert swapped == labels[right] != labels[left]


# Finding


def test_unknown_recipe_names_the_closest():
    with pytest.raises(UnknownName, match="Unknown recipe 'evl_vitb16_k400_8'. Closest: evl_vitb16_k400_8f"):
        published_recipe("evl_vitb16_k400_8")
    with pytest.raises(UnknownName, match="evl_vitb16_k400_8f.*A recipe file ends in"):
        find_recipe("evl_vitb16_k400_8")
    with pytest.raises(MissingFile, match="no recipe file nowhere.json"):
        find_recipe("nowhere.json")
    with pytest.raises(UnknownName, match="Did you mean evl"):
        recipe_names("evll")


def test_files_lead_to_recipes():
    assert recipes_for_file("downloads/k400_vitb16_8f_dec4x768.pth") == ("evl_vitb16_k400_8f",)
    assert recipes_for_file("DIST_VIT_B16_K400_16+32f_84.4.pyth") == ("dist_vitb16_k400_16+32f",)
    assert recipes_for_file("k400_vitb16_8f.pth") == ()
    digest = "f62f2e10aa0ae0cb755046f9d84b5ecffd58d4a5f1ae043ace88c3b27621929f"
    assert recipe_for_sha256(digest) == recipe_for_sha256(digest.upper()) == "zeroi2v_vitb16_k400_8f"
    assert recipe_for_sha256("0" * 64) is None
    files = [file.name for name in ALL for file in published_recipe(name).files]
    assert len(files) == len(set(files))


def test_entries_stand_over_common_fields():
    common = {"a": 1, "d": {"x": 1, "y": 1}, "notes": ["first"], "l": [1]}
    merged = merge(common, {"a": 2, "d": {"y": 2}, "notes": ["second"], "l": [2]})
    assert merged == {"a": 2, "d": {"x": 1, "y": 2}, "notes": ["first", "second"], "l": [2]}
    assert common["d"] == {"x": 1, "y": 1}
    assert common["notes"] == ["first"]
    assert published_recipe("evl_vitl14_k400_8f").recipe.options["layers"] == 4


@pytest.mark.parametrize(
    ("value", "number", "precision"),
    [
        ("33,183,376", 33_183_376, 0.5),
        ("26.105 M", 26_105_000, 500),
        ("151.3 G", 151.3e9, 0.05e9),
        ("4110 G", 4.11e12, 5e8),
    ],
)
def test_stated_figures_are_read_as_printed(value, number, precision):
    stated = Stated("own", value, "")
    assert stated.number == pytest.approx(number)
    assert stated.precision == pytest.approx(precision)


# What cannot be trained yet

ASKED = {
    "transform.crop": "multiscale",
    "transform.swap_labels": ((86, 87),),
    "transform.randaugment": "rand-m7-n4-mstd0.5-inc1",
    "transform.color_jitter": (0.4, 0.4, 0.2, 0.1),
    "transform.grayscale": 0.2,
    "transform.erasing": 0.25,
    "train.mixup": 0.8,
    "train.cutmix": 1.0,
}


def test_defaults_ask_for_nothing_that_is_not_there_yet():
    check(Recipe())
    assert set(ASKED) == set(NOT_YET)
    for crop in ("random", "center"):
        check(Recipe(transform=Transform(crop=crop)))


@pytest.mark.parametrize("name", NOT_YET)
def test_each_is_refused_by_name_and_its_way_out_works(name):
    group, field = name.split(".")
    recipe = Recipe(**{group: replace({"transform": Transform(), "train": TrainArgs()}[group], **{field: ASKED[name]})})
    with pytest.raises(BadInput, match=f"asks for {name}=.*cannot do yet; set --{name} .* to train without it"):
        check(recipe)
    check(override(recipe, {name: NOT_YET[name]}))


def test_the_sentence_can_be_typed():
    recipe = Recipe(transform=Transform(randaugment="pytorchvideo-n4-m7", swap_labels=((86, 87),), flip=0.5))
    recipe = replace(recipe, train=TrainArgs(mixup=0.8))
    with pytest.raises(BadInput) as caught:
        check(recipe)
    words = str(caught.value).split("set ")[1].removesuffix(" to train without them.").replace("''", "").split("--")[1:]
    assert [word.split()[0] for word in words] == [
        "transform.swap_labels",
        "transform.flip",
        "transform.randaugment",
        "train.mixup",
    ]
    check(override(recipe, {name: value.strip() for name, _, value in (word.partition(" ") for word in words)}))


@pytest.mark.parametrize(
    ("name", "value"), [("transform.erasing", 1.5), ("train.mixup", -1.0), ("train.warmup_start", 2.0)]
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(BadInput, match=f"{name} is {value:g}; expected"):
        check(override(Recipe(), {name: value}))
