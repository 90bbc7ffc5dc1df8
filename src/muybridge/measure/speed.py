"""A model's times beside those of its bare backbone: as it is, compiled, in other precisions, on cached features."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from muybridge.engine.freed import freed_memory
from muybridge.errors import BadInput, unknown
from muybridge.export.timing import RUNTIMES, runtime_call
from muybridge.info.counting import multiply_adds
from muybridge.live.ring import Ring
from muybridge.measure.machine import matrix_rate
from muybridge.measure.memory import peak_on_gpu
from muybridge.measure.timing import Times, interleaved
from muybridge.measure.workload import bare_backbone, random_video, training_step
from muybridge.methods.base import Method, check_cacheable
from muybridge.predicting.walk import encodes_once

Call = Callable[[], object]
BARE = "backbone alone"

# Name -> what it is, in the words of `muybridge benchmark --help`.
WAYS = {
    "eager": "as it is, merged where the method merges",
    "unmerged": "as it is in training",
    "bf16": "all weights and activations in bfloat16",
    "compiled": "torch.compile, fp32",
    "compiled-bf16": "torch.compile, bfloat16",
    "int8": "the backbone's linear layers in int8, their scales found anew in each call (CPU)",
    "cached": "from frozen features that were computed before",
    "stream": "one new frame of a live stream, the others known: encoded once where the method can",
    **RUNTIMES,
}
STEPS = {
    "train": "a training step, fp32",
    "train-bf16": "a training step, bf16 by autocast",
    "train-checkpoint": "a training step that keeps the blocks' inputs only",
    "train-cached": "a training step on frozen features",
}


@dataclass(frozen=True)
class Figure:
    """What one way of running a model takes.

    Attributes:
        way: its name in `WAYS` or `STEPS`, or `BARE`.
        milliseconds: of a call with the whole batch, the median.
        ratio: to the bare backbone on the same frames, the median over rounds.
        views_per_second: videos of T frames.
        multiply_adds: of a forward pass of the batch; 0 where they are not counted.
        share: of the rate of a large matrix product of the same precision in the same run; 0 likewise.
        difference: of the logits from fp32, of the largest logit; None: it is the reference, or no forward pass.
        same_top5: every video's five best classes are the same, in any order.
        peak_mb: of the GPU's memory; None on a CPU.
    """

    way: str
    milliseconds: float
    ratio: float
    views_per_second: float
    multiply_adds: int = 0
    share: float = 0.0
    difference: float | None = None
    same_top5: bool | None = None
    peak_mb: float | None = None

    def row(self) -> dict[str, Any]:
        """The fields, rounded for a table."""
        digits = {"milliseconds": 3, "ratio": 4, "views_per_second": 2, "share": 3, "difference": 6, "peak_mb": 1}
        return {
            name: round(value, digits[name]) if name in digits and value is not None else value
            for name, value in asdict(self).items()
        }


def inference(
    model: Method,
    ways: Sequence[str] = ("eager",),
    batch: int = 2,
    rounds: int = 7,
    video: Tensor | None = None,
    reference: Tensor | None = None,
) -> list[Figure]:
    """Times of a forward pass, the bare backbone's first.

    Args:
        model: in evaluation mode, on its device; it is left as it is.
        ways: keys of `WAYS`.
        batch: B, if no video is given.
        rounds: measurements of each way.
        video: [B, T, 3, H, W], in the model's precision; noise by default.
        reference: logits [B, K] to compare with; those of the model as it is by default.

    Raises:
        UnknownName: no such way.
        BadInput: `cached`, and nothing of the method is frozen; `stream`, and it encodes no frame by itself.
    """
    for way in ways:
        if way not in WAYS:
            raise unknown("way", way, WAYS)
    if "stream" in ways and not encodes_once(model):
        raise BadInput(
            f"{type(model).__name__} computes every window of a stream anew, as one that is given whole (way eager); "
            "there is no way 'stream'."
        )
    video = random_video(model, batch) if video is None else video
    merged = model.merged().eval()
    calls: dict[str, Call] = {BARE: bare_backbone(model, video)}
    calls |= {way: _forward(way, model, merged, video) for way in ways}
    device = video.device
    reference = forward(merged, video)() if reference is None else reference
    logits = {way: calls[way]() for way in ways}
    times = interleaved(calls, rounds, device=device)
    dtypes = {way: torch.bfloat16 if way.endswith("bf16") else video.dtype for way in (BARE, *ways)}
    rates = {dtype: matrix_rate(device, dtype) for dtype in set(dtypes.values())}
    counted = {BARE: _backbone_adds(model, video), "unmerged": multiply_adds(model, video[:1])}
    usual = multiply_adds(merged, video[:1])
    figures = []
    for name in calls:
        adds = 0 if name in ("cached", "stream") or name.endswith("int8") else video.shape[0] * counted.get(name, usual)
        seconds = times.median(name)
        share = 2 * adds / seconds / rates[dtypes[name]]
        difference, same = compare(logits[name], reference) if name in logits else (None, None)
        peak = peak_on_gpu(calls[name], device) / 1e6 if device.type == "cuda" else None
        views = video.shape[0] / seconds
        figures.append(Figure(name, 1e3 * seconds, times.ratio(name, BARE), views, adds, share, difference, same, peak))
    return figures


def training(
    model: Method, ways: Sequence[str] = ("train",), batch: int = 2, rounds: int = 7, video: Tensor | None = None
) -> list[Figure]:
    """Times of a training step, the bare backbone's forward pass without gradients first; otherwise as `inference`.

    The model is copied for each way.
    """
    for way in ways:
        if way not in STEPS:
            raise unknown("way", way, STEPS)
    video = random_video(model, batch) if video is None else video
    bare, calls = bare_backbone(model, video), dict[str, Call]()
    for way in ways:
        own = copy.deepcopy(model)
        own.checkpoint_activations = way == "train-checkpoint"
        precision = "bf16" if way == "train-bf16" else "fp32"
        calls[way] = training_step(own, video, precision, cached=way == "train-cached")
    times: dict[str, Times] = {}
    for saving in (True, False):  # what is freed is treated as a training of that way would
        some = {way: call for way, call in calls.items() if (way == "train-checkpoint") == saving}
        if some:
            with freed_memory(saving):
                timed = interleaved({BARE: bare, **some}, rounds, device=video.device)
            times |= dict.fromkeys([BARE, *some], timed)
    calls = {BARE: bare, **calls}
    on_gpu = video.device.type == "cuda"
    return [
        Figure(
            name,
            1e3 * times[name].median(name),
            times[name].ratio(name, BARE),
            video.shape[0] / times[name].median(name),
            peak_mb=peak_on_gpu(call, video.device) / 1e6 if on_gpu else None,
        )
        for name, call in calls.items()
    ]


def forward(model: nn.Module, video: Tensor) -> Callable[[], Tensor]:
    """The logits of `model`, without gradients."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(video).logits

    return run


