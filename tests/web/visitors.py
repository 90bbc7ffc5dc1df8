"""What the tests of the page share: a model with class names as texts, and a small film."""

import numpy as np
import torch

from clips import moving_square, write_video
from muybridge.backbones.text import TextConfig, TextTower
from muybridge.engine.checkpoint import model_spec
from muybridge.methods import build_method
from muybridge.recogniser import Recogniser
from muybridge.structures import Sampling, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

CLASSES = ("closing", "falling", "rising")
SIZE = (32, 32)


def with_texts():
    """A tiny ILA whose head compares videos with class names, and its text tower."""
    torch.manual_seed(0)
    backbone = random_backbone(tiny_backbones()["clip"])
    text = TextTower(TextConfig(width=64, depth=1, heads=1, mlp_hidden=128, projection=32)).eval()
    method = build_method("ila", backbone, len(CLASSES), 4, SIZE, {"head": "text"}, torch.randn(3, 32))
    transform = Transform(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    spec = model_spec("ila", method, "custom", CLASSES, Sampling(frames=4), transform)
    recogniser = Recogniser(method, spec, "cpu", text)
    recogniser.relabel(CLASSES)
    return recogniser


def film(path, count=1, side=48):
    """`count` seconds of a moving square, 12 frames each."""
    write_video(path, np.concatenate([moving_square(CLASSES[i % 3], i, side=side) for i in range(count)]))
    return path
