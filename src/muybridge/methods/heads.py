"""From features to logits."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import BadInput, shape_text, unknown

HeadKind = Literal["auto", "text", "linear"]
CLIP_LOGIT_SCALE = math.log(100.0)  # where CLIP's training ended: its clamp


class LinearHead(nn.Module):
    """norm -> dropout -> linear: [B, D] -> [B, K].

    Args:
        width: D.
        classes: K.
        dropout: probability, in training.
        norm_eps: of the LayerNorm.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.0, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(self.norm(features)))


class TextHead(nn.Module):
    """Scaled cosine between a video and the features of the class names (CLIP, ICML 2021): [B, E] -> [B, K].

    Nothing of it is trained: `features` [K, E] and `logit_scale` (a logarithm) are buffers, saved with the model.

    Args:
        width: E.
        classes: K.
        features: [K, E], of any length; None: zeros, to be filled from a checkpoint.
    """

    features: Tensor
    logit_scale: Tensor

    def __init__(self, width: int, classes: int, features: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(classes, width))
        self.register_buffer("logit_scale", torch.tensor(CLIP_LOGIT_SCALE))
        if features is not None:
            self.relabel(features)

    def relabel(self, features: Tensor) -> None:
        """Other class names: `features` [K, E].

        Raises:
            BadInput: another E.
        """
        if features.ndim != 2 or features.shape[1] != self.features.shape[1]:
            raise BadInput(
                f"label features have shape {shape_text(features.shape)}; expected [K, {self.features.shape[1]}]."
            )
        self.features = features.detach().clone().to(self.features)

    def forward(self, video: Tensor, features: Tensor | None = None) -> Tensor:
        """video [B, E]; features [B, K, E] where they differ from video to video -> [B, K]."""
        video = F.normalize(video, dim=-1) * self.logit_scale.exp()
        if features is None:
            return video @ F.normalize(self.features, dim=-1).T
        return torch.einsum("be,bke->bk", video, F.normalize(features, dim=-1))


def choose_head(kind: HeadKind, label_features: Tensor | None, owner: str) -> Literal["text", "linear"]:
    """What `auto` means: a text head where there are label features, else a linear one.

    Raises:
        UnknownName: no such kind of head.
        BadInput: label features are given for a linear head.
    """
    if kind not in ("auto", "text", "linear"):
        raise unknown(f"{owner}.head", kind, ("auto", "text", "linear"))
    if kind == "linear" and label_features is not None:
        raise BadInput(f"{owner}.head is 'linear', which reads no label features; leave them out or use 'text'.")
    if kind == "auto":
        return "linear" if label_features is None else "text"
    return kind


def label_width(backbone_config: Any) -> int:
    """E, the width that image features and label features share: of the projection, or of the tokens without one."""
    return backbone_config.projection or backbone_config.width
