"""The published configurations: all there, complete, buildable, and what they hold is what their papers' codes do."""

import json
from dataclasses import asdict

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
from muybridge.recipes.library import Stated, merge, methods_with_recipes
from muybridge.structures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Recipe, TrainArgs, Transform
from muybridge.video.labels import known_labels
from muybridge.video.sampling import TEST_RULES, TRAIN_RULES

ALL = recipe_names()


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
def test_recipe_can_be_trained(name):
    check(published_recipe(name).recipe)


# As the papers' training recipes and protocols say: short sides of a single view and in training, rounding, places of
# crops, arithmetic, order, mixing.
PAPERS = {
    "evl": (0, 0, "floor", "ends", "float", "randaugment crop", (0.0, 0.0)),
    "ila": (256, 256, "half_up", "even", "rounded", "crop flip color_jitter grayscale", (0.8, 1.0)),
    "dist": (0, 0, "int", "ends", "float", "crop flip grayscale", (0.8, 1.0)),
    "zeroi2v": (256, 256, "half_up", "even", "rounded", "randaugment crop flip", (0.0, 0.0)),
}


@pytest.mark.parametrize("name", ALL)
def test_pixels_are_the_papers(name):
    transform, train = published_recipe(name).recipe.transform, published_recipe(name).recipe.train
    single, train_resize, rounding, steps, arithmetic, order, mixing = PAPERS[name.split("_")[0]]
    if name.startswith("zeroi2v") and "ssv2" in name:
        order = "crop flip randaugment"
    larger = 1.5 if "_336" in name else 1
    assert (transform.resize_single, transform.train_resize) == (single * larger, train_resize * larger)
    assert (transform.rounding, transform.crop_steps, transform.arithmetic) == (rounding, steps, arithmetic)
    assert transform.order[: len(order.split())] == tuple(order.split())
    assert (train.mixup, train.cutmix) == mixing
    assert not transform.antialias


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


# What can be trained


def with_fields(changes):
    return override(Recipe(), changes)


def test_every_augmentation_can_be_trained():
    check(Recipe())
    for crop in ("random", "center", "multiscale"):
        check(Recipe(transform=Transform(crop=crop)))
    check(with_fields({"train.mixup": 0.8, "train.cutmix": 1.0, "transform.flip": 0.5}))
    swapped = Transform(flip=0.5, swap_labels=((86, 87), (93, 94)))
    check(Recipe(transform=swapped, train=TrainArgs(mixup=0.8)))
    fixed = TrainArgs(fixed_views=2, cache="memory")
    check(Recipe(transform=Transform(randaugment="pytorchvideo-n4-m7", erasing=0.25, flip=0.5), train=fixed))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"transform.order": "crop,flip"}, "transform.order is crop,flip; expected each of crop,flip,color_jitter,"),
        ({"transform.order": "crop,flip,color_jitter,grayscale,randaugment,flip"}, "once, in any order"),
        ({"transform.randaugment": "rand-m7-n4"}, "transform.randaugment is 'rand-m7-n4'; expected rand-m<magnitude"),
        ({"transform.randaugment": "pytorchvideo-n15-m7"}, "or pytorchvideo-n<operations 1 to 14>"),
        ({"transform.color_jitter": "inf,0,0,0"}, "transform.color_jitter is inf; expected at least 0"),
        ({"transform.mean": "nan,0,0"}, "transform.mean is nan; expected -1000 to 1000"),
        ({"train.warmup": "inf"}, "train.warmup is inf; expected at least 0"),
        ({"source.seconds": -1}, "source.seconds is -1; expected at least 0"),
        ({"source.megabytes": "nan"}, "source.megabytes is nan; expected at least 0"),
        ({"source.fold": 0}, "source.fold is 0; expected at least 1"),
        ({"transform.color_jitter": "0,0,0,0.6"}, "change of hue of 0.6; expected 0 to 0.5"),
        ({"train.cache": "memory"}, "give --train.fixed_views 1"),
        ({"train.cache": "memory", "train.fixed_views": 1, "train.mixup": 0.8}, "no pixels, so videos cannot be mixed"),
        ({"train.cache": "memory", "train.fixed_views": 1, "train.cutmix": 1}, "set --train.mixup 0 --train.cutmix 0"),
    ],
)
def test_fields_that_exclude_each_other(changes, sentence):
    recipe = with_fields(changes)
    with pytest.raises(BadInput, match=sentence):
        check(recipe)


@pytest.mark.parametrize("pairs", [((1, 1),), ((1, 2), (2, 3)), ((-1, 2),)])
def test_pairs_that_are_none(pairs):
    with pytest.raises(BadInput, match="expected pairs of class indices, each class once"):
        check(Recipe(transform=Transform(swap_labels=pairs)))


def test_one_label_a_video_in_a_cache():
    recipe = Recipe(
        transform=Transform(flip=0.5, swap_labels=((1, 2),)), train=TrainArgs(cache="memory", fixed_views=1)
    )
    with pytest.raises(BadInput, match="keeps one label a video.*set --transform.flip 0, or --train.cache none"):
        check(recipe)
    check(override(recipe, {"transform.flip": 0}))
    check(override(recipe, {"train.cache": "none"}))


@pytest.mark.parametrize(
    ("name", "value"), [("transform.erasing", 1.5), ("train.mixup", -1.0), ("train.warmup_start", 2.0)]
)
def test_numbers_out_of_range(name, value):
    with pytest.raises(BadInput, match=f"{name} is {value:g}; expected"):
        check(override(Recipe(), {name: value}))
