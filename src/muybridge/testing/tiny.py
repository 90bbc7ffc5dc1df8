"""Tiny random backbones, one of each family, for tests that run over all of them."""

from __future__ import annotations

from typing import Any

import torch

from muybridge.backbones.vit import ViT, ViTConfig

_SIZE: dict[str, Any] = {
    "width": 48,
    "depth": 2,
    "heads": 3,
    "mlp_hidden": 96,
    "patch": (8, 8),
    "image_size": (32, 32),
}
_CLIP: dict[str, Any] = {"pre_norm": True, "patch_bias": False, "projection": 32, "projection_bias": False}
_SIGLIP: dict[str, Any] = {"class_token": False, "position_prefix": False, "pool": "map", "position_antialias": False}


def tiny_backbones() -> dict[str, ViTConfig]:
    """Name -> config of 48 channels, 3 heads and 2 blocks for 32 px images; they differ as the families differ."""
    return {
        "clip": ViTConfig(**_SIZE, **_CLIP, norm_eps=1e-5, activation="quick_gelu"),
        "dinov2": ViTConfig(**_SIZE, layer_scale=True, position_antialias=False),
        "dinov2_reg4": ViTConfig(**_SIZE, layer_scale=True, registers=4),
        "siglip": ViTConfig(**_SIZE, **_SIGLIP, activation="gelu_tanh"),
        "in21k": ViTConfig(**_SIZE),
    }


def random_backbone(config: ViTConfig, seed: int = 0) -> ViT:
    """A model in eval mode in which every parameter is random, norms and biases too, so that none is lost unnoticed.

    The same for the same seed; torch's own generator is left alone.
    """
    with torch.device("meta"):
        vit = ViT(config)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in vit.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:  # norms and scales lie around 1, biases around 0
            tensors[name] = float(name.endswith(("weight", "gamma"))) + 0.1 * noise
        else:
            tensors[name] = noise * parameter[0].numel() ** -0.5
    vit.load_state_dict(tensors, assign=True)
    return vit.eval()
