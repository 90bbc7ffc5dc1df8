"""AIM: "Adapting Image Models for Efficient Video Action Recognition", ICLR 2023, https://arxiv.org/abs/2302.03024.

Written from the paper, not compared with the authors' code.

Idea. Self-attention learned on images says how parts belong together; the same frozen weights can be asked how moments
belong together. Every block therefore runs its attention twice: first over time, among the tokens that stand at the
same place in all frames, then over space within each frame, as before. Small bottleneck adapters after the temporal
attention, after the spatial attention and beside the MLP are all that is trained in a block.

One block, with x [T, L, D] the tokens of all frames, A(z) = W_up gelu(W_down z) an adapter with D / 4 channels inside:

    x = x + A_time( attention(norm1(x)) over T )                      no skip: starts at nothing
    h = attention(norm1(x)) over L;   x = x + h + A_space(h)
    n = norm2(x);                     x = x + mlp(n) + scale * A_joint(n)

A vector per frame is added to all its tokens at the start. The logits are a linear map of the mean over the frames of
the normed class tokens (of the backbone's own summary where it pools otherwise).

Trains: the adapters, the vectors per frame, a copy of the last norm, the head. Frozen: the backbone; gradients pass
through it. The upward maps start at zero, so training starts from the image model.

Beyond the paper: a backbone with layer scale has it after the adapters, as the last step of a branch. Stochastic depth
is left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import Block, ViT
from muybridge.errors import BadInput
from muybridge.methods.base import Method, check_dropout, fold_frames, stretch, unfold_frames
from muybridge.structures import Output


@dataclass(frozen=True)
class AIMConfig:
    """Options of AIM.

    Attributes:
        width: channels inside an adapter; 0: a quarter of the backbone's width.
        scale: factor of the adapter beside the MLP.
        dropout: before the classifier, in training.
    """

    width: int = 0
    scale: float = 0.5
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 0:
            raise BadInput(f"aim.width is {self.width}; expected channels, or 0 for a quarter of the backbone's.")
        check_dropout(self.dropout, "aim")


class Adapter(nn.Module):
    """W_up gelu(W_down z), no skip: [.., D] -> [.., D]. Starts at zero."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, z: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(z)))


class BlockAdapters(nn.Module):
    """The three adapters of one block."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.time = Adapter(width, inner)
        self.space = Adapter(width, inner)
        self.joint = Adapter(width, inner)


class AIM(Method):
    """The frozen attention over time and then over space, adapters after both and beside the MLP."""

    Config = AIMConfig
    title = (
        "AIM: Adapting Image Models for Efficient Video Action Recognition (ICLR 2023), "
        "https://arxiv.org/abs/2302.03024; written from the paper, not compared with the authors' code"
    )

    def __init__(
        self, backbone: ViT, config: AIMConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__(backbone, config, classes, frames, image_size)
        width = backbone.config.width
        inner = config.width or width // 4
        self.temporal_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.adapters = nn.ModuleList(BlockAdapters(width, inner) for _ in backbone.blocks)
        self.norm = copy.deepcopy(backbone.norm).requires_grad_(True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]."""
        self.check_video(video)
        vectors = self.temporal_embedding.expand(video.shape[0], -1, -1).reshape(
            -1, 1, self.temporal_embedding.shape[2]
        )
        x = self.backbone.embed(fold_frames(video), vectors)
        self.record("embedded", x)
        for i, (block, adapters) in enumerate(zip(self.backbone.blocks, self.adapters, strict=True)):
            assert isinstance(block, Block)
            assert isinstance(adapters, BlockAdapters)
            x = self.through(self._block, block, adapters, x)
            self.record(f"block.{i}", x)
        features = unfold_frames(self.backbone.summary(x, self.norm), self.frames)  # [B, T, D]
        self.record("frame_features", features)
        return Output(self.head(self.dropout(features.mean(dim=1))))

    def _block(self, block: Block, adapters: BlockAdapters, x: Tensor) -> Tensor:
        """x: [B * T, L, D] -> the same."""
        attended = over_time(block.attn, block.norm1(x), self.frames)
        x = x + block.ls1(adapters.time(attended))
        attended = block.attn(block.norm1(x))
        x = x + block.ls1(attended + adapters.space(attended))
        normed = block.norm2(x)
        return x + block.ls2(block.mlp(normed) + self.config.scale * adapters.joint(normed))

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """The vectors per frame linearly over time."""
        if name == "temporal_embedding":
            return stretch(tensor, 1, other.frames)
        return super().interpolate(name, tensor, other)


def over_time(attention: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Attention among the tokens of the same place: x [B * T, L, D] -> the same."""
    n, length, width = x.shape
    places = x.reshape(-1, frames, length, width).transpose(1, 2).reshape(-1, frames, width)  # [B * L, T, D]
    attended: Tensor = attention(places)
    return attended.reshape(-1, length, frames, width).transpose(1, 2).reshape(n, length, width)
