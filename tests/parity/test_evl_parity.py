"""EVL against the published code: logits, intermediate tensors, gradients, and the way back to its format."""

from pathlib import Path

import pytest
import torch

from muybridge.methods import build_method
from muybridge.plain.evl import PlainEVL
from muybridge.testing import cases
from muybridge.testing.parity import run_case
from muybridge.testing.tiny import random_backbone, tiny_backbones

CASES = sorted((Path(__file__).parent / "evl").glob("*.json"))
SMALL = [path for path in CASES if path.stem.startswith("tiny")]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_everything_that_a_case_stores(path):
    lines = list(run_case(path))
    case = cases.load(path)
    assert len(lines) == 1 + len(case.outputs) + len(case.grads)
    assert not [str(line) for line in lines if not line.passed]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_the_plain_twin_too(path):
    assert not [str(line) for line in run_case(path, plain=True) if not line.passed]


@pytest.mark.parametrize("family", tiny_backbones())
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (40, 32)])
def test_fast_and_plain_agree_in_values_and_gradients(family, frames, size):
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()[family]).double()
    fast = (
        build_method("evl", backbone, 5, frames, size, {"layers": 2, "heads": 4, "alignment": size == (40, 32)})
        .double()
        .eval()
    )
    for parameter in fast.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    plain = PlainEVL(backbone, fast.config, 5, frames, size).double().eval()
    plain.load_own(fast.own_state())
    video = torch.randn(2, frames, 3, *size, dtype=torch.float64)
    found, wanted = fast.trace(video), plain.trace(video)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        # Frozen features are kept in fp32 by both.
        torch.testing.assert_close(
            found[name], tensor, atol=2e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    logits = fast(video).logits  # neighbours are summed in one pass, where nothing is recorded
    torch.testing.assert_close(logits, wanted["logits"], atol=2e-5, rtol=1e-5)
    logits.logsumexp(-1).sum().backward()
    wanted["logits"].logsumexp(-1).sum().backward()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(
                ours.grad, theirs.grad, atol=1e-10, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_all_cases_are_here():
    assert len(CASES) == 5
