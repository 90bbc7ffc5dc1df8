"""Model files: whole, slim, damaged, foreign."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from muybridge.backbones.vit import ViT
from muybridge.engine import checkpoint
from muybridge.engine.checkpoint import MODEL, load_model, model_spec, save_model, write_atomically
from muybridge.errors import CheckpointError, MissingFile
from muybridge.methods import METHODS, build_method
from muybridge.structures import Sampling, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

LABELS = ("falling", "größer werden", "rising")


def make(name="evl", family="dinov2_reg4"):
    torch.manual_seed(0)
    options = {"evl": {"layers": 1, "heads": 3}}.get(name, {})
    method = build_method(name, random_backbone(tiny_backbones()[family]), 3, 4, (32, 32), options).eval()
    return method, model_spec(name, method, "custom", LABELS, Sampling(frames=4), Transform(size=(32, 32)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", tiny_backbones())
def test_saved_and_loaded_is_the_same(tmp_path, name, family):
    method, spec = make(name, family)
    save_model(tmp_path / MODEL, method, spec)
    loaded, told, _ = load_model(tmp_path)
    assert told == spec
    assert not loaded.training
    video = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(loaded(video).logits, method(video).logits)


def test_same_model_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_model(tmp_path / name / MODEL, *make())
    assert (tmp_path / "one" / MODEL).read_bytes() == (tmp_path / "two" / MODEL).read_bytes()


def test_slim_leaves_the_backbone_out_and_checks_it_when_loading(tmp_path, monkeypatch):
    method, spec = make()
    save_model(tmp_path / MODEL, method, spec, slim=True)
    assert not any(key.startswith("backbone.") for key in load_file(tmp_path / MODEL))
    monkeypatch.setattr(checkpoint, "load_backbone", lambda name, weights: (method.backbone, None))
    loaded = load_model(tmp_path).method
    video = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(loaded(video).logits, method(video).logits)
    other = random_backbone(tiny_backbones()["dinov2_reg4"], seed=9)
    monkeypatch.setattr(checkpoint, "load_backbone", lambda name, weights: (other, None))
    with pytest.raises(CheckpointError, match="these weights are others"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "unknown", "foreign", "misshapen"])
def test_keys_are_taken_strictly(tmp_path, damage):
    method, spec = make()
    save_model(tmp_path / MODEL, method, spec)
    tensors = load_file(tmp_path / MODEL)
    with checkpoint.safe_open(tmp_path / MODEL, framework="pt") as opened:
        metadata = opened.metadata()
    if damage == "missing":
        del tensors["method.query"]
    elif damage == "unknown":
        tensors["method.stranger"] = torch.zeros(1)
    elif damage == "foreign":
        tensors["stranger"] = torch.zeros(1)
    else:
        tensors["backbone.pos_embed"] = torch.zeros(1, 2, 3)
    save_file(tensors, tmp_path / MODEL, metadata=metadata)
    key = {"missing": "query", "misshapen": "pos_embed"}.get(damage, "stranger")
    with pytest.raises(CheckpointError, match=key):
        load_model(tmp_path)


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(MissingFile, match="There is no"):
        load_model(tmp_path)
    (tmp_path / MODEL).write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(tmp_path)
    save_file(ViT(tiny_backbones()["clip"]).state_dict(), tmp_path / MODEL)
    with pytest.raises(CheckpointError, match="not a model of muybridge"):
        load_model(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
