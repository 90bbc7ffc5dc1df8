"""A model and a folder of videos that the tests of collections share."""

import torch

from muybridge.backbones.weights import backbone_sha256
from muybridge.methods import build_method
from muybridge.recipes.fields import to_dict
from muybridge.recogniser import Recogniser
from muybridge.structures import ModelSpec, Sampling, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

CLASSES = ("closing", "falling", "rising")
SIZE = (32, 32)


def recogniser(method="probe", views=1, seed=0):
    """A tiny model with random weights that tells the three classes."""
    torch.manual_seed(seed)
    backbone = random_backbone(tiny_backbones()["clip"])
    options = {"layers": 2, "heads": 2} if method == "evl" else {}
    built = build_method(method, backbone, len(CLASSES), 4, SIZE, options)
    transform = Transform(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    config = to_dict(backbone.config)
    spec = ModelSpec(
        method,
        options,
        "custom",
        config,
        backbone_sha256(backbone),
        CLASSES,
        Sampling(frames=4, views=views),
        transform,
    )
    return Recogniser(built, spec)
