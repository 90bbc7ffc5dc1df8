"""From features to logits."""

from __future__ import annotations

from torch import Tensor, nn


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
