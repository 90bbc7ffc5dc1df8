"""The baseline and the smallest example of a method: mean of frozen image features, linear head.

Idea: look at every frame by itself with a frozen image transformer, average what it says, and train one linear map.
It knows nothing of the order of the frames, so what it reaches on a data set is what that data set gives away without
motion.

    logits = W norm(mean_t f(frame_t)) + b          f: the backbone's summary of an image (class token or pooled)

With `pool="concat"` the T vectors stand side by side instead: the simplest classifier that does know the order, a
control for how much order a linear map can use.

Trains: the head (norm and linear). Frozen: the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.errors import unknown
from muybridge.methods.base import (
    Features,
    Method,
    check_dropout,
    fold_frames,
    graph_where_trained,
    unfold_frames,
)
from muybridge.methods.heads import LinearHead
from muybridge.structures import Output


@dataclass(frozen=True)
class ProbeConfig:
    """Options of the probe.

    Attributes:
        pool: `mean` over the frames, or `concat`: all frames' vectors in order.
        dropout: before the linear map, in training.
    """

    pool: Literal["mean", "concat"] = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "concat"):
            raise unknown("pool", self.pool, ("mean", "concat"))
        check_dropout(self.dropout, "probe")


class Probe(Method):
    """Mean of frozen features, linear head."""

    Config = ProbeConfig
    title = "Linear probe on the mean of frozen image features"

    def __init__(
        self, backbone: ViT, config: ProbeConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__(backbone, config, classes, frames, image_size)
        width = backbone.config.width * (frames if config.pool == "concat" else 1)
        self.head = LinearHead(width, classes, config.dropout)

    @graph_where_trained
    def frozen(self, video: Tensor) -> Features:
        """video [B, T, 3, H, W] -> {"summary": [B, T, D]}."""
        self.check_video(video)
        return {"summary": unfold_frames(self._summary(fold_frames(video)), self.frames)}

    def _summary(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, D], fp32."""
        x = self.backbone.embed(images)
        for block in self.backbone.blocks:
            x = self.through(block, x)
        return self.backbone.summary(x).float()

    def frozen_key(self) -> dict[str, Any]:
        """No option changes what the backbone says."""
        return {}

    def readout(self, features: Features) -> Output:
        """{"summary": [B, T, D]} -> logits [B, K]."""
        summary = features["summary"]
        pooled = summary.mean(dim=1) if self.config.pool == "mean" else summary.flatten(1)
        return Output(self.head(pooled))

    @graph_where_trained
    def encode_frame(self, images: Tensor, before: Features | None) -> Features:
        """images [B, 3, H, W] -> {"summary": [B, D]}."""
        return {"summary": self._summary(images)}

    def from_frames(self, frames: Sequence[Features]) -> Output:
        """The summaries of T frames -> logits [B, K]."""
        return self.readout({"summary": torch.stack([frame["summary"] for frame in frames], dim=1)})
