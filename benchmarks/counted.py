"""Multiply-adds of a training step, with the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None
) -> int:
    """Operations of a convolution's way back, by its shapes: for the input's gradient and the weight's as forwards.

    Torch 2.13 takes a convolution in groups for a dense one here, by which ILA would seem 1.8 times as dear.
    """
    return 2 * math.prod(grad) * math.prod(weight[1:]) * sum(rest[-1][:2])


OWN = {torch.ops.aten.convolution_backward: convolution_backward}  # for torch's counter


def step_multiply_adds(step: Callable[[], object]) -> int:
    """Those of a step's matrix products, convolutions and attention, forward and backward."""
    # Not fused: the counter does not know every device's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=OWN) as counter:
        step()
    return int(counter.get_total_flops()) // 2
