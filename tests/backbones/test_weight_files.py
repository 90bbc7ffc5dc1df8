"""Reading files of weights that nobody vouches for."""

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from backbone_cases import assert_same, reference
from torch import nn

from muybridge.backbones.convert import from_source
from muybridge.backbones.files import read_state_dict, sha256_of, sha256_of_state, unwrap
from muybridge.errors import CheckpointError, MissingFile

STATE = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "bias": torch.arange(3, dtype=torch.float16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "brain": torch.ones(2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


def as_safetensors(path):
    safetensors.torch.save_file(STATE, path)


def as_zip(path):
    torch.save(STATE, path)


def as_legacy(path):
    torch.save(OrderedDict(STATE), path, _use_new_zipfile_serialization=False)


def as_wrapped(path):
    torch.save({"state_dict": STATE, "epoch": 3, "arch": "vit"}, path)


FORMS = [as_safetensors, as_zip, as_legacy, as_wrapped]


@pytest.mark.parametrize("write", FORMS)
def test_every_form_is_read_whatever_its_name(write, tmp_path):
    path = tmp_path / "weights.anything"
    write(path)
    assert_same(read_state_dict(path), STATE, write.__name__)
    assert_same(read_state_dict(str(path)), STATE, write.__name__)


def test_tensors_that_share_or_step_through_a_storage(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"whole": whole, "turned": whole.T, "part": whole[1:3, ::2], "parameter": nn.Parameter(whole)}
    for legacy in (False, True):
        torch.save(
            {"model": state, "args": argparse.Namespace(lr=1)},
            tmp_path / "w",
            _use_new_zipfile_serialization=not legacy,
        )
        assert_same(read_state_dict(tmp_path / "w"), {key: t.detach() for key, t in state.items()}, "views")


@pytest.mark.parametrize("legacy", [False, True])
def test_classes_of_other_libraries_are_replaced(legacy, tmp_path):
    checkpoint = {
        "state_dict": STATE,
        "args": argparse.Namespace(lr=1e-3, opts=["a"]),
        "best": np.float64(0.5),
        "when": datetime.datetime(2024, 1, 1),
        "array": np.arange(3),
        "type": np.dtype("float32"),
        "where": io.BytesIO,
    }
    torch.save(checkpoint, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)  # so it is our own reader that is tested
    assert_same(read_state_dict(tmp_path / "w.pth"), STATE, "with other classes")


class Evil:
    """Runs a command when it is unpickled; freely, that is."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_never_run(legacy, tmp_path):
    marker = tmp_path / "marker"
    evil = Evil(f"touch {marker}")
    path = tmp_path / "w.pth"
    torch.save({"state_dict": STATE, "extra": evil}, path, _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(path), STATE, "beside code")
    torch.save({"weight": evil}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the marker does tell
    assert marker.exists()


def test_code_in_a_bare_pickle_or_a_torchscript_archive_is_never_run(tmp_path):
    marker = tmp_path / "marker"
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Evil(f"touch {marker}"), protocol=2))
    with pytest.raises(CheckpointError, match="torch did not write it; it was not run"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"a": Evil(f"touch {marker}")}, protocol=2))
        archive.writestr("w/constants.pkl", pickle.dumps((), protocol=2))
    with pytest.raises(CheckpointError, match="not of a module"):
        read_state_dict(path)
    assert not marker.exists()


def with_pickle(path, program):
    """A file of torch.save whose pickle is this program."""
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, program if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize(
    "attack",
    [
        b"cbuiltins\neval\n(V__import__('os').system('touch MARK')\ntR",
        b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR(Vtouch MARK\ntR",
        b"\x8c\x02os\x8c\x06system\x93(Vtouch MARK\ntR",  # STACK_GLOBAL
        b"(S'touch MARK'\nios\nsystem\n",  # INST
        b"(cos\nsystem\nVtouch MARK\no",  # OBJ
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\n(Vtouch MARK\nt}tR",
        b"cfunctools\npartial\n(cos\nsystem\nVtouch MARK\ntR)R",
    ],
)
def test_whatever_a_pickle_calls_is_a_stand_in(attack, tmp_path):
    marker = tmp_path / "marker"
    program = b"\x80\x02}U\x01a" + attack.replace(b"MARK", str(marker).encode()) + b"s."  # {"a": <attack>}
    with_pickle(tmp_path / "w", program)
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "w")
    assert not marker.exists()
    with contextlib.suppress(AttributeError):  # what os.system returned is no tensor
        pickle.loads(program)  # freely: it is an attack
    assert marker.exists()


# --- TorchScript, as OpenAI publishes CLIP ------------------------------------------------------------------


def module_of(state_dict):
    """A module whose state dict is this one; `mask` is a plain attribute, as OpenAI's blocks have one."""
    root = nn.Module()
    for key, tensor in state_dict.items():
        *parents, last = key.split(".")
        module = root
        for name in parents:
            if name not in module._modules:
                module.add_module(name, nn.Module())
                module._modules[name].mask = torch.ones(3)
            module = module._modules[name]
        if tensor.is_floating_point():
            module.register_parameter(last, nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
    root.forward = lambda x: x + root.logit_scale
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """OpenAI's names and mixture of half and single precision, traced and saved as torch does it."""
    source = {
        key: tensor.half() if tensor.ndim > 1 and "embedding" not in key else tensor
        for key, tensor in reference("openai_clip").source.items()
    }
    path = tmp_path_factory.mktemp("openai") / "ViT-tiny.pt"
    torch.jit.trace(module_of(source), torch.ones(1)).save(path)
    return path, source


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_gives_its_state_dict(archive):
    path, source = archive
    found = read_state_dict(path)
    assert_same(found, source, "archive")
    assert_same(found, dict(torch.jit.load(path).state_dict()), "as torch reads it")
    assert found["visual.conv1.weight"].dtype == torch.float16
    assert found["visual.ln_pre.weight"].dtype == torch.float32


def test_a_torchscript_archive_is_openais_clip(archive):
    converted = from_source(read_state_dict(archive[0]))
    assert converted.family == "openai"
    assert converted.config.activation == "quick_gelu"
    assert set(converted.rest) == {"logit_scale", "input_resolution", "context_length", "vocab_size"}


class Scripted(nn.Module):
    """With what a scripted module may hold beside parameters."""

    sizes: list[int]
    scales: dict[str, float]

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4).half(), nn.ModuleList([nn.Linear(4, 2)])[0])
        self.tied = self.body[0]
        self.register_buffer("seen", torch.tensor(3))
        self.mask = torch.ones(4)
        self.sizes = [1, 2]
        self.scales = {"a": 1.0}

    def forward(self, x):
        return self.body(x * self.mask) * self.sizes[0] * self.scales["a"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_with_lists_dictionaries_and_tied_parts(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "w.pt")
    assert_same(read_state_dict(tmp_path / "w.pt"), dict(torch.jit.load(tmp_path / "w.pt").state_dict()), "scripted")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_archive_that_lists_no_buffers(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith(".py"):
                content = b"\n".join(line for line in content.split(b"\n") if b"__buffers__" not in line)
            old.writestr(name, content)
    found = read_state_dict(tmp_path / "old.pt")
    assert set(found) == {*torch.jit.load(tmp_path / "new.pt").state_dict(), "mask"}


# --- folders and shards -------------------------------------------------------------------------------------


def shards(folder, weight_map=None):
    first, second = (dict(list(STATE.items())[part]) for part in (slice(0, 3), slice(3, None)))
    safetensors.torch.save_file(first, folder / "model-1.safetensors")
    safetensors.torch.save_file(second, folder / "model-2.safetensors")
    names = dict.fromkeys(first, "model-1.safetensors") | dict.fromkeys(second, "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names | (weight_map or {})}))
    return index


def test_shards_by_index_or_by_folder(tmp_path):
    index = shards(tmp_path)
    assert_same(read_state_dict(index), STATE, "index")
    assert_same(read_state_dict(tmp_path), STATE, "folder")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": "../model-1.safetensors"}, "outside its folder"),
        ({"weight": "/etc/passwd"}, "outside its folder"),
        ({"weight": "model-3.safetensors"}, "a shard that model.safetensors.index.json names is not there"),
        ({"another": "model-1.safetensors"}, r"differ \(first: another\)"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(change, says, tmp_path):
    index = shards(tmp_path, change)
    with pytest.raises((CheckpointError, MissingFile), match=says):
        read_state_dict(index)


def test_folders(tmp_path):
    with pytest.raises(MissingFile, match="no file of weights"):
        read_state_dict(tmp_path)
    as_zip(tmp_path / "pytorch_model.bin")
    assert_same(read_state_dict(tmp_path), STATE, "bin")
    as_safetensors(tmp_path / "a.safetensors")
    assert_same(read_state_dict(tmp_path), STATE, "safetensors before bin")
    as_safetensors(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 files of weights \(a.safetensors, b.safetensors\)"):
        read_state_dict(tmp_path)


# --- damaged and foreign files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"GIF89a....", "it begins with b'GIF89a..'"),
        (b"PK\x03\x04 and no more", "is damaged"),
        (b"\x80\x02}q\x00.", "torch did not write it"),
        (b"\x80\x02 nonsense", "is damaged"),
        ((200).to_bytes(8, "little") + b'{"a": ' + b"x" * 300, "is damaged"),
    ],
)
def test_foreign_files_are_said_to_be_so(content, says, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="torch did not write it"):
        read_state_dict(tmp_path / "w.pt")


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingFile, match="no such file of weights"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(MissingFile):
        sha256_of(tmp_path / "none.pt")


@pytest.mark.parametrize("write", FORMS)
def test_files_cut_short_and_files_with_wrong_bytes(write, tmp_path):
    path = tmp_path / "w"
    write(path)
    whole = path.read_bytes()
    chance = random.Random(0)
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError):
            read_state_dict(path)
    for _ in range(60):
        wrong = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        path.write_bytes(wrong)
        with contextlib.suppress(CheckpointError):  # it may hit a number, or padding: then the file can be read
            read_state_dict(path)


def crafted(path, size, stride, offset=0):
    """A checkpoint whose one tensor claims these numbers of a storage of 4 floats; a foreign class keeps torch away."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"state_dict": {"w": Tensor()}, "a": argparse.Namespace()})
    with_pickle(path, buffer.getvalue())


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2,), (1,), 3), ((2, 2), (3, 1), 0), ((1 << 40,), (0,), 0), ((2,), (-1,), 1), ((2,), (1,), -1)],
)
def test_a_tensor_cannot_reach_beyond_its_storage(size, stride, offset, tmp_path):
    crafted(tmp_path / "w", (2, 2), (2, 1))
    assert read_state_dict(tmp_path / "w")["w"].shape == (2, 2)
    crafted(tmp_path / "w", size, stride, offset)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(tmp_path / "w")


def test_a_legacy_file_cannot_ask_for_more_memory_than_it_holds(tmp_path):
    as_legacy(tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    huge = content.replace(b"K\x0cNtq", b"J\xff\xff\xff\x7fNtq", 1)  # 12 numbers -> 2 billion
    assert huge != content
    (tmp_path / "w").write_bytes(huge)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_state_dict(tmp_path / "w")


# --- what a checkpoint wraps --------------------------------------------------------------------------------


def test_a_checkpoint_with_several_state_dicts_asks_which():
    both = {"teacher": STATE, "student": STATE, "epoch": 1}
    with pytest.raises(CheckpointError, match=r"several state dicts \(teacher, student\)"):
        unwrap(both, "file")
    assert_same(unwrap(both, "file", "student"), STATE, "student")
    with pytest.raises(CheckpointError, match=r"no state dict 'ema'; its entries: teacher, student, epoch"):
        unwrap(both, "file", "ema")


def test_wrappers_within_wrappers():
    assert_same(unwrap({"model": {"module": STATE, "x": 1}}, "file"), STATE, "nested")


@pytest.mark.parametrize("stored", [{}, {"epoch": 1}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {1: torch.ones(1)}])
def test_nothing_to_unwrap(stored):
    with pytest.raises(CheckpointError, match="no state dict"):
        unwrap(stored, "file")


def test_a_tensor_alone_is_no_state_dict(tmp_path):
    torch.save(torch.ones(3), tmp_path / "w")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        read_state_dict(tmp_path / "w")


# --- hashes -------------------------------------------------------------------------------------------------


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_sha256_of_a_state_is_of_its_content():
    # Pinned: saved runs depend on it.
    state = {"b": torch.arange(3, dtype=torch.float16), "a": torch.arange(6.0).reshape(2, 3)}
    assert sha256_of_state(state) == "e6f7ca80908d024f7c8f60d39033bb5ed9fe12842e09f37b7e9856f5a71f8f53"
    assert sha256_of_state(dict(reversed(state.items()))) == sha256_of_state(state)
    assert sha256_of_state({"a": state["a"].T.contiguous().T, "b": state["b"]}) == sha256_of_state(state)
    for other in (
        {"b": state["b"], "c": state["a"]},
        {"b": state["b"], "a": state["a"].reshape(3, 2)},
        {"b": state["b"], "a": state["a"].double()},
        {"b": state["b"], "a": state["a"] + 1},
        {"b": state["b"]},
    ):
        assert sha256_of_state(other) != sha256_of_state(state)
