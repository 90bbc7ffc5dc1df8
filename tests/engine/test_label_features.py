"""Which head a method gets at the start of a training, and what is said about it."""

from dataclasses import replace

import pytest
import torch

from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.backbones.weights import BACKBONES
from muybridge.engine import labels as engine_labels
from muybridge.engine.labels import label_features
from muybridge.engine.progress import Progress
from muybridge.engine.train import train
from muybridge.errors import BadInput
from muybridge.loading import load
from muybridge.methods.heads import LinearHead, TextHead
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones


class Told(Progress):
    def __init__(self):
        self.sentences = []

    def say(self, text):
        self.sentences.append(text)


@pytest.fixture
def tower(monkeypatch):
    """A tiny text tower of CLIP's vocabulary takes the place of the published one."""
    torch.manual_seed(0)
    text = TextTower(TextConfig(width=64, depth=1, heads=1, mlp_hidden=128, projection=32)).eval()
    monkeypatch.setattr(engine_labels, "load_text", lambda name, weights: (text, ClipTokenizer()))
    return text


RECIPE = Recipe(method="ila", backbone="clip_vitb16", options={"head": "auto"})


def test_with_a_text_tower_class_names_make_the_classifier(tower):
    told = Told()
    features = label_features(RECIPE, ["opening", "closing"], BACKBONES["clip_vitb16"], told)
    assert features.shape == (2, 32)
    assert told.sentences == ["ila compares videos with the texts of 2 classes, such as 'opening'."]
    with torch.no_grad():
        torch.testing.assert_close(features, tower(ClipTokenizer()(["opening", "closing"])))


def test_without_one_it_is_a_linear_head_and_that_is_said():
    told = Told()
    assert (
        label_features(replace(RECIPE, backbone="dinov2_vits14"), ["a", "b"], BACKBONES["dinov2_vits14"], told) is None
    )
    assert told.sentences == ["dinov2_vits14 has no text tower: ila gets a linear head for 2 classes."]
    must = replace(RECIPE, options={"head": "text"})
    with pytest.raises(BadInput, match="ila.head is 'text', but dinov2_vits14 has no text tower"):
        label_features(must, ["a", "b"], BACKBONES["dinov2_vits14"], told)


def test_a_linear_head_that_is_asked_for_and_methods_without_texts_load_no_tower():
    told = Told()
    for recipe in (replace(RECIPE, options={"head": "linear"}), Recipe(method="evl")):
        assert label_features(recipe, ["a", "b"], BACKBONES["clip_vitb16"], told) is None
    assert told.sentences == []


@pytest.mark.parametrize("texts", [None, ["a thing closes", "a thing falls", "a thing rises"]])
def test_training_with_texts_keeps_them_in_the_run(tower, videos, tmp_path, texts):
    told = Told()
    recipe = Recipe(
        method="dist",
        options={"width": 64, "temporal_width": 12, "pooling_layers": 1},
        backbone="clip_vitb16",
        data=str(videos),
        sampling=Sampling(frames=4),
        transform=Transform(size=(32, 32)),
        train=TrainArgs(epochs=1, batch_size=4, workers=0),
    )
    backbone = random_backbone(tiny_backbones()["clip"])
    result = train(recipe, tmp_path / "run", backbone=backbone, progress=told, texts=texts)
    assert isinstance(result.method.head, TextHead)
    again = load(tmp_path / "run")
    assert again.labels == ("closing", "falling", "rising")
    with torch.no_grad():
        wanted = tower(ClipTokenizer()(texts or ["closing", "falling", "rising"]))
    torch.testing.assert_close(again.trained.head.features, wanted)
    with pytest.raises(BadInput, match="2 labels are given for 3 classes"):
        train(recipe, tmp_path / "other", backbone=backbone, texts=["a", "b"])


def test_a_linear_head_is_settled_in_the_recipe(videos, tmp_path):
    recipe = Recipe(
        method="ila",
        backbone="vits14_imgfocus",
        data=str(videos),
        sampling=Sampling(frames=3),
        transform=Transform(size=(32, 32)),
        train=TrainArgs(epochs=1, batch_size=4, workers=0),
    )
    result = train(recipe, tmp_path / "run", backbone=random_backbone(tiny_backbones()["dinov2"]))
    assert isinstance(result.method.head, LinearHead)
    assert '"head": "linear"' in (tmp_path / "run" / "recipe.json").read_text()
