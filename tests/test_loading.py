"""`muybridge.load` and files in exactly the formats of the four papers' authors."""

import json
import os
import sys
import types
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from muybridge.backbones.convert import Converted, to_source
from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.weights import BACKBONES
from muybridge.errors import BadInput, CheckpointError, MissingFile, UnknownName
from muybridge.loading import load
from muybridge.methods import build_method
from muybridge.published.assemble import Model, to_published
from muybridge.recipes import library
from muybridge.testing import cases
from muybridge.testing.tiny import random_backbone, tiny_backbones

FOLDER = Path(__file__).parent / "parity"


class Explosive:
    """What a wicked file would hold: running its pickle makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def foreign(monkeypatch):
    """Classes of libraries that are not installed, as far as pickle is concerned."""

    def make(module, name, base=object):
        parts = module.split(".")
        for i in range(len(parts)):
            dotted = ".".join(parts[: i + 1])
            if dotted not in sys.modules:
                monkeypatch.setitem(sys.modules, dotted, types.ModuleType(dotted))
        kind = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        return kind

    return make


def tensors(case):
    return {key: torch.from_numpy(value) for key, value in case.state_dict.items()}


def video_of(case):
    layout, video = case.video_layout, torch.from_numpy(case.inputs["video"])
    return video.transpose(1, 2) if layout == "BCTHW" else video


def wrapped(case, foreign, bomb):
    """The case's tensors as the authors' training code writes them."""
    state = OrderedDict(tensors(case))
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    if case.method == "evl":
        clip = {key: state.pop(key) for key in list(state) if key.startswith("visual.")}
        scaler = {"scale": 65536.0, "growth_factor": 2.0}
        stored = {"model": state, "optimizer": optimizer, "lr_sched": {}, "loss_scaler": scaler, "next_step": 5000}
        return stored, clip
    if case.method == "ila":
        node = foreign("yacs.config", "CfgNode", dict)
        config = node(MODEL=node(ARCH="ViT-B/16"), bomb=bomb)
        accuracy = np.float64(81.3)
        return {"model": state, "optimizer": optimizer, "max_accuracy": accuracy, "epoch": 49, "config": config}, {}
    if case.method == "dist":
        return {"epoch": 35, "model_state": state, "optimizer_state": optimizer, "cfg": json.dumps({"A": 1})}, {}
    buffer = foreign("mmengine.logging.history_buffer", "HistoryBuffer")()
    buffer.__dict__ |= {"_log_history": np.arange(5.0), "_statistics": {"mean": np.float32(3)}}
    hub = {"log_scalars": OrderedDict({"train/loss": buffer}), "runtime_info": OrderedDict(iter=np.int64(9), bomb=bomb)}
    meta = {"epoch": 40, "dataset_meta": {}, "time": "20240701"}
    return {"meta": meta, "state_dict": state, "message_hub": hub, "optimizer": optimizer, "param_schedulers": []}, {}


def write(stored, path, monkeypatch):
    torch.save(stored, path)
    for name in list(sys.modules):
        if name.split(".")[0] in ("yacs", "mmengine"):
            monkeypatch.delitem(sys.modules, name)  # the reader does not have these


SMALL = ["evl/tiny_grads", "ila/tiny_k400", "ila/tiny_ssv2", "dist/tiny", "zeroi2v/tiny_basic", "zeroi2v/merged_tiny"]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_as_its_authors_write_it(name, foreign, tmp_path, monkeypatch):
    case = cases.load(FOLDER / f"{name}.json")
    bomb = Explosive(tmp_path / "ran")
    stored, clip = wrapped(case, foreign, bomb)
    write(stored, tmp_path / "model.pth", monkeypatch)
    if clip:
        stored["model"] |= clip  # beside the decoder, as the reference case has it: the tower is too small for a table
        write(stored, tmp_path / "model.pth", monkeypatch)
    recogniser = load(tmp_path / "model.pth", "cpu", config=case.config)
    if "text" in case.inputs or "texts" in case.inputs:
        ids = torch.from_numpy(case.inputs.get("text", case.inputs.get("texts"))).long()
        with torch.no_grad():
            features = recogniser.text(ids)
        recogniser.use_label_features(features, [f"name {i}" for i in range(len(ids))])
    with torch.no_grad():
        logits = recogniser.method(video_of(case)).logits
    expected = torch.from_numpy(case.outputs["logits"])
    assert (logits - expected).abs().max() <= 2e-5 * expected.abs().max()
    back = recogniser.to_published()
    assert set(back) == set(case.state_dict)
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors(case).items())
    assert not (tmp_path / "ran").exists(), "the file's pickle was run"


@pytest.mark.parametrize("name", SMALL)
def test_a_prefix_of_distributed_training_makes_no_difference(name):
    case = cases.load(FOLDER / f"{name}.json")
    state = tensors(case)
    bare = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    towers = {key: tensor for key, tensor in bare.items() if case.method == "evl" and key.startswith("visual.")}
    prefixed = {f"module.{key}": tensor for key, tensor in bare.items() if key not in towers} | towers
    for given in (bare, prefixed):
        recogniser = load(given, "cpu", config=case.config)
        back = recogniser.to_published()
        assert set(back) == set(given)
        assert all(torch.equal(back[key], tensor) for key, tensor in given.items())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("damage", ["missing", "unknown", "misshapen"])
def test_keys_that_are_wrong_are_named(name, damage):
    case = cases.load(FOLDER / f"{name}.json")
    state = tensors(case)
    parts = ("mlp.fc1.bias", "ln_2.bias", "ffn.c_fc.bias", "mlp.c_fc.bias")
    key = next(key for part in parts for key in state if key.endswith(part))
    if damage == "missing":
        del state[key]
    elif damage == "unknown":
        key = key + "_of_a_stranger"
        state[key] = torch.zeros(1)
    else:
        state[key] = torch.zeros(*state[key].shape, 2)
    tail = key.split(".")[-2] if damage != "unknown" else "stranger"
    with pytest.raises(CheckpointError, match=tail.replace("c_fc", "(c_fc|fc1)").replace("ln_2", "(ln_2|norm)")):
        load(state, "cpu", config=case.config)


def test_an_unknown_format_says_what_the_file_looks_like(tmp_path):
    torch.save({"resnet.conv1.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"EVL, .*ZeroI2V.*first keys: resnet.conv1.weight"):
        load(tmp_path / "x.pth")
    with pytest.raises(MissingFile):
        load(tmp_path / "nothing.pth")


def test_what_is_told_must_agree_and_be_known():
    case = cases.load(FOLDER / "zeroi2v/tiny_basic.json")
    with pytest.raises(CheckpointError, match="num_frames is given as 5, but the tensors say 4"):
        load(tensors(case), config=case.config | {"num_frames": 5})
    with pytest.raises(UnknownName, match="adapter_scal"):
        load(tensors(case), config=case.config | {"adapter_scal": 1})


@pytest.mark.parametrize("name", SMALL)
def test_numbers_that_cannot_be_right_are_named(name):
    case = cases.load(FOLDER / f"{name}.json")
    key = next(key for key in case.state_dict if key.endswith(("fc1.bias", "c_fc.bias", "message_fc.bias")))
    state = tensors(case)
    wrong = {
        "not finite": state[key].clone().index_fill_(0, torch.tensor([0]), float("nan")),
        "fp64, of which fp32 would lose digits": state[key].double() + 1e-12,
        "complex": state[key].to(torch.complex64),
    }
    for sentence, tensor in wrong.items():
        with pytest.raises(CheckpointError, match=f"{key.split('.')[-2]}.*{sentence}"):
            load({**state, key: tensor}, config=case.config)
    parts = ("decoder.decoder_layers.", "dist_net.", "message_fc.", "cls_head.")
    own = next(key for key in state if any(part in key for part in parts) and key.endswith("bias"))
    with pytest.raises(CheckpointError, match="whole numbers"):
        load({**state, own: state[own].long()}, config=case.config)


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_comes_back_as_it_was(name):
    case = cases.load(FOLDER / f"{name}.json")
    state = {key: x.half() if x.is_floating_point() else x for key, x in tensors(case).items()}
    back = load(state, config=case.config).to_published()
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype, key
        assert torch.equal(back[key], tensor), key


def test_a_key_with_and_without_its_prefix_is_one_too_many():
    evl, zero = (cases.load(FOLDER / f"{name}.json") for name in ("evl/tiny_convonly", "zeroi2v/tiny_basic"))
    for case, key in ((evl, "proj.2.weight"), (zero, "module.cls_head.fc_cls.weight")):
        other = "module." + key if "module." + key in case.state_dict else key.removeprefix("module.")
        state = tensors(case)
        with pytest.raises(CheckpointError, match="with and without"):
            load({**state, key: state[other]}, config=case.config)


def test_two_names_of_one_value_must_agree():
    case = cases.load(FOLDER / "zeroi2v/tiny_basic.json")
    with pytest.raises(CheckpointError, match="scale is given as 1, but adapter_scale as 0.5"):
        load(tensors(case), config=case.config | {"scale": 1})


@pytest.mark.parametrize(
    ("name", "value"), [("width", 48), ("layers", 4), ("patch", [4, 8]), ("mlp_factor", 2.0), ("activation", "gelu")]
)
def test_what_is_told_of_evls_image_tower_is_compared(name, value):
    case = cases.load(FOLDER / "evl/tiny_grads.json")
    config = case.config | {"backbone": case.config["backbone"] | {name: value}}
    if name == "activation":  # no tensor tells: another function is another model
        wanted = torch.from_numpy(case.outputs["logits"])
        assert (load(tensors(case), config=config).method(video_of(case)).logits - wanted).abs().max() > 1e-3
        return
    with pytest.raises(CheckpointError, match="image transformer's"):
        load(tensors(case), config=config)


def test_heads_that_nobody_tells_are_asked_for():
    case = cases.load(FOLDER / "zeroi2v/tiny_basic.json")
    config = {name: value for name, value in case.config.items() if name != "heads"}
    with pytest.raises(BadInput, match="do not tell heads: 32 channels"):
        load(tensors(case), config=config)


def test_values_of_another_type_are_told():
    case = cases.load(FOLDER / "evl/tiny_grads.json")
    with pytest.raises(BadInput, match="decoder is 4; expected its fields by name"):
        load(tensors(case), config=case.config | {"decoder": 4})
    with pytest.raises(CheckpointError, match="EVL's format, but a tensor has another shape, or a value"):
        load(tensors(case), config=case.config | {"decoder": case.config["decoder"] | {"mlp_factor": "x"}})


# Recipes of a tiny world, so that nothing of full size is needed.


@pytest.fixture
def tiny_world(monkeypatch):
    """Two published recipes that fit the tiny ZeroI2V file and differ in what its tensors do not tell."""
    common = {
        "dataset": "hmdb51",
        "classes": 51,
        "recipe": {
            "backbone": "tiny_clip",
            "sampling": {"frames": 4, "rule": "uniform"},
            "transform": {"size": [32, 32]},
        },
    }
    entries = {
        f"zeroi2v_tiny_{scale}": (
            "zeroi2v",
            library.merge(
                common,
                {
                    "recipe": {"zeroi2v": {"shifts": "-1:16,+1:16", "hidden": 12, "scale": scale}},
                    "files": [{"name": f"tiny_{scale}.pth"}, {"name": "both.pth"}],
                },
            ),
        )
        for scale in (0.5, 1.0)
    }
    monkeypatch.setattr(library, "_entries", lambda: entries)
    monkeypatch.setattr(library, "_files", lambda: {"zeroi2v": {}})
    tiny = replace(BACKBONES["clip_vitb16"], name="tiny_clip", config=tiny_backbones()["clip"])
    monkeypatch.setitem(BACKBONES, "tiny_clip", tiny)
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    options = {"shifts": "-1:16,+1:16", "scale": 1.0}
    method = build_method("zeroi2v", backbone, 51, 4, (32, 32), options).eval()
    for parameter in method.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return method, entries


def tiny_file(method, path):
    torch.save({"state_dict": to_published(Model("zeroi2v", method))}, path)
    return path


def logits_of(recogniser):
    with torch.no_grad():
        return recogniser.method(torch.ones(1, 4, 3, 32, 32)).logits


def test_the_recipe_is_found_by_name_by_hash_or_given(tiny_world, tmp_path):
    method, entries = tiny_world
    wanted = method(torch.ones(1, 4, 3, 32, 32)).logits
    named = tiny_file(method, tmp_path / "tiny_1.0.pth")
    recogniser = load(named)  # 3 heads of 16 channels: the recipe's backbone tells
    torch.testing.assert_close(logits_of(recogniser), wanted, atol=1e-5, rtol=1e-5)
    assert recogniser.labels[0] == "brush_hair"
    assert recogniser.sampling.rule == "uniform"
    assert "by the file's name" in recogniser.notes[0]

    other = tiny_file(method, tmp_path / "mine.pth")
    assert load(other, recipe="zeroi2v_tiny_1.0").trained.config.scale == 1.0
    assert load(other, recipe="zeroi2v_tiny_0.5").trained.config.scale == 0.5

    from muybridge.backbones.files import sha256_of

    entries["zeroi2v_tiny_1.0"][1]["files"].append({"name": "elsewhere.pth", "sha256": sha256_of(other)})
    found = load(other)
    assert found.trained.config.scale == 1.0
    assert "SHA-256" in found.notes[0]


def test_ambiguity_is_an_error_that_lists_the_candidates(tiny_world, tmp_path):
    method, _ = tiny_world
    with pytest.raises(BadInput, match="several recipes .zeroi2v_tiny_0.5, zeroi2v_tiny_1.0"):
        load(tiny_file(method, tmp_path / "both.pth"), config={"heads": 3})
    with pytest.raises(
        BadInput, match=r"do not tell .*Recipes that fit its tensors: zeroi2v_tiny_0.5, zeroi2v_tiny_1.0"
    ):
        load(tiny_file(method, tmp_path / "mine.pth"), config={"heads": 3})


def test_a_recipe_that_does_not_fit_is_told(tiny_world, tmp_path):
    method, entries = tiny_world
    file = tiny_file(method, tmp_path / "mine.pth")
    entries["zeroi2v_tiny_1.0"][1]["recipe"]["sampling"]["frames"] = 8
    with pytest.raises(CheckpointError, match="4 frames; the recipe says 8"):
        load(file, recipe="zeroi2v_tiny_1.0")
    entries["zeroi2v_tiny_0.5"][1]["dataset"] = "ucf101"
    with pytest.raises(CheckpointError, match="51 classes, but the recipe's ucf101 has 101"):
        load(file, recipe="zeroi2v_tiny_0.5")
    with pytest.raises(CheckpointError, match="51 classes, but the labels are 2"):
        load(file, config={"heads": 3, "scale": 1.0, "shifts": "none"}, labels=["a", "b"])


def test_the_recipes_backbone_and_size_must_be_those_of_the_file(tiny_world, tmp_path, monkeypatch):
    method, entries = tiny_world
    file = tiny_file(method, tmp_path / "tiny_1.0.pth")
    deeper = replace(BACKBONES["tiny_clip"], config=replace(BACKBONES["tiny_clip"].config, depth=3))
    monkeypatch.setitem(BACKBONES, "tiny_clip", deeper)
    with pytest.raises(CheckpointError, match="depth is 2, but the recipe or config says 3"):
        load(file)
    monkeypatch.undo()
    entries["zeroi2v_tiny_1.0"][1]["recipe"] |= {"backbone": "custom", "transform": {"size": [48, 48]}}
    monkeypatch.setattr(library, "_entries", lambda: entries)
    with pytest.raises(CheckpointError, match="reads 32x32 px; the recipe says 48x48"):
        load(file, config={"heads": 3}, recipe="zeroi2v_tiny_1.0")


def test_without_a_recipe_classes_are_numbered_and_that_is_said(tiny_world, tmp_path):
    method, _ = tiny_world
    config = {"heads": 3, "scale": 1.0, "shifts": "-1:16,+1:16"}
    recogniser = load(tiny_file(method, tmp_path / "mine.pth"), config=config)
    assert recogniser.labels[50] == "class 50"
    assert any("class names are not known" in note for note in recogniser.notes)
    assert any("No recipe" in note for note in recogniser.notes)


def test_other_frames_are_refused_or_interpolated(tiny_world, tmp_path):
    method, _ = tiny_world
    file = tiny_file(method, tmp_path / "tiny_1.0.pth")
    with pytest.raises(BadInput, match="reads 4 frames of 32x32 px; 6 frames of 32x32 px are asked for.*--interpolate"):
        load(file, frames=6)
    other = load(file, frames=6, image_size=(48, 48), interpolate=True)
    assert other.sampling.frames == 6
    with torch.no_grad():
        assert other.method(torch.ones(1, 6, 3, 48, 48)).logits.shape == (1, 51)
    other.save(tmp_path / "run")
    assert load(tmp_path / "run").spec.transform.size == (48, 48)


# EVL: its image transformer is in another file.


def evl_file(path):
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    method = build_method("evl", backbone, 5, 4, (32, 32), {"layers": 2, "heads": 3})
    torch.save({"model": to_published(Model("evl", method))}, path)
    return method


def test_evl_asks_for_its_image_transformer(tmp_path, monkeypatch):
    method = evl_file(tmp_path / "evl.pth")
    with pytest.raises(MissingFile, match=r"--weights.*ViT-B-16.pt"):
        load(tmp_path / "evl.pth", config={"heads": 3})
    asked = []

    def given(name, weights):
        asked.append((name, weights))
        return method.backbone, None

    monkeypatch.setattr("muybridge.loading.load_backbone", given)
    (tmp_path / "ViT-B-16.pt").write_bytes(b"beside it")
    load(tmp_path / "evl.pth", config={"heads": 3})
    load(tmp_path / "evl.pth", weights="clip.pt", config={"heads": 3})
    assert asked == [(None, tmp_path / "ViT-B-16.pt"), (None, "clip.pt")]


# Text heads.


@pytest.fixture(scope="module")
def dist_state():
    """A published DiST file with a tiny image tower and a tiny text tower of CLIP's vocabulary."""
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    text = TextTower(TextConfig(width=64, depth=1, heads=1, mlp_hidden=256, projection=32, activation="quick_gelu"))
    options = {"width": 64, "temporal_width": 12, "pooling_layers": 1, "head": "text"}
    method = build_method("dist", backbone, 5, 4, (32, 32), options, torch.randn(5, 32)).eval()
    rest = {"logit_scale": torch.tensor(2.0)}
    assert to_source(
        Converted("openclip", backbone.config, backbone.state_dict(), text.config, text.state_dict(), rest)
    )
    return to_published(Model("dist", method, text, rest))


