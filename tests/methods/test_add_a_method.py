"""docs/add-a-method.md: the method it shows runs, and what it quotes stands in the code."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from muybridge.engine.checkpoint import load_model, model_spec, save_model
from muybridge.engine.loss import total_loss
from muybridge.methods import METHODS, build_method
from muybridge.structures import Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-method.md").read_text(encoding="utf-8")
METHOD_FILES = Path(__file__).parents[2] / "src" / "muybridge" / "methods"
BLOCKS = re.findall(r"(<!-- test: method -->\n)?```python\n(.*?)```", PAGE, re.DOTALL)
(WHOLE,) = (code for marked, code in BLOCKS if marked)
QUOTES = [code for marked, code in BLOCKS if not marked]


@pytest.fixture
def frame_mix(monkeypatch):
    """The page's method, in the table while the test runs."""
    module = types.ModuleType("muybridge.methods.frame_mix")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(WHOLE, "docs/add-a-method.md", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "frame_mix", module.FrameMix)
    return module.FrameMix


def make(family):
    torch.manual_seed(0)
    method = build_method("frame_mix", random_backbone(tiny_backbones()[family]), 5, 4, (32, 32), {"dropout": 0.2})
    torch.nn.init.normal_(method.share, std=0.5)
    return method.eval()


@pytest.mark.parametrize("family", list(tiny_backbones()))
def test_it_reads_video_and_learns(frame_mix, family):
    method, video = make(family), torch.randn(3, 4, 3, 32, 32)
    assert method(video).logits.shape == (3, 5)
    assert not torch.allclose(method(video).logits, method(video.flip(1)).logits, atol=1e-4)
    method.train()
    optimizer = torch.optim.AdamW(method.parameter_groups(TrainArgs(lr=1e-2)))
    losses = []
    for _ in range(10):
        loss = total_loss(method(video), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("backbone.")), name


def test_it_is_saved_and_loaded(frame_mix, tmp_path):
    method, video = make("clip"), torch.randn(2, 4, 3, 32, 32)
    spec = model_spec("frame_mix", method, "custom", tuple("abcde"), Sampling(frames=4), Transform(size=(32, 32)))
    save_model(tmp_path / "model.safetensors", method, spec)
    loaded = load_model(tmp_path)
    assert type(loaded.method) is frame_mix
    assert loaded.method.config == method.config
    assert torch.equal(loaded.method(video).logits, method(video).logits)


@pytest.mark.parametrize("quote", QUOTES, ids=lambda code: code.strip().splitlines()[0])
def test_quotes_stand_in_the_code(quote):
    files = (METHOD_FILES / name for name in ("st_adapter.py", "__init__.py"))
    assert any(quote in file.read_text(encoding="utf-8") for file in files)


def test_the_page_quotes():
    assert len(QUOTES) == 5
