"""What the outputs of a reference case are called and how they lie in the published codes. One file a method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from muybridge.testing.stored import dist, evl, ila, zeroi2v
from muybridge.testing.stored.base import Run

# Method -> stored name, run -> our tensor in the published layout; None: this method has no output of that name.
OUTPUTS: dict[str, Callable[[str, Run], Tensor | None]] = {
    "dist": dist.output,
    "evl": evl.output,
    "ila": ila.output,
    "zeroi2v": zeroi2v.output,
}
