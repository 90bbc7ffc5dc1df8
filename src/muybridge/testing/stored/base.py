"""A reference case that was run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from muybridge.methods.base import Method
from muybridge.testing.cases import Case


@dataclass(frozen=True)
class Run:
    """A case and what came out of it.

    Attributes:
        case: with `config` and the stored shapes in `outputs`.
        method: the model, in the case's mode, after ONE `trace` of the video (and before any optimiser step).
        video: [B, T, 3, H, W]; several views are folded into B, the view fastest.
        views: how many.
        trace: of that one run, gradients attached; `logits` and `loss.*` included.
        label_features: [K, E] of the case's texts, as the text tower returns them; None without texts.
    """

    case: Case
    method: Method
    video: Tensor
    views: int
    trace: dict[str, Tensor]
    label_features: Tensor | None
