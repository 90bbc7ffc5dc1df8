"""From a video to an explanation, in a straight line: read, answer, look, leave frames out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muybridge.errors import BadInput, VideoError, unknown
from muybridge.explain.explanation import Explanation, Frame, Frames
from muybridge.explain.gradient import gradient_map
from muybridge.explain.importance import without_each
from muybridge.explain.rollout import rollout_map
from muybridge.methods.base import Method
from muybridge.predicting.asking import best_of
from muybridge.predicting.reading import check_given, open_given
from muybridge.structures import Looked, ModelSpec, Sampling, SourceArgs
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_boxes, test_video

HOW = ("auto", "attention", "rollout", "gradient")
SHOWN = 3  # classes


def explain(
    method: Method,
    spec: ModelSpec,
    video: str | Path | Frames | Tensor,
    *,
    device: torch.device | str = "cpu",
    label: str | None = None,
    how: str = "auto",
    shown: str | None = None,
    importance: bool = True,
    reading: SourceArgs | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Explanation:
    """Where a method looks in one video, and how much each frame matters; `Recogniser.explain` has the arguments.

    Args:
        method: in evaluation mode, on `device`.
        spec: its labels, sampling and transform.
        device: where `method` is.
        reading: its `source`: limits of what the file may cost, and the decoder.
        advance: told how many more of the `importance.passes(T)` passes are done.
    """
    if how not in HOW:
        raise unknown("way to explain", how, HOW)
    if label is not None and label not in spec.labels:
        raise unknown("class", label, spec.labels)
    source = _source(video)
    pictures, indices, seconds = _read(source, spec.sampling, reading)
    single = spec.sampling.views * spec.sampling.crops == 1
    middle = spec.sampling.crops // 2
    inputs = test_video(pictures, spec.transform, spec.sampling.crops, single)[middle][None].to(device)
    with torch.no_grad():
        scores = method(inputs).logits[0].float().softmax(dim=-1).cpu()
    best = best_of(scores, spec.labels, SHOWN, source if isinstance(source, str) else "these frames")
    index = spec.labels.index(label) if label is not None else best[0].index

    how, found = _look(method, inputs, index, how)
    maps = {name: tensor[0].detach().float().cpu() for name, tensor in found.maps.items()}
    if shown is not None and shown not in maps:
        raise unknown("map", shown, tuple(maps))
    shown = shown or next(iter(maps))
    without = without_each(method, inputs, index, advance) if importance else None
    shares = maps[shown].sum(dim=(1, 2))
    shares = shares / shares.nansum().clamp_min(1e-12)
    boxes = test_boxes(pictures.shape[1], pictures.shape[2], spec.transform, spec.sampling.crops, single)
    return Explanation(
        source=source,
        model=spec.method,
        label=spec.labels[index],
        index=index,
        score=float(scores[index]),
        predictions=best,
        how=how,
        name=shown,
        maps=maps,
        points={name: tensor[0].detach().float().cpu() for name, tensor in found.points.items()},
        frames=tuple(
            Frame(
                frame,
                float(seconds[frame]) if seconds is not None else None,
                float(scores[index] - without[t]) if without is not None else None,
                float(without[t]) if without is not None else None,
                float(shares[t]) if torch.isfinite(shares[t]) else None,
            )
            for t, frame in enumerate(indices)
        ),
        pictures=pictures,
        box=_covered(boxes[middle], method),
        notes=_notes(spec.sampling, method),
        reading=reading or SourceArgs(),
    )


def _look(method: Method, video: Tensor, index: int, how: str) -> tuple[str, Looked]:
    """The maps [1, T, rows, columns] by the way asked for, and which way it was."""
    if how in ("auto", "attention"):
        with torch.no_grad():
            looked = method.looked(method.trace(video))
        if looked.maps:
            return "attention", looked
        if how == "attention":
            raise BadInput(
                f"{type(method).__name__} adds nothing of its own that looks at patches; choose 'rollout' (the "
                "backbone's attention) or 'gradient' (what speaks for the class)."
            )
        how = "gradient"
    if how == "rollout":
        return how, Looked({"attention roll-out": _spread(rollout_map(method, video), method.frames)})
    return how, Looked({"gradient": _spread(gradient_map(method, video, index), method.frames)})


def _spread(seen: Tensor, frames: int) -> Tensor:
    """Maps [S, rows, columns] of the frames that the backbone reads -> [1, T, rows, columns], NaN for the others."""
    spread = seen.new_full((1, frames, *seen.shape[1:]), torch.nan)
    spread[0, :: frames // len(seen)] = seen
    return spread


def _source(video: object) -> str | Frames:
    """A path, or all frames of a video."""
    given = check_given(video)
    if isinstance(given, bytes):
        raise BadInput("the bytes of a file came; expected a path, or frames uint8 [T, H, W, 3], RGB.")
    if isinstance(given, Tensor):
        return given.cpu().numpy()
    return given if isinstance(given, np.ndarray) else str(given)


def _read(
    video: str | Frames, sampling: Sampling, reading: SourceArgs | None
) -> tuple[Frames, list[int], np.ndarray | None]:
    """The frames of the middle view [T, H, W, 3], their indices, and when every frame of the video is shown."""
    if isinstance(video, np.ndarray):
        indices = test_indices(len(video), sampling)[sampling.views // 2]
        return video[indices], indices, None
    with open_given(video, reading) as opened:
        indices = test_indices(opened.frame_count, sampling)[sampling.views // 2]
        try:
            seconds = opened.seconds()
        except VideoError:
            seconds = None
        return opened.read(indices), indices, seconds


def _covered(box: tuple[float, float, float, float], method: Method) -> tuple[float, float, float, float]:
    """The part of what the method reads that whole patches cover."""
    (rows, columns), patch = method.backbone.config.grid_of(method.image_size), method.backbone.config.patch
    top, left, height, width = box
    return (
        top,
        left,
        height * rows * patch[0] / method.image_size[0],
        width * columns * patch[1] / method.image_size[1],
    )


def _notes(sampling: Sampling, method: Method) -> tuple[str, ...]:
    notes = []
    views = sampling.views * sampling.crops
    if views > 1:
        notes.append(f"The model predicts by the mean of {views} views; the middle one is explained.")
    if method.backbone_frames != method.frames:
        notes.append(f"The image transformer reads {method.backbone_frames} of the {method.frames} frames.")
    return tuple(notes)
