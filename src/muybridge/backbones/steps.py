"""Steps with a gradient of their own (`torch.autograd.Function`), and where they may stand in for their formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def apply_step(step: type[torch.autograd.Function], *given: Any) -> Tensor:
    """The step's result for what its `forward` takes."""
    out: Tensor = step.apply(*given)
    return out


def one_precision(x: Tensor) -> bool:
    """Whether formulas around `x` run eagerly and in one precision; autocast would choose another within a step."""
    if torch.compiler.is_compiling() or x.is_meta:
        return False
    return not torch.is_autocast_enabled(x.device.type)
