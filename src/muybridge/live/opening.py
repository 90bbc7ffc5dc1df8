"""A recogniser's parts and a source of frames become a stream of predictions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from muybridge.errors import BadInput
from muybridge.live.camera import Camera
from muybridge.live.feed import Feed, Given, Source
from muybridge.live.pace import Sampler, choose_pace, count_pace
from muybridge.live.stream import Stream, check_options
from muybridge.methods.base import Method
from muybridge.structures import ModelSpec


def open_stream(
    method: Method,
    spec: ModelSpec,
    device: torch.device | str,
    frames: Iterable[Any] | Camera | str | Path | int,
    every: int = 1,
    *,
    top: int = 5,
    rate: float | None = None,
    fps: float | None = None,
    crops: int = 1,
) -> Stream:
    """Predictions of a live source; the arguments after `frames` are those of `Recogniser.stream`.

    Args:
        method: in evaluation mode, on `device`.
        spec: labels, sampling and transform.
        device: where the method is.
        frames: an iterable of frames, or a camera, or what `Camera` opens.
    """
    check_options(every, top, crops)
    if isinstance(frames, str | Path | int):
        choose_pace(spec.sampling, rate=rate)  # what cannot be used is told before a camera is opened
        frames = Camera(frames)
    source: Source
    if isinstance(frames, Camera):
        try:
            if fps is not None:
                raise BadInput("fps is for frames that are given one by one; a source tells its own.")
            pace = choose_pace(spec.sampling, frames.fps, rate)
            source = Feed(frames, Sampler(pace), method.frames)
        except BaseException:
            frames.close()
            raise
    else:
        if fps is None and rate is not None:
            raise BadInput("rate counts in seconds: say with fps= how many frames a second are given.")
        pace = count_pace(spec.sampling) if fps is None else choose_pace(spec.sampling, _above_0(fps), rate)
        source = Given(frames, Sampler(pace), fps or 0.0)
    return Stream(method, spec.transform, spec.labels, source, every, top, crops, device, (pace.note,))


def _above_0(fps: float) -> float:
    if not 0 < fps < float("inf"):
        raise BadInput(f"fps is {fps:g}; expected frames a second, above 0.")
    return fps
