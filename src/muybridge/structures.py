"""What every room may import: frozen dataclasses, no behaviour, no torch at run time.

Letters in shapes, everywhere: B batch, T frames, N images (B * T), L tokens, D width, G grid side, K classes, V views,
h heads, d width per head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Rule = Literal["segments", "stride"]
Crop = Literal["random_resized", "random", "center"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Output:
    """What a method returns.

    Attributes:
        logits: [B, K], before the softmax.
        losses: named scalars to be added to the classification loss; filled in training mode.
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer in words: the class name, its index (line in `labels.txt`) and its probability in [0, 1]."""

    label: str
    index: int
    score: float

    def __str__(self) -> str:
        return f"{self.label} {self.score:.1%}"


@dataclass(frozen=True)
class Item:
    """One video of a data set: absolute path, class index, and the name it goes by in lists (relative path)."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are looked at.

    Attributes:
        frames: T, how many frames one view has.
        rule: `segments`: the video is cut into T equal parts and one frame is taken from each (TSN);
            `stride`: T frames, `stride` decoded frames apart, from one place of the video.
        stride: decoded frames between two sampled ones; used by the rule `stride` only.
        views: temporal views at test time.
        crops: spatial crops at test time: 1 (centre) or 3 (along the long side).
    """

    frames: int = 8
    rule: Rule = "segments"
    stride: int = 4
    views: int = 1
    crops: int = 1


@dataclass(frozen=True)
class Transform:
    """How decoded frames become the video that a method reads.

    Attributes:
        size: (height, width) in pixels of what the method reads.
        mean: per channel, of values in [0, 1], RGB; none: the backbone's own, filled in when it is loaded (ImageNet's
            where nothing tells).
        std: likewise.
        resize: short side in pixels before the crop at test time; 0: the larger side of `size`.
        interpolation: `bilinear` or `bicubic`.
        antialias: low-pass before shrinking.
        arithmetic: `uint8` rounds after resizing and is quicker; `float` is what the published codes do.
        crop: the crop in training: `random_resized`, `random` (after resizing as at test time) or `center`.
        scale: area of a random resized crop as a share of the frame.
        ratio: aspect (width / height) of a random resized crop.
        flip: probability of a horizontal flip in training. 0 by default: it swaps left and right.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    arithmetic: Literal["uint8", "float"] = "uint8"
    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0


@dataclass(frozen=True)
class TrainArgs:
    """How a method is trained.

    Attributes:
        epochs: passes over the training videos.
        batch_size: videos in one optimiser step of one process, before `accumulate`.
        accumulate: batches whose gradients are added up before a step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        decay_all: decay biases, norms and single vectors too (EVL as published); else only matrices.
        betas: of AdamW.
        warmup: epochs (may be a fraction) over which the rate rises linearly.
        schedule: `cosine` to `min_lr` or `constant` after the warm-up, stepped per optimiser step.
        min_lr: where the cosine ends.
        clip_grad: largest norm of all gradients; 0: no clipping.
        label_smoothing: of the cross entropy.
        precision: `auto`: fp32 on CPU, bf16 on CUDA that has it, else fp16 with a loss scaler.
        fixed_views: 0: fresh random draws every epoch; K: K fixed draws per video, epoch e uses draw e modulo K.
        cache: `memory`: compute what depends on frozen weights once and train on it (needs `fixed_views` >= 1).
        evaluate_every: epochs between two evaluations on the validation videos.
        bad_share: the run stops when more than this share of the training videos cannot be decoded.
        slim: leave a frozen backbone's weights out of the saved model; loading then fetches them and checks their hash.
        workers: processes that decode videos.
        seed: of every random draw.
    """

    epochs: int = 30
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 4e-4
    weight_decay: float = 0.05
    decay_all: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr: float = 0.0
    clip_grad: float = 0.0
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    fixed_views: int = 0
    cache: Literal["none", "memory"] = "none"
    evaluate_every: int = 1
    bad_share: float = 0.05
    slim: bool = False
    workers: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """A complete, reproducible setting: what `muybridge train` runs and `recipe.json` keeps.

    Attributes:
        method: a name of `muybridge list methods`.
        options: the method's own options; in files and on the command line they stand under the method's name.
        backbone: a name of `muybridge list backbones`.
        weights: a file with the backbone's weights; empty: the table's source.
        data: folder or list of videos.
        sampling: which frames.
        transform: how frames become the model's input.
        train: how it is trained.
        schema: version of this layout.
    """

    method: str = "evl"
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = "clip_vitb16"
    weights: str = ""
    data: str = ""
    sampling: Sampling = Sampling()
    transform: Transform = Transform()
    train: TrainArgs = TrainArgs()
    schema: int = 1


@dataclass(frozen=True)
class ModelSpec:
    """What a saved model is, besides its tensors: everything needed to build it again and to feed it.

    Attributes:
        method: a key of `METHODS`.
        options: every field of the method's config.
        backbone: the backbone's name in the table, or `custom`.
        backbone_config: every field of its `ViTConfig`.
        backbone_sha256: of the backbone's weights, see `backbone_sha256`.
        labels: class names by index.
        sampling: which frames.
        transform: how frames become the model's input.
    """

    method: str
    options: dict[str, Any]
    backbone: str
    backbone_config: dict[str, Any]
    backbone_sha256: str
    labels: tuple[str, ...]
    sampling: Sampling
    transform: Transform
