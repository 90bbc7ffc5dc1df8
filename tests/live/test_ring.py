"""A window that moves on gives what the method gives of the same frames, and encodes no frame twice."""

import sys
from pathlib import Path

import pytest
import torch

from muybridge.errors import BadInput
from muybridge.live.ring import Ring, encodes_once
from muybridge.methods import METHODS, build_method
from muybridge.testing.tiny import random_backbone, tiny_backbones

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from method_cases import CLASSES, FRAMES, SIZE, draw_labels, make

LENGTH = 10
ONCE = ("dist", "evl", "probe")


def film(batch=2, seed=4):
    """[B, N, 3, H, W]"""
    return torch.randn(batch, LENGTH, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def logits_by_the_way(method, frames, ring=None):
    """Place of the window's end -> its logits."""
    ring = ring or Ring(method)
    found = {}
    for t in range(frames.shape[1]):
        ring.push(frames[:, t])
        if ring.full:
            found[t] = ring.logits()
    return found


def assert_windows_agree(method):
    frames = film()
    found = logits_by_the_way(method, frames)
    assert list(found) == list(range(method.frames - 1, LENGTH))
    with torch.inference_mode():
        for t, logits in found.items():
            whole = method(frames[:, t + 1 - method.frames : t + 1]).logits
            torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)
    first, *_, last = found.values()
    assert not torch.allclose(first, last, atol=1e-3)


@pytest.mark.parametrize("family", ["clip", "dinov2_reg4", "siglip"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_windows_are_those_of_the_method(name, family):
    assert_windows_agree(make(name, family).merged())


def test_these_methods_encode_frames_once():
    assert tuple(sorted(name for name, kind in METHODS.items() if encodes_once(make(name, "clip")))) == ONCE


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_frame_goes_through_the_backbone_once_or_with_every_window(name, monkeypatch):
    method, read = make(name, "clip"), []
    embed = method.backbone.embed
    monkeypatch.setattr(
        method.backbone, "embed", lambda images, *more: read.append(len(images)) or embed(images, *more)
    )
    windows = len(logits_by_the_way(method, film(batch=1)))
    if name == "dist":  # the newest frames have not been sparse yet
        assert sum(read) == LENGTH - method.config.ratio + 1
    else:
        assert sum(read) == (LENGTH if name in ONCE else windows * FRAMES)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evl", {"temporal_match": False}),
        ("evl", {"temporal_conv": False, "temporal_position": False}),
        ("evl", {"alignment": True}),
        ("dist", {"ratio": 1}),
        ("dist", {"ratio": 4, "layers": (1,)}),
        ("probe", {"pool": "concat"}),
    ],
)
def test_other_options(name, options):
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    sizes = {"evl": {"layers": 2, "heads": 3}, "dist": {"width": 48, "temporal_width": 12, "head": "linear"}}
    method = build_method(name, backbone, CLASSES, FRAMES, SIZE, {**sizes.get(name, {}), **options})
    for parameter in method.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    assert_windows_agree(method.eval())


def test_image_features_of_dist():
    backbone = random_backbone(tiny_backbones()["clip"])
    options = {"width": 48, "temporal_width": 12, "zero_shot": True}
    assert_windows_agree(build_method("dist", backbone, CLASSES, FRAMES, SIZE, options, draw_labels("clip")).eval())


def test_one_frame_is_a_window():
    backbone = random_backbone(tiny_backbones()["clip"])
    method = build_method("evl", backbone, CLASSES, 1, SIZE, {"layers": 2, "heads": 3}).eval()
    frames = film(batch=1)
    for t, logits in logits_by_the_way(method, frames).items():
        torch.testing.assert_close(logits, method(frames[:, t : t + 1]).logits, rtol=0, atol=1e-5)


def test_after_clearing_the_window_begins_anew():
    method, frames = make("evl", "clip"), film()
    ring = Ring(method)
    logits_by_the_way(method, frames[:, :5], ring)
    ring.clear()
    assert len(ring) == 0
    with pytest.raises(BadInput, match="0 of its 4 frames"):
        ring.logits()
    again = logits_by_the_way(method, frames[:, 5:], ring)
    torch.testing.assert_close(again[3], method(frames[:, 5:9]).logits, rtol=0, atol=1e-5)


def test_what_is_kept_does_not_grow():
    ring = Ring(make("evl", "clip"))
    frames, sizes = film(batch=1), []
    for t in range(LENGTH):
        ring.push(frames[:, t])
        sizes.append(sum(tensor.numel() for kept in ring._frames for tensor in kept.values()))
    assert sizes[4] == sizes[-1]
    # Queries and keys are needed until the next frame has come.
    assert [("keys" in kept) for kept in ring._frames] == [False, False, False, True]