def compiled(model: nn.Module, mode: str | None = None) -> nn.Module:
    """The model compiled as one graph, of its own: what was compiled before is forgotten."""
    torch._dynamo.reset()
    whole: nn.Module = torch.compile(model, fullgraph=True, mode=mode)  # type: ignore[assignment]
    return whole


def _forward(way: str, model: Method, merged: Method, video: Tensor) -> Call:
    if way == "eager":
        return forward(merged, video)
    if way == "unmerged":
        return forward(model, video)
    if way == "cached":
        return _cached(model, video)
    if way == "stream":
        return live(merged, video)
    if way == "int8":
        return forward(int8(merged), video)
    if way in RUNTIMES:
        return runtime_call(way, merged, video)
    if way == "compiled":
        return forward(compiled(merged), video)
    half = copy.deepcopy(merged).to(torch.bfloat16)
    return forward(compiled(half) if way == "compiled-bf16" else half, video.to(torch.bfloat16))


def _cached(model: Method, video: Tensor) -> Call:
    check_cacheable(type(model))
    with torch.inference_mode():
        features = model.frozen(video)
    assert features is not None

    def run() -> Tensor:
        with torch.inference_mode():
            return model.readout(features).logits

    return run


def live(model: Method, video: Tensor) -> Callable[[], Tensor]:
    """The logits after one new frame, the frames of `video` coming again and again; first those of `video` itself."""
    ring = Ring(model)
    frames = itertools.cycle(video.unbind(1))
    for _ in range(model.frames - 1):
        ring.push(next(frames))

    def run() -> Tensor:
        ring.push(next(frames))
        return ring.logits()

    return run


def int8(model: Method) -> Method:
    """A copy for the CPU whose backbone multiplies bytes: weights by channel, activations by tensor and call.

    What a method adds beside its backbone stays as it is; methods multiply some of their weights with one another.
    """
    from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

    smaller = copy.deepcopy(model)
    with warnings.catch_warnings():
        # Torch points to torchao, a library of its own, as the place of its next generation.
        warnings.simplefilter("ignore")
        quantize_dynamic(smaller.backbone.blocks, {nn.Linear: default_dynamic_qconfig}, inplace=True)
    return smaller


def compare(logits: Any, reference: Tensor) -> tuple[float, bool]:
    """Largest difference of the largest |logit|, and whether the five best classes are the same in every video."""
    logits, reference = logits.float().cpu(), reference.float().cpu()
    best = min(5, reference.shape[-1])
    mine, theirs = (x.topk(best, dim=-1).indices.sort(dim=-1).values for x in (logits, reference))
    return ((logits - reference).abs().max() / reference.abs().max()).item(), torch.equal(mine, theirs)


def _backbone_adds(model: Method, video: Tensor) -> int:
    images = video[:1, :: video.shape[1] // model.backbone_frames].flatten(0, 1)
    return multiply_adds(model.backbone, images)


def pick_ways(asked: str, known: dict[str, str]) -> tuple[str, ...]:
    """Names separated by commas, or `all`.

    Raises:
        UnknownName: one that is not known.
    """
    names = tuple(known) if asked == "all" else tuple(word.strip() for word in asked.split(",") if word.strip())
    for name in names:
        if name not in known:
            raise unknown("way", name, known)
    return names
