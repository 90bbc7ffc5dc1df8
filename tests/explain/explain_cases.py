"""What the tests of explanations share: small methods, and one whose answer is known by construction."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from muybridge.backbones.vit import ViT, ViTConfig
from muybridge.methods.base import Method, fold_frames, unfold_frames
from muybridge.structures import Output

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from method_cases import BACKBONES, FRAMES, SIZE, draw_video, make

__all__ = ["BACKBONES", "FRAMES", "SIZE", "Brightness", "draw_video", "make", "plain_backbone", "randomly"]


def randomly(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_backbone():
    """Patches stay what they are: channel 0 of a token is its patch's mean value, and blocks add nothing."""
    config = ViTConfig(width=12, depth=2, heads=1, mlp_hidden=12, patch=(8, 8), image_size=SIZE)
    backbone = ViT(config)
    for parameter in backbone.parameters():
        torch.nn.init.zeros_(parameter)
    backbone.patch_embed.proj.weight.data[0] = 1 / (3 * 64)
    return backbone


@dataclass(frozen=True)
class NoOptions:
    pass


class Brightness(Method):
    """Class 1 is likelier the brighter the patches are to which it gives weight: [T, P]."""

    Config = NoOptions

    def __init__(self, weight: Tensor, backbone: ViT | None = None) -> None:
        super().__init__(backbone or plain_backbone(), NoOptions(), 2, len(weight), SIZE)
        self.register_buffer("weight", weight)

    def forward(self, video):
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video))
        for block in self.backbone.blocks:
            x = block(x)
        patches = unfold_frames(x[:, self.backbone.config.prefix :, 0], self.frames)  # [B, T, P]
        bright = (patches * self.weight).sum(dim=(1, 2))
        return Output(torch.stack([torch.zeros_like(bright), bright], dim=1))
