"""What is not imported until it is needed, and what is not computed twice: the program starts at once."""

import subprocess
import sys

import pytest
import torch

from muybridge.backbones.vit import ViT
from muybridge.engine.checkpoint import load_model, model_spec, save_model
from muybridge.methods import build_method
from muybridge.structures import Sampling, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

# Each takes a tenth of a second or more, or is a library that not every use needs.
HEAVY = (
    *("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy", "onnx", "PIL.Image", "av"),
    *("accelerate", "transformers", "huggingface_hub", "ray", "pandas", "torchvision", "tensorboard"),
)
NAMES = "import muybridge; [getattr(muybridge, name) for name in muybridge.__all__]"
PROGRAM = "from muybridge.cli import run; run({words})"


def loaded_by(code):
    """The modules that a new process has after `code`."""
    ends = "\nimport sys; print('|'.join(['', *sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ends], capture_output=True, text=True, check=True)
    return set(done.stderr.strip().split("|"))


@pytest.fixture(scope="module")
def torchs_own():
    return loaded_by("import torch")


@pytest.mark.parametrize("code", [NAMES, PROGRAM.format(words=["list"])], ids=["names", "list"])
def test_heavy_modules_wait_until_they_are_needed(code, torchs_own):
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not (loaded - torchs_own) & set(HEAVY)


@pytest.mark.parametrize(
    "code", ["import muybridge", PROGRAM.format(words=["--help"]), PROGRAM.format(words=["benchmark", "--help"])]
)
def test_without_torch(code):
    loaded = loaded_by(code)
    assert "muybridge" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "av", "yaml"}


def test_weights_are_not_drawn_before_they_are_loaded(tmp_path, monkeypatch):
    vit = random_backbone(tiny_backbones()["clip"])
    method = build_method("probe", vit, 3, 2, (32, 32), {})
    spec = model_spec("probe", method, "custom", ("a", "b", "c"), Sampling(2), Transform((32, 32)))
    file = tmp_path / "model.safetensors"
    save_model(file, method, spec)
    devices = []
    make = ViT.__init__

    def watched(self, config):
        make(self, config)
        devices.append(next(self.parameters()).device.type)

    monkeypatch.setattr(ViT, "__init__", watched)
    loaded = load_model(file).method
    assert devices == ["meta"]
    for name, tensor in method.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    # The weights are pages of the file: they may be written to, and the file stays as it is.
    before = file.read_bytes()
    with torch.no_grad():
        for parameter in loaded.backbone.parameters():
            parameter.add_(1)
    assert file.read_bytes() == before
