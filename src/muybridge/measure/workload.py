"""What is measured: a method of a size on a backbone of a size, with random weights, or a model that was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import backbone_info
from muybridge.engine.device import pick_device
from muybridge.engine.freed import GIVE_BACK, KEEP, may_set_allocator, set_allocator
from muybridge.engine.loss import total_loss
from muybridge.engine.optim import make_optimizer
from muybridge.errors import BadInput
from muybridge.methods import METHODS, build_method
from muybridge.methods.base import Method
from muybridge.methods.heads import label_width
from muybridge.plain import plain_twin
from muybridge.structures import TrainArgs


@dataclass(frozen=True)
class Workload:
    """One setting; weights are random, which changes no time, and a text head gets random features of class names.

    Attributes:
        method: a key of `METHODS`.
        options: fields of its `Config`.
        backbone: a name of `muybridge list backbones`, whose shape is taken.
        frames: T, as the method is given them (DiST: the dense ones).
        image_size: (height, width) in pixels; none: the backbone's own.
        classes: K.
        batch: B, videos at a time.
        plain: the method as its paper writes it, see `muybridge.plain`.
        checkpoint_activations: in training, see `TrainArgs`.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = "clip_vitb16"
    frames: int = 8
    image_size: tuple[int, int] | None = None
    classes: int = 400
    batch: int = 2
    plain: bool = False
    checkpoint_activations: bool = False

    def build(self, device: torch.device | str = "cpu") -> Method:
        """The method in evaluation mode, on `device`.

        Raises:
            UnknownName: no such method, option or backbone.
            BadInput: values that do not fit together.
        """
        config = backbone_info(self.backbone).config
        size = self.image_size or config.image_size
        with torch.random.fork_rng(devices=[]):  # torch's own generator is left as it is
            torch.manual_seed(0)
            vit = ViT(config)
            labels = None
            if self.method in METHODS and METHODS[self.method].takes_labels and config.projection:
                labels = torch.randn(self.classes, label_width(config))
            model = build_method(self.method, vit, self.classes, self.frames, size, self.options, labels)
        randomise(model)
        if self.plain:
            model = plain_twin(self.method, model)
        model.checkpoint_activations = self.checkpoint_activations
        return model.to(pick_device(device)).eval()


@torch.no_grad()
def randomise(model: Method) -> None:
    """Fill what starts at zero, so that no path of a new model is cut off and logits differ."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone.") and not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def random_video(model: Method, batch: int) -> Tensor:
    """Noise that the model can read, [B, T, 3, H, W], on its device."""
    generator = torch.Generator().manual_seed(2)
    video = torch.randn(batch, model.frames, 3, *model.image_size, generator=generator)
    return video.to(next(model.parameters()).device)


def bare_backbone(model: Method, video: Tensor) -> Callable[[], Tensor]:
    """The image transformer on the frames that the method has it read: the floor of a method that runs it.

    All tokens go through all blocks, norm and projection; attention is fused; no gradient is kept.
    """
    step = video.shape[1] // model.backbone_frames
    images = video[:, ::step].flatten(0, 1).contiguous()

    def run() -> Tensor:
        with torch.inference_mode():
            return model.backbone(images)

    return run


def training_step(model: Method, video: Tensor, precision: str = "fp32", cached: bool = False) -> Callable[[], None]:
    """One step of the optimiser on the same batch again and again, as the training loop takes it.

    Args:
        model: it is put into training mode, and its weights change.
        video: [B, T, 3, H, W].
        precision: `fp32`, or `bf16` by autocast.
        cached: start from frozen features that were computed before.

    Raises:
        BadInput: `cached`, and nothing of the method is frozen.
    """
    model.train()
    optimizer = make_optimizer(model, TrainArgs(lr=1e-6))
    labels = torch.arange(video.shape[0], device=video.device) % model.classes
    features = None
    if cached:
        features = model.frozen(video)
        if features is None:
            raise BadInput(f"Nothing of {type(model).__name__} depends on frozen weights only; it has no cached step.")

    def step() -> None:
        with torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = model(video) if features is None else model.readout(features)
        total_loss(output, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prepare_step(workload: Workload, threads: int) -> Callable[[], None]:
    """The training step of a workload, for a process of its own (`memory.peak_of`)."""
    torch.set_num_threads(threads)
    model = workload.build()
    if may_set_allocator():
        set_allocator(GIVE_BACK if workload.checkpoint_activations else KEEP)  # as the training loop does
    return training_step(model, random_video(model, workload.batch))
