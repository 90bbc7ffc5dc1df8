"""ZeroI2V without its fast paths: clones of all keys and values, explicit softmax, all tokens in all blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from muybridge.backbones.vit import Block
from muybridge.methods.base import fold_frames, unfold_frames
from muybridge.methods.zeroi2v import BlockAdapters, LinearAdapter, Shifts, ZeroI2V
from muybridge.plain.common import attention
from muybridge.structures import Output


class PlainZeroI2V(ZeroI2V):
    """The equation of `methods/zeroi2v.py`, term by term."""

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]."""
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video), self.temporal_embedding[0].repeat(video.shape[0], 1)[:, None])
        self.record("embedded", x)
        for i, (block, adapters) in enumerate(zip(self.backbone.blocks, self.adapters, strict=True)):
            assert isinstance(block, Block)
            assert isinstance(adapters, BlockAdapters)
            x = self._plain_block(f"block.{i}", block, adapters, x)
            self.record(f"block.{i}", x)
        features = unfold_frames(self.backbone.summary(x, self.norm), self.frames)
        self.record("frame_features", features)
        return Output(self.head(self.dropout(features.mean(dim=1))))

    def _plain_block(self, name: str, block: Block, adapters: BlockAdapters, x: Tensor) -> Tensor:
        def edit(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            self.record(f"{name}.k", k)
            k, v = shifted(k, self.shifts, self.frames), shifted(v, self.shifts, self.frames)
            self.record(f"{name}.k_shifted", k)
            self.record(f"{name}.v_shifted", v)
            return q, k, v

        attended = attention(block.attn, adapt(adapters.before_attention, block.norm1(x)), edit)
        self.record(f"{name}.attention", attended)
        x = x + block.ls1(adapt(adapters.after_attention, attended))
        return x + block.ls2(adapt(adapters.after_mlp, block.mlp(adapt(adapters.before_mlp, block.norm2(x)))))


def adapt(adapter: nn.Module, z: Tensor) -> Tensor:
    """z + scale * W2 (W1 z); z itself where there is no adapter."""
    if not isinstance(adapter, LinearAdapter):
        return z
    return z + adapter.scale * adapter.fc2(adapter.dropout(adapter.fc1(z)))


def shifted(x: Tensor, shifts: Shifts, frames: int) -> Tensor:
    """Frame by frame and slice by slice: x [B * T, h, L, d] -> the same."""
    n, heads, length, d = x.shape
    before = x.transpose(1, 2).reshape(-1, frames, length, heads * d)
    after = []
    for t in range(frames):
        frame, start = before[:, t].clone(), 0
        for offset, width in shifts:
            source = t + offset if 0 <= t + offset < frames else t
            frame[..., start : start + width] = before[:, source, :, start : start + width]
            start += width
        after.append(frame)
    return torch.stack(after, dim=1).reshape(n, length, heads, d).transpose(1, 2)
