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

Rule = Literal["segments", "stride", "tsn", "uniform", "dense", "linspace"]
Crop = Literal["random_resized", "random", "center", "multiscale"]
Schedule = Literal["cosine", "constant", "ila", "dist", "zeroi2v"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Step = Literal["crop", "flip", "color_jitter", "grayscale", "randaugment"]

# How a RandAugment is written: pattern -> the same in words.
RANDAUGMENT = {
    r"rand-m(?P<m>10|\d(?:\.\d+)?)-n(?P<n>[1-9]\d?)(?:-mstd(?P<std>\d+(?:\.\d+)?))?-inc1": (
        "rand-m<magnitude 0 to 10>-n<operations 1 to 99>-mstd<deviation of the magnitude>-inc1"
    ),
    r"pytorchvideo-n(?P<n>[1-9]|1[0-4])-m(?P<m>10|\d(?:\.\d+)?)": (
        "pytorchvideo-n<operations 1 to 14>-m<magnitude 0 to 10>"
    ),
}


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
class Looked:
    """Where the parts of a method that its paper adds looked, out of a trace; see `Method.looked`.

    Attributes:
        maps: name -> [B, T, rows, columns], 0 or more, one value a patch; the first is the one to show. NaN: nothing is
            known of that frame.
        points: name -> [B, T - 1, 2, 2]: for each pair of neighbouring frames a point in the earlier and one in the
            later, each (x, y) in [-1, 1], from the left and from the top of what the method reads.
    """

    maps: dict[str, Tensor] = field(default_factory=dict)
    points: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer in words: the class name, its index (line in `labels.txt`) and its probability in [0, 1]."""

    label: str
    index: int
    score: float

    def __str__(self) -> str:
        return f"{self.label} {self.score:.1%}"


@dataclass(frozen=True)
class FrameFiles:
    """A video that lies on disk as one picture file a frame.

    Attributes:
        pattern: name of a frame's file within the folder, with the number in Python's notation: `img_{:05}.jpg`.
        first: number of the first frame.
        count: how many frames there are.
        rate: frames a second; 0: not known.
    """

    pattern: str
    first: int
    count: int
    rate: float = 0.0


@dataclass(frozen=True)
class Item:
    """One video of a data set.

    Attributes:
        path: absolute path, or the address of a remote file; of a folder where `frames` is given.
        label: class index.
        name: what it goes by in lists: its relative path, or the official name of a part of a video.
        start: where the part of the video that is meant begins, in seconds.
        end: where it ends; None: at the end of the video.
        frames: the video is a folder of picture files.
        stored: (offset, size) in bytes of the video file within the archive at `path`.
    """

    path: str
    label: int
    name: str
    start: float = 0.0
    end: float | None = None
    frames: FrameFiles | None = None
    stored: tuple[int, int] | None = None


@dataclass(frozen=True)
class SourceArgs:
    """How the videos of a data set are found and read; no part of a model.

    Attributes:
        format: what the files of the data set look like; `auto`: found out (`docs/data-sets.md` shows each).
        videos: folder of the videos, where they do not lie beside the lists.
        label: what to recognise where a data set has several kinds of classes: `verb` or `noun` of EPIC-KITCHENS.
        fold: which of the official splits, from 1 (UCF101 and HMDB51 have three).
        val_share: the part of every class that is set aside for validation where a data set has no split.
        decoder: `pyav`, or `torchcodec` where that is installed.
        seconds: a file that takes longer to read than this is given up; 0: no limit.
        megapixels: a file with larger pictures is refused; 0: no limit.
        megabytes: memory for the decoded frames of one sample; a sample that needs more is refused; 0: no limit.
        stream: read the training videos of tar archives from beginning to end, mixed by a buffer, in place of one by
            one from any place (docs/data-sets.md); needs `muybridge[webdataset]`.
        stream_buffer: how many files each worker holds while it streams, out of which the next is drawn.
    """

    format: str = "auto"
    videos: str = ""
    label: Literal["", "verb", "noun"] = ""
    fold: int = 1
    val_share: float = 0.2
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    seconds: float = 120.0
    megapixels: float = 40.0
    megabytes: float = 4096.0
    stream: bool = False
    stream_buffer: int = 256


@dataclass(frozen=True)
class InitArgs:
    """A trained video model to start from, in place of fresh parameters.

    Attributes:
        model: a run folder, a file of a model, or a published recipe whose file is at hand; empty: none.
        keep_classes: keep what the model knows of the classes that it shares with the data set, by name.
        interpolate: allow another number of frames or another size than the model has; tables are interpolated.
    """

    model: str = ""
    keep_classes: bool = False
    interpolate: bool = False


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are looked at.

    Attributes:
        frames: T, how many frames one view has.
        rule: `segments`: the video is cut into T equal parts and one frame is taken from each (TSN);
            `stride`: T frames, `stride` decoded frames apart, from one place of the video (EVL). Published variants of
            the first, which differ in single frames: `tsn` (ILA), `uniform` (ZeroI2V), `linspace` (DiST); of the
            second, in which short videos loop: `dense` (ZeroI2V).
        stride: decoded frames between two sampled ones; used by the rules `stride` and `dense` only.
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
        resize_single: the same where only one view of a video is taken (1 clip x 1 crop), as ILA and ZeroI2V have it;
            0: `resize`.
        rounding: of the long side in resizing: `floor` (EVL), `half_up` (OpenCV's habit: ILA, ZeroI2V), or `int`: the
            whole part of a product of fractions, which may be a pixel less than `floor` (DiST).
        crop_steps: where three crops at test time lie: `ends`: at the start, in the middle and at the end of the long
            side (EVL); `even`: 0, 1 and 2 steps of half the margin, rounded down (ILA, ZeroI2V).
        interpolation: `bilinear` or `bicubic`.
        antialias: low-pass before shrinking.
        arithmetic: `uint8` resizes bytes and is quickest; `float` resizes and keeps fractions (EVL, DiST); `rounded`
            resizes fractions and rounds to bytes, OpenCV's to within one level of 255 (ILA, ZeroI2V).
        train_resize: short side in pixels before anything else in training; 0: not resized before the crop.
        order: in which order a training video is cropped, mirrored and so on: all five steps, also those that are off.
            Normalisation comes after them and erasing last.
        crop: the crop in training: `random_resized`, `random` (after resizing as at test time), `center` or
            `multiscale` (sides of 1, 0.875, 0.75 or 0.66 of the short side, at most one step apart, in a corner or the
            centre).
        scale: area of a random resized crop as a share of the frame.
        ratio: aspect (width / height) of a random resized crop.
        flip: probability of a horizontal flip in training. 0 by default: it swaps left and right.
        swap_labels: pairs of class indices that a flip exchanges, such as 86 and 87 in Something-Something.
        randaugment: random operations on the whole video: `rand-m7-n4-mstd0.5-inc1` (timm's notation: magnitude 7, 4
            operations, a deviation of 0.5 of the magnitude) or `pytorchvideo-n4-m7` (the same, each operation at most
            once and bilinear where the other is bicubic); empty: none.
        color_jitter: largest changes of brightness, contrast, saturation and hue.
        color_jitter_probability: how often colours are changed, if `color_jitter` is not zero.
        color_jitter_per_frame: other colours for every frame, as ILA has it; else the same for the whole video.
        grayscale: probability that the video loses its colours.
        erasing: probability that a rectangle of 2 to 33 % of the area, the same in all frames, is erased.
        erasing_fill: with what: `zero` after normalisation, `grey` (128 of 255), or `noise`, new in every frame.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: int = 0
    resize_single: int = 0
    rounding: Literal["floor", "half_up", "int"] = "floor"
    crop_steps: Literal["ends", "even"] = "ends"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    arithmetic: Literal["uint8", "float", "rounded"] = "uint8"
    train_resize: int = 0
    order: tuple[Step, ...] = ("crop", "flip", "color_jitter", "grayscale", "randaugment")
    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0
    swap_labels: tuple[tuple[int, int], ...] = ()
    randaugment: str = ""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    color_jitter_probability: float = 1.0
    color_jitter_per_frame: bool = False
    grayscale: float = 0.0
    erasing: float = 0.0
    erasing_fill: Literal["zero", "grey", "noise"] = "zero"


@dataclass(frozen=True)
class TrainArgs:
    """How a method is trained.

    Attributes:
        epochs: passes over the training videos; 0 or `auto`: from the number of videos and the batch, so that few
            videos are seen often enough (docs/training.md).
        batch_size: videos in one optimiser step of one process, before `accumulate`.
        accumulate: batches whose gradients are added up before a step.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        decay_all: decay biases, norms and single vectors too (EVL as published); else only matrices.
        betas: of AdamW.
        warmup: epochs (may be a fraction) over which the rate rises linearly.
        warmup_start: where the warm-up begins, as a share of the peak; read by the schedules `dist` and `zeroi2v` only.
        schedule: `cosine` to `min_lr` or `constant` after the warm-up, stepped per optimiser step; `ila`, `dist` and
            `zeroi2v` are cosines with these papers' warm-ups, to the step.
        min_lr: where the cosine ends.
        clip_grad: largest norm of all gradients; 0: no clipping.
        label_smoothing: of the cross entropy.
        class_weights: of the cross entropy, where some classes have more videos than others: `balanced`: inverse to a
            class's number of videos; `effective`: the same less steeply (Cui et al., CVPR 2019, beta 0.999).
        balanced_sampling: every class is seen equally often; videos of small classes come several times an epoch.
        unfreeze: which of the backbone is trained too: `none`, the `last:N` blocks, or `all`.
        backbone_lr: peak learning rate of what is unfrozen.
        layer_decay: factor on `backbone_lr` for each block further from the end; 1: the same for all.
        mixup: alpha of mixup, each video blended with another of its batch; 0: off.
        cutmix: alpha of cutmix, a box of another video of the batch, the same in all frames; 0: off.
        mix_probability: share of batches that are mixed, if `mixup` or `cutmix` is on.
        cutmix_share: share of the mixed batches that are cut, where both are on.
        ema: decay of a moving average of the weights, which is then what is evaluated and saved; 0: none.
        precision: `auto`: fp32 on CPU, bf16 on CUDA that has it, else fp16 with a loss scaler.
        checkpoint_activations: keep only the inputs of the backbone's blocks that gradients pass through and compute
            the rest again on the way back: less memory, more time. Nothing changes where the backbone is only read
            (evl, dist, probe, unless it is unfrozen).
        shard_backbone: with several processes (torchrun), each keeps its share of the weights of the frozen backbone's
            blocks and gathers a block's when it is needed (FSDP): less memory for a large backbone, more exchange.
        fixed_views: 0: fresh random draws every epoch; K: K fixed draws per video, epoch e uses draw e modulo K.
        cache: compute what depends on frozen weights once and train on it (needs `fixed_views` >= 1): kept in
            `memory`, or on `disk` for later trainings too.
        cache_folder: where features are kept on disk; empty: `features` in the user's cache of muybridge.
        cache_precision: of features on disk: `half` (fp16) or `full`; those in memory are as they were computed.
        evaluate_every: epochs between two evaluations on the validation videos.
        patience: stop after so many evaluations without a better one; 0: train to the end.
        tracker: where figures are sent besides `metrics.jsonl`: `tensorboard` (into the run folder), `trackio` or
            `wandb`, each a library to be installed.
        save_every: minutes between two checkpoints within an epoch, besides those after epochs; 0: none.
        skip_bad_steps: how many steps of the run may be left out because their loss or gradients are not finite; with
            0 the first one stops it.
        bad_share: the run stops when more than this share of the training videos cannot be decoded.
        slim: leave a frozen backbone's weights out of the saved model; loading then fetches them and checks their hash.
        workers: processes that decode videos.
        transform_on: who resizes, crops and changes the decoded frames: the `workers`, or the `device` that trains,
            where workers are few and it is a GPU (docs/performance.md). Draws are the same; colour jitter and
            RandAugment are for workers.
        seed: of every random draw.
        draws_seed: of what becomes of each training video alone: its frames, crops and other augmentation, and which
            are repeated by `balanced_sampling`; none: `seed`. Trainings with other seeds and the same `draws_seed`
            share cached features.
    """

    epochs: int = 0
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 4e-4
    weight_decay: float = 0.05
    decay_all: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 1.0
    warmup_start: float = 0.0
    schedule: Schedule = "cosine"
    min_lr: float = 0.0
    clip_grad: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced", "effective"] = "none"
    balanced_sampling: bool = False
    unfreeze: str = "none"
    backbone_lr: float = 1e-5
    layer_decay: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    cutmix_share: float = 0.5
    ema: float = 0.0
    precision: Precision = "auto"
    checkpoint_activations: bool = False
    shard_backbone: bool = False
    fixed_views: int = 0
    cache: Literal["none", "memory", "disk"] = "none"
    cache_folder: str = ""
    cache_precision: Literal["half", "full"] = "half"
    evaluate_every: int = 1
    patience: int = 0
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    save_every: float = 10.0
    skip_bad_steps: int = 0
    bad_share: float = 0.05
    slim: bool = False
    workers: int = 2
    transform_on: Literal["workers", "device"] = "workers"
    seed: int = 0
    draws_seed: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A complete, reproducible setting: what `muybridge train` runs and `recipe.json` keeps.

    Attributes:
        method: a name of `muybridge list methods`.
        options: the method's own options; in files and on the command line they stand under the method's name.
        backbone: a name of `muybridge list backbones`.
        weights: a file with the backbone's weights; empty: the table's source.
        data: folder or list of videos.
        source: how they are found and read.
        init: a trained model to start from.
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
    source: SourceArgs = SourceArgs()
    init: InitArgs = InitArgs()
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
        own_backbone: the backbone was trained with the model, so that its weights are published nowhere else.
        labels: class names by index.
        sampling: which frames.
        transform: how frames become the model's input.
        text_config: every field of the text tower's `TextConfig`, where the tower is saved with the model; else empty.
    """

    method: str
    options: dict[str, Any]
    backbone: str
    backbone_config: dict[str, Any]
    backbone_sha256: str
    labels: tuple[str, ...]
    sampling: Sampling
    transform: Transform
    text_config: dict[str, Any] = field(default_factory=dict)
    own_backbone: bool = False
