"""Counting on models whose tensors have a shape and no content (torch's meta device): nothing is computed.

Multiply-adds are half of what `torch.utils.flop_counter` counts: matrix products, convolutions and attention; norms,
activations and sums are not counted, as in the published figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from muybridge.backbones.text import TextConfig, TextTower
from muybridge.methods.base import Method, count

BYTES = 4  # of an fp32 number


@dataclass(frozen=True)
class TrainingMemory:
    """An estimate of what a training step in fp32 keeps, in bytes.

    weights + gradients + AdamW's two moments of the trainable parameters + what the forward pass of the whole batch
    stores for the backward pass. Not in it: what a layer needs for a moment (most of it a frozen backbone that stores
    nothing), decoded videos, the allocator's reserve. bf16 and fp16 halve most of the stored activations.

    Attributes:
        batch: videos in the step.
        weights: of the whole model.
        gradients: of the trainable parameters.
        moments: AdamW's, two for each trainable parameter.
        activations: stored by the forward pass; each tensor once, parameters left out.
    """

    batch: int
    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.moments + self.activations


@torch.no_grad()
def multiply_adds(method: nn.Module, video: Tensor) -> int:
    """Multiply-adds of a forward pass: matrix products, convolutions, attention.

    Args:
        method: in the mode in which it is to be counted; or a backbone.
        video: [B, T, 3, H, W]; or images [N, 3, H, W].
    """
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for parameter in trainable:  # the counter hooks what requires a gradient, and finds no graph to hook
        parameter.requires_grad_(False)
    try:
        # Not fused: the counter does not know every device's fused attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            method(video)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops()) // 2


@torch.no_grad()
def parameters_read(method: Method, part: nn.Module, video: Tensor) -> int:
    """How many parameters of `part` a forward pass of `method` takes as the input of any operation.

    Args:
        method: the model.
        part: of it.
        video: [B, T, 3, H, W].
    """
    wanted = {id(parameter): parameter.numel() for parameter in part.parameters()}
    with _Inputs() as inputs:
        method(video)
    return sum(size for key, size in wanted.items() if key in inputs.seen)


def own_parameters(method: Method) -> int:
    """Parameters beside the backbone."""
    return count(parameter for name, parameter in method.named_parameters() if not name.startswith("backbone."))


def training_memory(method: Method, batch: int) -> TrainingMemory:
    """The memory of a training step, see `TrainingMemory`.

    Activations are counted for one video and multiplied by `batch`.

    Args:
        method: on any device; the meta device does. Nothing is computed, and it is left as it is.
        batch: videos in the step.
    """
    stored: dict[int, Tensor] = {}  # the tensors are kept, so that no storage is freed and its number given anew

    def keep(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage()._cdata] = tensor
        return tensor

    mode = method.training
    method.train()
    # Pretended CPU tensors, as the meta device takes attention apart and would store all its probabilities.
    try:
        with FakeTensorMode():
            state = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in _state(method).items()}
            for name, parameter in method.named_parameters():
                state[name].requires_grad_(parameter.requires_grad)
            own = {tensor.untyped_storage()._cdata for tensor in state.values()}
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                functional_call(method, state, (torch.empty(1, method.frames, 3, *method.image_size),))
    finally:
        method.train(mode)
    activations = sum(tensor.untyped_storage().nbytes() for key, tensor in stored.items() if key not in own)
    trainable = BYTES * count(method.parameters(), trainable_only=True)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    return TrainingMemory(batch, weights, trainable, 2 * trainable, batch * activations)


def _state(method: Method) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are not saved too."""
    return {**dict(method.named_parameters()), **dict(method.named_buffers())}


def text_parameters(config: TextConfig) -> int:
    """Parameters of a text tower, and one for the scale of its cosines."""
    with torch.device("meta"):
        return count(TextTower(config).parameters()) + 1


class _Inputs(TorchDispatchMode):
    """Which tensors operations have taken."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.seen.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        return func(*args, **(kwargs or {}))
