"""Small methods that can be run at once, for every test that goes over all of them."""

import torch

from muybridge.methods import METHODS, build_method
from muybridge.testing.tiny import random_backbone, tiny_backbones

FRAMES, SIZE, CLASSES = 4, (32, 32), 5
# fp32, outputs of order 1 that pass a few dozen sums of some hundred terms each.
CLOSE = {"atol": 2e-6, "rtol": 1e-5}
BACKBONES = tiny_backbones()
OPTIONS = {
    "dist": {"width": 48, "temporal_width": 12, "pooling_layers": 2},
    "evl": {"layers": 2, "heads": 3},
    "ila": {},
    "probe": {},
    "st_adapter": {"before_mlp": True, "kernel": (3, 3, 1)},
    "zeroi2v": {"shifts": "-1:16,+1:20,-2:5"},
}
WITH_LABELS = [name for name, kind in METHODS.items() if kind.takes_labels]


def make(name, family, label_features=None):
    """The method `name` around the tiny backbone `family`, in evaluation mode, nothing of it zero."""
    torch.manual_seed(0)
    classes = CLASSES if label_features is None else len(label_features)
    backbone, options = random_backbone(BACKBONES[family]), OPTIONS.get(name, {})
    method = build_method(name, backbone, classes, FRAMES, SIZE, options, label_features)
    for parameter in method.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # tables that start at zero would hide what they do
    return method.eval()


def draw_labels(family, classes=CLASSES, seed=2):
    """Features of class names as a text tower would give them: [K, E], of any length."""
    width = BACKBONES[family].projection or BACKBONES[family].width
    return torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))


def draw_video(batch, seed=1):
    """[B, T, 3, H, W]"""
    return torch.randn(batch, FRAMES, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
