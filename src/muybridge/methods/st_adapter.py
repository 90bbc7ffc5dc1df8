"""ST-Adapter: "Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022, https://arxiv.org/abs/2206.13559.

Written from the paper, not compared with the authors' code.

Idea. A frozen image transformer reads every frame by itself. Before each block a small bottleneck mixes what a place
shows in neighbouring frames: the channels are brought down, a depthwise 3-D convolution over (time, rows, columns) runs
over the patches, the channels are brought up again and added. With kernel 3 x 1 x 1 a place sees itself one frame
before and after; twelve blocks later the whole clip. The channels are few and the convolution is depthwise, so it is
cheap.

One adapter, with x [T, P, D] the patch tokens of all frames:

    x = x + W_up f( conv( W_down x ) )            W_down: D -> C, conv: depthwise over T x rows x columns, f: GELU

Prefix tokens (class, registers) pass by; they learn of other frames through attention to the patches. The logits are a
linear map of the mean over the frames of the normed class tokens (of the backbone's own summary where it pools
otherwise).

Trains: the adapters, a copy of the last norm, the head. Frozen: the backbone; gradients pass through it. The upward
maps start at zero, so training starts from the image model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.backbones.vit import Block, ViT
from muybridge.errors import BadInput
from muybridge.methods.base import Method, check_dropout, fold_frames, unfold_frames
from muybridge.structures import Output


@dataclass(frozen=True)
class STAdapterConfig:
    """Options of ST-Adapter.

    Attributes:
        width: C, channels of the bottleneck; 0: half of the backbone's width (384 for ViT-B).
        kernel: of the convolution over (frames, rows, columns), odd numbers.
        before_mlp: a second adapter in every block, before the MLP.
        dropout: before the classifier, in training.
    """

    width: int = 0
    kernel: tuple[int, int, int] = (3, 1, 1)
    before_mlp: bool = False
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 0:
            raise BadInput(f"st_adapter.width is {self.width}; expected channels, or 0 for half of the backbone's.")
        if len(self.kernel) != 3 or any(size < 1 or size % 2 == 0 for size in self.kernel):
            raise BadInput(f"st_adapter.kernel is {self.kernel}; expected three odd numbers, such as 3,1,1.")
        check_dropout(self.dropout, "st_adapter")


class SpatioTemporalAdapter(nn.Module):
    """x + W_up f(conv(W_down x)) on the patch tokens.

    Args:
        width: D.
        inner: C.
        kernel: over (frames, rows, columns).
        grid: (rows, columns) of patches.
        frames: T.
    """

    def __init__(
        self, width: int, inner: int, kernel: tuple[int, int, int], grid: tuple[int, int], frames: int
    ) -> None:
        super().__init__()
        self.volume = (frames, *grid)
        self.down = nn.Linear(width, inner)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inner, inner, kernel, padding=padding, groups=inner)
        self.up = nn.Linear(inner, width)
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B * T, prefix + P, D] -> the same."""
        frames, rows, columns = self.volume
        prefix = x.shape[1] - rows * columns
        inner = self.down(x[:, prefix:])  # [B * T, P, C]
        inner = inner.reshape(-1, frames, rows, columns, inner.shape[-1]).permute(0, 4, 1, 2, 3)
        inner = self.conv(inner).permute(0, 2, 3, 4, 1).reshape(x.shape[0], rows * columns, -1)
        added = self.up(F.gelu(inner))
        return torch.cat([x[:, :prefix], x[:, prefix:] + added], dim=1) if prefix else x + added


class BlockAdapters(nn.Module):
    """The adapters of one block; `before_mlp` passes its input on if the config leaves it out."""

    def __init__(self, config: STAdapterConfig, width: int, grid: tuple[int, int], frames: int) -> None:
        super().__init__()
        inner = config.width or width // 2
        self.before_attention = SpatioTemporalAdapter(width, inner, config.kernel, grid, frames)
        self.before_mlp: nn.Module = nn.Identity()
        if config.before_mlp:
            self.before_mlp = SpatioTemporalAdapter(width, inner, config.kernel, grid, frames)


class STAdapter(Method):
    """Depthwise convolutions over space and time in bottlenecks between frozen blocks."""

    Config = STAdapterConfig
    title = (
        "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning (NeurIPS 2022), "
        "https://arxiv.org/abs/2206.13559; written from the paper, not compared with the authors' code"
    )

    def __init__(
        self, backbone: ViT, config: STAdapterConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__(backbone, config, classes, frames, image_size)
        width, grid = backbone.config.width, backbone.config.grid_of(image_size)
        self.adapters = nn.ModuleList(BlockAdapters(config, width, grid, frames) for _ in backbone.blocks)
        self.norm = copy.deepcopy(backbone.norm).requires_grad_(True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]."""
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video))
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
        x = adapters.before_attention(x)
        x = x + block.ls1(block.attn(block.norm1(x)))
        x = adapters.before_mlp(x)
        return x + block.ls2(block.mlp(block.norm2(x)))