CONFIG = {"vision_heads": 3}


def test_class_names_make_the_classifier(dist_state, tmp_path):
    with pytest.raises(BadInput, match="classes"):
        load(dist_state, config=CONFIG)
    blank = load(dist_state, config=CONFIG | {"num_classes": 3})
    with pytest.raises(BadInput, match="class names and has none"):
        blank.predict(np.zeros((8, 40, 40, 3), dtype=np.uint8))
    recogniser = load(dist_state, config=CONFIG, labels=["opening a box", "closing a box"])
    video = np.random.default_rng(0).integers(0, 255, (8, 40, 40, 3), dtype=np.uint8)
    first = recogniser.scores(video)
    assert recogniser.labels == ("opening a box", "closing a box")
    recogniser.relabel(["closing a box", "eating", "opening a box"])
    second = recogniser.scores(video)
    assert len(second) == 3
    # The logits of a name do not depend on the names beside it.
    torch.testing.assert_close(first[0] / first[1], second[2] / second[0], rtol=1e-4, atol=0)
    with pytest.raises(BadInput, match="at least 2 different names"):
        recogniser.relabel(["one"])
    recogniser.save(tmp_path / "run", text=True)
    again = load(tmp_path / "run", labels=["eating", "opening a box"])
    torch.testing.assert_close(
        again.scores(video)[0] / again.scores(video)[1], second[1] / second[2], rtol=1e-4, atol=0
    )
    recogniser.save(tmp_path / "slim", text=False)
    torch.testing.assert_close(load(tmp_path / "slim").scores(video), second)
    with pytest.raises(BadInput, match="saved without its text tower"):
        load(tmp_path / "slim", labels=["eating", "opening a box"])


def test_other_names_need_a_text_head(tiny_world, tmp_path):
    method, _ = tiny_world
    recogniser = load(tiny_file(method, tmp_path / "tiny_1.0.pth"))
    with pytest.raises(BadInput, match="linear head for its 51 classes"):
        recogniser.relabel(["a", "b"])


def test_labels_must_be_a_list_of_different_names(tiny_world, tmp_path):
    method, _ = tiny_world
    file = tiny_file(method, tmp_path / "tiny_1.0.pth")
    for wrong in ("abcde", ["a"], ["a", "a"]):
        with pytest.raises(BadInput, match="labels (are|is one text)"):
            load(file, labels=wrong)
    with pytest.raises(MissingFile, match="nothing at"):
        load(tmp_path / "nothere.pth", recipe="zeroi2v_tiny_1.0")
    with pytest.raises(MissingFile, match=r"Recipes of such a name.* zeroi2v_tiny_1\.0"):
        load("zeroi2v_tiny_1.1")
