"""The contract between a method and everything else.

A method is an image transformer plus what a paper adds to make it read video. The engine, the recogniser, the command
line and the tests know `Method`, never a particular one. A new method is one file in this folder and one line in
`METHODS`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import resized
from muybridge.errors import BadInput, CheckpointError, key_difference, shape_text, unknown
from muybridge.methods.heads import TextHead
from muybridge.structures import Looked, Output, TrainArgs

Features = dict[str, Tensor]
Owner = TypeVar("Owner", bound="Method")
Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def graph_where_trained(
    walk: Callable[Concatenate[Owner, Arguments], Answer],
) -> Callable[Concatenate[Owner, Arguments], Answer]:
    """Decorator of a method's walk over its backbone: no graph of a frozen one, the usual graph of one that trains."""

    @functools.wraps(walk)
    def walked(self: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freezes_backbone):
            return walk(self, *args, **kwargs)

    return walked


class Method(nn.Module):
    """Base of all methods: video [B, T, 3, H, W] -> Output(logits [B, K], losses).

    A method with a frozen backbone writes `frozen` and `readout`; any other writes `forward` and leaves them.

    Attributes:
        Config: frozen dataclass of the method's own options, all with defaults.
        title: the paper, with venue and link.
        freezes_backbone: no backbone parameter is trained; an instance whose backbone was unfrozen has False.
        takes_labels: its constructor has `label_features`, features of the class names to compare videos with.
        checkpoint_activations: of what goes `through`, only the inputs are kept; for gradients it is computed again.
    """

    Config: ClassVar[type]
    title: ClassVar[str] = ""
    freezes_backbone: bool = True
    takes_labels: ClassVar[bool] = False
    checkpoint_activations: bool = False

    def __init__(
        self,
        backbone: ViT,
        config: Any,
        classes: int,
        frames: int,
        image_size: tuple[int, int],
    ) -> None:
        """
        Args:
            backbone: the image transformer; it stays as it is, the method keeps its own parameters beside it.
            config: an instance of `Config`.
            classes: K.
            frames: T, how many frames the method is given.
            image_size: (height, width) in pixels of those frames.

        Raises:
            BadInput: fewer than 2 classes, no frame, or an image smaller than a patch.
        """
        super().__init__()
        if classes < 2:
            raise BadInput(f"A recogniser needs at least 2 classes; {classes} given.")
        if frames < 1:
            raise BadInput(f"frames is {frames}; expected at least 1.")
        if min(backbone.config.grid_of(image_size)) < 1:
            raise BadInput(f"image_size {image_size} is smaller than the backbone's patch {backbone.config.patch}.")
        self.backbone = backbone
        self.config = config
        self.classes = classes
        self.frames = frames
        self.image_size = image_size
        self._trace: dict[str, Tensor] | None = None
        if self.freezes_backbone:
            backbone.requires_grad_(False)
            backbone.eval()

    def forward(self, video: Tensor) -> Output:
        """video: [B, T, 3, H, W], normalised -> logits [B, K]; losses are filled in training mode.

        Raises:
            BadInput: another shape, another number of frames or another image size than the method was built for.
        """
        features = self.frozen(video)
        if features is None:
            raise NotImplementedError(f"{type(self).__name__} writes neither frozen/readout nor forward.")
        return self.readout(features)

    @property
    def backbone_frames(self) -> int:
        """How many of the T frames the backbone reads, evenly spaced from the first; by default all."""
        return self.frames

    def frozen(self, video: Tensor) -> Features | None:
        """What depends on frozen weights only, batch first, without a graph; None: nothing can be cached.

        Where the backbone was unfrozen it is the same with a graph, and must not be kept.
        """
        return None

    def frozen_key(self) -> dict[str, Any]:
        """What `frozen` depends on besides backbone, frames and image size: cached features are known by it.

        By default all options. A method that names fewer lets trainings that differ in the others share features; one
        that names too few lets them read stale ones.
        """
        return asdict(self.config)

    def readout(self, features: Features) -> Output:
        """The rest: `forward(video) == readout(frozen(video))`."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen features; call it with a video.")

    def encode_frame(self, images: Tensor, before: Features | None) -> Features | None:
        """What is kept of a frame of a live stream, so that no window computes it again; None: nothing can be.

        Args:
            images: [B, 3, H, W], normalised: the frame that has come, of B streams or crops.
            before: what was kept of the frame before it; None: there is none. What only this call needs may be taken
                out of it.
        """
        return None

    def from_frames(self, frames: Sequence[Features]) -> Output:
        """`forward` of a window of T frames of which `encode_frame` kept this, oldest first.

        What this window is the first to need of a frame may be added to what is kept of it.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps nothing of a frame; call it with a video.")

    def through(self, step: Callable[..., Answer], *inputs: Any) -> Answer:
        """`step(*inputs)`, of which only the inputs are kept if `checkpoint_activations` is on.

        For blocks that gradients pass through. The statistics of batch norms follow a batch once, although it is
        computed twice.
        """
        if self.checkpoint_activations and torch.is_grad_enabled() and self._trace is None:
            again = itertools.count()

            def run(*given: Any) -> Answer:
                with _statistics_kept(self) if next(again) else nullcontext():
                    return step(*given)

            # A compiler decides by itself what is computed again, and changes no statistics twice.
            kept: Answer = checkpoint(step if torch.compiler.is_compiling() else run, *inputs, use_reentrant=False)
            return kept
        return step(*inputs)

    def trace(self, video: Tensor) -> dict[str, Tensor]:
        """`forward` with a recorder: name -> tensor of every step that the method records, and `logits`.

        The same code runs; gradients are kept where the mode has them.
        """
        self._trace = {}
        try:
            output = self(video)
            return {**self._trace, "logits": output.logits, **{f"loss.{k}": v for k, v in output.losses.items()}}
        finally:
            self._trace = None

    def looked(self, trace: dict[str, Tensor]) -> Looked:
        """Where the method's own parts looked, of what `trace` returned; by default nothing is known.

        Where nothing is, `muybridge explain` follows the backbone's attention (docs/explain.md).
        """
        return Looked()

    def head_frames(self) -> dict[int, Tensor]:
        """Whose keys and values the backbone's attention heads see: offset in frames -> share of each head [h].

        By default each frame sees its own. An offset that leads outside the video leads to the frame itself.
        """
        return {0: torch.ones(self.backbone.config.heads)}

    def record(self, name: str, tensor: Tensor) -> None:
        """Keep `tensor` under `name` while `trace` runs; nothing otherwise."""
        if self._trace is not None:
            self._trace[name] = tensor

    def record_difference(self, name: str, after: Tensor, before: Tensor) -> None:
        """Keep what a branch has added, where it adds itself in place of returning a tensor of its own."""
        if self._trace is not None:
            self._trace[name] = after - before

    def parameter_groups(self, args: TrainArgs) -> list[dict[str, Any]]:
        """Optimiser groups over exactly `trained_parameters`; vectors are decayed only with `decay_all`."""
        trainable = [parameter for _, parameter in self.trained_parameters()]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1 or args.decay_all], "weight_decay": args.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1 and not args.decay_all], "weight_decay": 0.0},
        ]
        return [{**group, "lr": args.lr} for group in groups if group["params"]]

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of all that trains but an unfrozen backbone, which has optimiser groups of its own."""
        unfrozen = type(self).freezes_backbone and not self.freezes_backbone
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not (unfrozen and name.startswith("backbone.")):
                yield name, parameter

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch, 0 <= epoch < epochs, for what changes over a training."""

    def merged(self) -> Method:
        """The same outputs with fewer operations, for evaluation and prediction; by default the method itself."""
        return self

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.freezes_backbone:
            self.backbone.eval()
        return self

    def relabel(self, features: Tensor) -> None:
        """Classify by other class names from now on.

        Args:
            features: [K, E] of the K class names, from the text tower beside the backbone; any length.

        Raises:
            BadInput: this model has a linear head, or E is not the backbone's.
        """
        head = text_head(self)
        if head is None:
            raise BadInput(
                f"This {type(self).__name__} has a linear head for its {self.classes} classes; "
                "other class names need a model with a text head."
            )
        head.relabel(features)
        self.classes = features.shape[0]

    def adapted(self, frames: int, image_size: tuple[int, int]) -> Method:
        """The same model for another number of frames or another image size; tables are interpolated.

        Args:
            frames: T.
            image_size: (height, width) in pixels.

        Raises:
            BadInput: the method has a tensor that does not fit and cannot be interpolated.
        """
        backbone = resized(self.backbone, image_size) if image_size != self.image_size else self.backbone
        head = text_head(self)
        labels = {"label_features": head.features} if head is not None else {}
        other = type(self)(backbone, self.config, self.classes, frames, image_size, **labels)
        state = self.own_state()
        for name, wanted in other.own_state().items():
            if state[name].shape != wanted.shape:
                state[name] = self.interpolate(name, state[name], other)
        other.load_own(state)
        return other.train(self.training)

    def interpolate(self, name: str, tensor: Tensor, other: Method) -> Tensor:
        """The tensor `name` of `own_state` for `other`, which has other frames or another size.

        Raises:
            BadInput: it cannot be; a method with such tables overrides this.
        """
        raise BadInput(
            f"{type(self).__name__} cannot be taken from {self.frames} to {other.frames} frames and from "
            f"{self.image_size[0]}x{self.image_size[1]} to {other.image_size[0]}x{other.image_size[1]} px: "
            f"its '{name}' {shape_text(tensor.shape)} does not fit."
        )

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without the backbone's keys."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}

    def load_own(self, state: dict[str, Tensor]) -> None:
        """Load the method's own tensors, all of them and nothing else.

        Raises:
            CheckpointError: keys or shapes that differ.
        """
        expected = {key: tuple(value.shape) for key, value in self.own_state().items()}
        difference = key_difference(expected, {key: tuple(value.shape) for key, value in state.items()})
        if difference:
            raise CheckpointError(f"These are not the weights of this {type(self).__name__}: {difference}.")
        self.load_state_dict(state, strict=False)

    def check_video(self, video: Tensor) -> None:
        """Raise BadInput unless `video` is what this method was built for."""
        if video.ndim != 5 or video.shape[2] != 3:
            hint = ""
            if video.ndim == 5 and video.shape[1] == 3:
                hint = " Did you mean video.transpose(1, 2)?"
            raise BadInput(f"video has shape {shape_text(video.shape)}; expected [B, T, 3, H, W].{hint}")
        if video.shape[1] != self.frames:
            raise BadInput(
                f"This {type(self).__name__} reads {self.frames} frames; the video has {video.shape[1]}. "
                f"Resample it, or build the method with frames={video.shape[1]}."
            )
        if tuple(video.shape[3:]) != self.image_size:
            raise BadInput(
                f"This {type(self).__name__} reads {self.image_size[0]}x{self.image_size[1]} px; "
                f"the video has {video.shape[3]}x{video.shape[4]}. Resize it, or build the method for that size."
            )


