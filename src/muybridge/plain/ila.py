"""ILA without its fast paths: nine masks, features of pairs multiplied and averaged, every linear map by itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.backbones.vit import Block
from muybridge.methods.alignment import FRAME_CHANNELS, PLATEAU, SLOPE, AlignedLayer, Alignment, ConvNorm, merge
from muybridge.methods.base import fold_frames, unfold_frames
from muybridge.methods.heads import TextHead
from muybridge.methods.ila import ILA, CrossAttention, PromptLayer, Prompts
from muybridge.plain.common import block as plain_block
from muybridge.structures import Output

OFFSETS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


class PlainILA(ILA):
    """The equations of `methods/ila.py` and `methods/alignment.py`, term by term."""

    def forward(self, video: Tensor) -> Output:
        """video [B, T, 3, H, W] -> logits [B, K] and, in training, the alignment loss."""
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video))
        self.record("embedded", x)
        losses = []
        first = self.backbone.config.depth - len(self.layers)
        for i, block in enumerate(self.backbone.blocks):
            assert isinstance(block, Block)
            if i < first:
                x = plain_block(block, x)
                continue
            layer = self.layers[i - first]
            assert isinstance(layer, AlignedLayer)
            x = unfold_frames(x, self.frames)
            steps = align(layer.alignment, layer.message_norm(layer.message(x)))
            x = x + layer.skip_aligned(steps["aligned"])
            x = x + layer.skip(steps["inter"])
            x = plain_block(block, fold_frames(x))
            for name, tensor in steps.items():
                self.record(f"layers.{i}.{name}", tensor)
            self.record(f"block.{i}", x)
            losses.append(steps["loss"])
        frames = unfold_frames(self.backbone.project(self.backbone.summary(x)), self.frames)  # [B, T, E]
        self.record("frame_features", frames)
        v = frames + self.integration.temporal_embedding
        for block in self.integration.blocks:
            assert isinstance(block, Block)
            v = plain_block(block, v)
        feature = (v + frames).mean(dim=1)
        self.record("video_feature", feature)
        if self.prompts is None:
            logits = self.head(feature / feature.norm(dim=-1, keepdim=True))
        else:
            assert isinstance(self.head, TextHead)
            patches = unfold_frames(x, self.frames)[:, :, self.backbone.config.prefix :]
            prompted = prompt(self.prompts, self.head.features, patches)
            self.record("prompted", prompted)
            feature = feature / feature.norm(dim=-1, keepdim=True)
            prompted = prompted / prompted.norm(dim=-1, keepdim=True)
            logits = self.head.logit_scale.exp() * torch.einsum("be,bke->bk", feature, prompted)
        if not self.training:
            return Output(logits)
        return Output(logits, {"alignment": self.config.auxiliary_weight * torch.stack(losses).sum()})


def align(module: Alignment, f: Tensor) -> dict[str, Tensor]:
    """Every step of the alignment by the name under which it is recorded; f [B, T, L, D]."""
    prefix, grid = module.prefix, module.grid
    b, t, _, width = f.shape
    maps = f[:, :, prefix:].transpose(2, 3).unflatten(3, grid)  # [B, T, D, rows, columns]
    if t == 1:
        none = f.new_zeros(b, 0, *grid)
        points, earlier, later = f.new_zeros(b, 0, 4), none, none
        aligned, seen = maps, f.new_zeros(b, 1, FRAME_CHANNELS, *grid)
        pooled_earlier = pooled_later = f.new_zeros(b, 0, width)
        loss = f.new_zeros(())
    else:
        z = torch.cat([maps[:, :-1], maps[:, 1:]], dim=2).flatten(0, 1)
        for part in module.interaction:
            assert isinstance(part, ConvNorm)
            z = F.relu(part.norm(part.conv(z)))
        points = module.prediction(z).unflatten(0, (b, t - 1))
        earlier, later = masks(module, points[..., :2]), masks(module, points[..., 2:])  # [B, T - 1, rows, columns]
        masked_earlier, masked_later = maps[:, :-1] * earlier[:, :, None], maps[:, 1:] * later[:, :, None]
        aligned = merge(masked_earlier, masked_later)
        seen = merge(*z.unflatten(0, (b, t - 1)).split(FRAME_CHANNELS, dim=2))  # [B, T, C, rows, columns]
        pooled_earlier, pooled_later = masked_earlier.sum(dim=(3, 4)), masked_later.sum(dim=(3, 4))
        pooled = [F.normalize(side.flatten(0, 1), dim=-1) for side in (pooled_earlier, pooled_later)]
        loss = F.cosine_embedding_loss(pooled[0], pooled[1], f.new_ones(b * (t - 1)))
    temporal = module.temporal_conv(seen.transpose(1, 2)).transpose(1, 2)  # [B, T, C, rows, columns]
    temporal = module.fc(temporal.flatten(3).transpose(2, 3))
    return {
        "points": points,
        "mask_earlier": earlier,
        "mask_later": later,
        "aligned": torch.cat([f[:, :, :prefix], aligned.flatten(3).transpose(2, 3)], dim=2),
        "inter": torch.cat([f[:, :, :prefix], temporal], dim=2),
        "pooled_earlier": pooled_earlier,
        "pooled_later": pooled_later,
        "loss": loss,
    }


def masks(module: Alignment, points: Tensor) -> Tensor:
    """Points [B, T - 1, 2] -> [B, T - 1, rows, columns]: in training the mean of nine masks."""
    if not module.training:
        return mask(module, points)
    offsets = module.disturbance * points.new_tensor(OFFSETS)  # [9, 2]
    return torch.stack([mask(module, points + offset) for offset in offsets]).mean(dim=0)


def mask(module: Alignment, points: Tensor) -> Tensor:
    """The soft square around each point: [B, T - 1, 2] -> [B, T - 1, rows, columns]."""
    across = (module.columns - points[..., 0, None]).abs()[..., None, :]
    down = (module.rows - points[..., 1, None]).abs()[..., :, None]
    return ramp(down) * ramp(across)


def ramp(distance: Tensor) -> Tensor:
    """1 up to `PLATEAU`, then falling by `SLOPE` to 0."""
    falling = (1 - SLOPE * (distance - PLATEAU)).clamp(min=0)
    return torch.where(distance <= PLATEAU, torch.ones_like(distance), falling)


def prompt(prompts: Prompts, text: Tensor, patches: Tensor) -> Tensor:
    """text [K, E], patches [B, T, P, D] -> the class names' features beside each video, [B, K, E]."""
    visual = (prompts.visual_norm(patches) @ prompts.visual_proj).mean(dim=1)
    visual = prompts.norm(visual)
    text = text.expand(patches.shape[0], -1, -1)
    adapted = text
    for layer in prompts.layers:
        assert isinstance(layer, PromptLayer)
        adapted = adapted + cross_attention(layer.attention, layer.norm_query(adapted), visual)
        adapted = adapted + layer.mlp(layer.norm_mlp(adapted))
    return text + prompts.alpha * adapted


def cross_attention(attention: CrossAttention, text: Tensor, visual: Tensor) -> Tensor:
    """text [B, K, E], visual [B, P, E] -> [B, K, E]."""
    q, k, v = (attention.split(x) for x in (attention.q(text), attention.k(visual), attention.v(visual)))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)  # [B, h, K, P]
    return attention.proj((weights @ v).transpose(1, 2).flatten(2))
