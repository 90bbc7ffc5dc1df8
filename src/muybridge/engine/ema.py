"""A moving average of the weights, which is often better than the weights themselves and always smoother."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from muybridge.methods.base import Method


def changing(method: Method) -> dict[str, Tensor]:
    """What a training changes: trainable parameters, and what is the method's own. Name -> the tensor itself."""
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    own = set(method.own_state())
    return {name: tensor for name, tensor in method.state_dict().items() if name in trained | own}


class Average:
    """The exponential moving average of what a training changes.

    After n steps the average moves by 1 - min(decay, (1 + n) / (10 + n)) of the way to the weights, so that the first
    weights are forgotten soon.

    Args:
        method: whose weights; it is on its device already.
        decay: in (0, 1).

    Attributes:
        tensors: the averages by name; of integers, the latest.
        steps: n.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._live = changing(method)
        self.tensors = {name: tensor.clone() for name, tensor in self._live.items()}
        self._floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = [self.tensors[name] for name in self._floats]
        # Fast: one call for all tensors: 10 ms in place of 14 for 14 M parameters on one core.
        torch._foreach_lerp_(averages, [self._live[name] for name in self._floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the method has the average's values; afterwards its own again, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.tensors.items():
            live = self._live[name].clone()
            self._live[name].copy_(average)
            average.copy_(live)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.steps = state["steps"]
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