def text_head(method: Method) -> TextHead | None:
    """The head that compares videos with class names, if the method has one."""
    head = getattr(method, "head", None)
    return head if isinstance(head, TextHead) else None


def check_named(method: Method) -> None:
    """Raise BadInput if a method compares videos with class names, and was given none yet."""
    head = text_head(method)
    if head is not None and not head.features.any():
        raise BadInput(
            "This model compares videos with class names and has none yet: give them with labels (--labels)."
        )


@contextmanager
def _statistics_kept(method: Method) -> Iterator[None]:
    """Within: batch norms normalise by their batch, and their running statistics stay as they are."""
    norms = [part for part in method.modules() if isinstance(part, _BatchNorm) and part.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # running = (1 - momentum) running + momentum batch
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def check_cacheable(kind: type[Method]) -> None:
    """Raise BadInput if nothing of a method depends on frozen weights only."""
    if kind.frozen is Method.frozen:
        raise BadInput(
            f"Nothing of {kind.__name__} depends on frozen weights only, so there is nothing to cache: what it trains "
            "lies within or between the backbone's blocks, and its gradients pass through them. Train with "
            "--train.cache none."
        )


def check_dropout(dropout: float, owner: str) -> None:
    """Raise BadInput unless `dropout` is a probability below 1."""
    if not 0 <= dropout < 1:
        raise BadInput(f"{owner}.dropout is {dropout:g}; expected 0 to below 1.")


def fold_frames(video: Tensor) -> Tensor:
    """[B, T, 3, H, W] -> [B * T, 3, H, W], index b * T + t."""
    return video.flatten(0, 1)


def unfold_frames(images: Tensor, frames: int) -> Tensor:
    """[B * T, ...] -> [B, T, ...]."""
    return images.unflatten(0, (-1, frames))


def stretch(table: Tensor, dim: int, size: int) -> Tensor:
    """A table over time for another number of frames: linear between the middles of the old frames.

    Args:
        table: any shape.
        dim: the axis of time.
        size: frames wanted.
    """
    moved = table.movedim(dim, -1)
    flat = moved.reshape(1, -1, moved.shape[-1]).float()
    stretched = F.interpolate(flat, size=size, mode="linear", align_corners=False)
    return stretched.reshape(*moved.shape[:-1], size).movedim(-1, dim).to(table.dtype)


def build_config(kind: type, options: dict[str, Any], owner: str) -> Any:
    """An instance of the dataclass `kind` from `options`.

    Raises:
        UnknownName: an option that `kind` does not have; the closest are named.
    """
    names = [field.name for field in fields(kind)]
    for name in options:
        if name not in names:
            raise unknown(f"option of {owner}", name, names)
    return kind(**options)


def count(parameters: Iterable[nn.Parameter], trainable_only: bool = False) -> int:
    """Number of elements, of all or of the trainable parameters."""
    return sum(p.numel() for p in parameters if p.requires_grad or not trainable_only)
