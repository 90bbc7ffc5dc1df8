"""Starting from a trained video model: what is replaced, what is kept, what is refused, and that it helps."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from clips import write_video
from muybridge.engine.checkpoint import load_model, model_spec
from muybridge.engine.init import START, class_tensors, find_init, start_from, starting_recipe
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.progress import Progress
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput, MissingFile
from muybridge.loading import load
from muybridge.methods import METHODS, build_method
from muybridge.methods.base import text_head
from muybridge.recipes import check, read_recipe, validate
from muybridge.recogniser import Recogniser
from muybridge.structures import InitArgs, Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.dataset import read_source

OLD = ("closing", "hiding", "rising")
NEW = ("rising", "falling", "closing", "turning")


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def backbone(family="dinov2"):
    return random_backbone(tiny_backbones()[family])


def recogniser(name, options=None, labels=OLD, family="dinov2", features=None):
    torch.manual_seed(5)
    method = build_method(name, backbone(family), len(labels), 4, (32, 32), options or {}, features)
    spec = model_spec(
        name, method, "custom", labels, Sampling(frames=4), Transform(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    )
    return Recogniser(method.eval(), spec, "cpu")


@pytest.fixture
def model():
    return recogniser("evl", {"layers": 2, "heads": 3})


def asked(model, **init):
    return validate(replace(starting_recipe(model.spec), init=InitArgs(model="x", **init)))


OPTIONS = {
    "dist": {"width": 48, "temporal_width": 12, "pooling_layers": 2},
    "evl": {"layers": 2, "heads": 3},
    "st_adapter": {"kernel": (3, 3, 1)},
    "zeroi2v": {"shifts": "-1:16,+1:20,-2:5"},
}


@pytest.mark.parametrize("name", METHODS)
def test_the_head_is_new_and_nothing_else(name):
    model = recogniser(name, OPTIONS.get(name))
    before = {key: value.clone() for key, value in model.trained.state_dict().items()}
    progress = Said()
    method = start_from(model, asked(model), NEW, NEW, progress)
    after = method.state_dict()
    assert after.keys() == before.keys()
    replaced = {key for key in after if after[key].shape != before[key].shape}
    assert replaced
    assert all(key.startswith("head.") for key in replaced)
    assert all(after[key].shape[0] == 4 for key in replaced)
    assert all(torch.equal(after[key], before[key]) for key in after if key not in replaced)
    assert set(class_tensors(asked(model), method.backbone, 4)) == replaced
    told = next(line for line in progress.lines if line.startswith("Replaced for 4 classes, anew"))
    assert all(key in told for key in replaced)
    assert any("2 of the classes are known" in line for line in progress.lines)


def test_as_many_classes_are_replaced_too(model):
    before = model.trained.head.fc.weight.clone()
    method = start_from(model, asked(model), NEW[:3], NEW[:3])
    assert method.head.fc.weight.shape == before.shape
    assert not torch.equal(method.head.fc.weight, before)


def test_classes_are_kept_by_name(model):
    before = model.trained.head.fc
    progress = Said()
    method = start_from(model, asked(model, keep_classes=True), NEW, NEW, progress)
    for new, old in ((0, 2), (2, 0)):  # rising, closing
        assert torch.equal(method.head.fc.weight[new], before.weight[old])
        assert torch.equal(method.head.fc.bias[new], before.bias[old])
    for new in (1, 3):
        assert not (method.head.fc.weight[new] == before.weight).all(dim=1).any()
    assert "2 of 4 classes are kept by their names (rising, closing)." in progress.lines
    # All classes, in another order: the same answers, in that order.
    order = [OLD[2], OLD[0], OLD[1]]
    video = torch.randn(2, 4, 3, 32, 32)
    again = start_from(model, asked(model, keep_classes=True), order, order).eval()
    torch.testing.assert_close(again(video).logits, model.trained(video).logits[:, [2, 0, 1]])


def test_text_heads_compare_with_the_new_names():
    features = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    model = recogniser("ila", {}, family="clip", features=features)
    others = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    words = []

    def relabel(labels, weights=None):
        words.append(tuple(labels))
        model.use_label_features(others, labels)

    model.relabel = relabel
    before = {key: value.clone() for key, value in model.trained.own_state().items()}
    progress = Said()
    texts = ("it rises", "it falls", "it closes", "it turns")
    method = start_from(model, asked(model), NEW, texts, progress)
    assert words == [texts]
    assert torch.equal(text_head(method).features, others)
    after = method.own_state()
    assert all(torch.equal(after[key], before[key]) for key in after if key != "head.features")
    assert any(line.startswith("Replaced for 4 classes, from their names: head.features") for line in progress.lines)


def test_other_frames_only_by_interpolation(model):
    other = asked(model)
    other = replace(
        other, sampling=replace(other.sampling, frames=6), transform=replace(other.transform, size=(40, 40))
    )
    with pytest.raises(BadInput, match="reads 4 frames of 32x32 px; 6 frames of 40x40 px.*--interpolate"):
        start_from(model, other, NEW, NEW)
    method = start_from(model, replace(other, init=InitArgs("x", interpolate=True)), NEW, NEW)
    assert method(torch.randn(1, 6, 3, 40, 40)).logits.shape == (1, 4)
    assert method.layers[0].temporal_position.shape[0] == 6


def test_what_does_not_fit_is_refused(model):
    recipe = asked(model)
    with pytest.raises(BadInput, match="the method evl, and probe is asked for"):
        start_from(model, replace(recipe, method="probe", options={}), NEW, NEW)
    with pytest.raises(BadInput, match="the backbone custom, and clip_vitb16"):
        start_from(model, replace(recipe, backbone="clip_vitb16"), NEW, NEW)
    with pytest.raises(BadInput, match="options of evl do not fit.*23 unknown"):
        start_from(model, replace(recipe, options={**recipe.options, "layers": 1}), NEW, NEW)
    with pytest.raises(BadInput, match="is of evl, and the recipe is for ila"):
        starting_recipe(model.spec, Recipe(method="ila"))
    start_from(model, replace(recipe, options={**recipe.options, "dropout": 0.1}), NEW, NEW)


def test_recipe_of_a_model(model):
    recipe = starting_recipe(model.spec)
    assert (recipe.method, recipe.backbone, recipe.sampling.frames) == ("evl", "custom", 4)
    assert recipe.options == model.spec.options
    flipped = replace(model.spec, transform=Transform(size=(32, 32), flip=0.5, swap_labels=((0, 1),)))
    assert starting_recipe(flipped).transform == Transform(size=(32, 32))  # pairs of classes that are no more
    base = Recipe(method="evl", sampling=Sampling(frames=16, stride=2), transform=Transform(grayscale=0.2))
    mixed = starting_recipe(model.spec, base)
    assert (mixed.sampling.frames, mixed.sampling.stride) == (4, 2)
    assert (mixed.transform.size, mixed.transform.grayscale) == ((32, 32), 0.2)


def test_what_init_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert find_init("run") == tmp_path / "run"
    with pytest.raises(MissingFile, match="nothing at nowhere"):
        find_init("nowhere")
    with pytest.raises(MissingFile, match=r"weights of evl_vitb16_k400_8f are not here; expected .*\.pth"):
        find_init("evl_vitb16_k400_8f")
    name = "k400_vitb16_8f_dec4x768.pth"
    (tmp_path / name).touch()
    assert find_init("evl_vitb16_k400_8f") == tmp_path / name


@pytest.fixture
def first(videos, tmp_path):
    """A finished run."""
    recipe = validate(
        Recipe(
            method="evl",
            options={"layers": 2, "heads": 3},
            backbone="custom",
            data=str(videos),
            sampling=Sampling(frames=4),
            transform=Transform(size=(32, 32)),
            train=TrainArgs(epochs=1, batch_size=5, workers=0, unfreeze="last:1"),
        )
    )
    train(recipe, tmp_path / "first", backbone=backbone())
    return tmp_path / "first"


class StopAfter(Progress):
    def __init__(self, batches):
        self.left = batches

    def advance(self, amount, **figures):
        self.left -= "loss" in figures
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def test_a_run_from_a_run_resumes_without_it(first, videos, tmp_path):
    start = load(first, device="cpu")
    recipe = replace(
        starting_recipe(start.spec),
        data=str(videos),
        init=InitArgs(model=str(first), keep_classes=True),
        train=TrainArgs(epochs=3, batch_size=5, workers=0),
    )
    with pytest.raises(BadInput, match=r"start=muybridge.load"):
        train(recipe, tmp_path / "none")
    train(recipe, tmp_path / "whole", start=start)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", progress=StopAfter(4), start=load(first, device="cpu"))
    assert read_recipe(tmp_path / "cut/recipe.json").init == recipe.init
    shutil.rmtree(first)
    resume(tmp_path / "cut")
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]
    began, spec, _ = load_model(tmp_path / "cut" / START)
    assert torch.equal(began.head.fc.weight, start.trained.head.fc.weight)  # all classes were kept
    assert spec.own_backbone
    assert spec.backbone_sha256 == start.spec.backbone_sha256


def test_its_backbone_is_saved_even_if_slim(first, videos, tmp_path):
    start = load(first, device="cpu")
    recipe = replace(
        starting_recipe(start.spec), data=str(videos), train=TrainArgs(epochs=1, batch_size=5, workers=0, slim=True)
    )
    train(recipe, tmp_path / "run", start=start)
    assert load_model(tmp_path / "run").spec.backbone_sha256 == start.spec.backbone_sha256


def textured(kind, seed, frames=12, side=48):
    """A patch that moves or grows in one of ten ways over a dark ground: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    film = rng.integers(0, 60, (frames, side, side, 3), dtype=np.uint8)
    colour, a = rng.integers(160, 255, 3, dtype=np.uint8), int(rng.integers(8, side - 20))
    for t in range(frames):
        s = t / (frames - 1) if kind % 2 else 1 - t / (frames - 1)
        way = round(2 + (side - 18) * s)
        top, left, h, w = {
            0: (way, a, 12, 12),
            1: (a, way, 12, 12),
            2: (24 - round(4 + 14 * s) // 2, a, round(4 + 14 * s), 12),
            3: (way, way, 12, 12),
            4: (way, side - 14 - way, 12, 12),
        }[kind // 2]
        film[t, top : top + h, left : left + w] = colour
    return film


@pytest.mark.slow
def test_four_new_classes_are_learnt_in_half_the_steps(tmp_path):
    names = [f"way {kind}" for kind in range(10)]
    for part, kinds in (("six", range(6)), ("four", range(6, 10))):
        for place, number in (("train", 24), ("val", 12)):
            for kind in kinds:
                for index in range(number):
                    film = textured(kind, 7000 * (place == "val") + 100 * kind + index)
                    write_video(tmp_path / part / place / names[kind] / f"{index}.mp4", film)
    recipe = validate(
        Recipe(
            method="evl",
            options={"layers": 2, "heads": 3, "dropout": 0.1},
            backbone="custom",
            data=str(tmp_path / "six"),
            sampling=Sampling(frames=6),
            transform=Transform(size=(32, 32), crop="center"),
            train=TrainArgs(epochs=24, batch_size=8, lr=2e-3, workers=0, fixed_views=1, cache="memory"),
        )
    )
    train(recipe, tmp_path / "first", backbone=backbone())

    def curve(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line["val_top1"] for line in lines]

    four = replace(recipe, data=str(tmp_path / "four"), train=replace(recipe.train, epochs=16))
    check(four)
    train(four, tmp_path / "fresh", backbone=backbone())
    from_six = replace(four, init=InitArgs(model=str(tmp_path / "first")))
    train(from_six, tmp_path / "started", start=load(tmp_path / "first", device="cpu"))
    fresh, started = curve(tmp_path / "fresh"), curve(tmp_path / "started")
    reached = max(fresh)
    assert reached > 0.9, "there is something to learn"
    assert max(started) >= reached
    epochs = [next(i for i, top1 in enumerate(line, 1) if top1 >= reached) for line in (fresh, started)]
    assert epochs[1] <= epochs[0] / 2, (fresh, started)
    assert read_source(tmp_path / "four").labels == tuple(names[6:])
