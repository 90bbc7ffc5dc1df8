"""A method of your own in one file, trained and loaded like the others.

    python examples/add_a_method.py

Slope: of every channel of the frames' features the mean and the trend over time, and a linear map of both. It is the
linear probe with a sense of direction. Because it reads frozen features only, it is split into `frozen` and `readout`,
and its features can be cached. docs/add-a-method.md tells the rest of the contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import muybridge
from ingredients import material
from muybridge.methods.base import Features, Method, check_dropout, fold_frames, graph_where_trained, unfold_frames
from muybridge.methods.heads import LinearHead
from muybridge.structures import Output


@dataclass(frozen=True)
class SlopeConfig:
    """Options of Slope.

    Attributes:
        dropout: before the classifier, in training.
    """

    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_dropout(self.dropout, "slope")


class Slope(Method):
    """Mean and trend of the frames' features, linear head."""

    Config = SlopeConfig
    title = "Slope, an example"

    def __init__(
        self, backbone: muybridge.ViT, config: SlopeConfig, classes: int, frames: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__(backbone, config, classes, frames, image_size)
        self.head = LinearHead(2 * backbone.config.width, classes, config.dropout)

    @graph_where_trained
    def frozen(self, video: Tensor) -> Features:
        """video [B, T, 3, H, W] -> {"summary": [B, T, D]}."""
        self.check_video(video)
        x = self.backbone.embed(fold_frames(video))  # [B * T, L, D]
        for block in self.backbone.blocks:
            x = block(x)
        return {"summary": unfold_frames(self.backbone.summary(x), self.frames)}

    def readout(self, features: Features) -> Output:
        """{"summary": [B, T, D]} -> logits [B, K]."""
        x = features["summary"]
        time = torch.linspace(-1, 1, self.frames, device=x.device)  # [T]
        trend = torch.einsum("t,btd->bd", time, x) / time.square().sum().clamp(min=1)
        return Output(self.head(torch.cat([x.mean(dim=1), trend], dim=-1)))


# In a clone this is one line in methods/__init__.py; then `muybridge train --method slope` works too.
muybridge.METHODS["slope"] = Slope

if __name__ == "__main__":
    given = material(__doc__)
    for name in ("probe", "slope"):
        result = muybridge.train(given.recipe(name), given.out / name, backbone=given.backbone)
        print(name, result.evaluation)
    loaded = muybridge.load(given.out / "slope")  # wherever this file has been imported
    print(type(loaded.method).__name__, loaded.predict(next(given.data.rglob("*.mp4")), top=1))
