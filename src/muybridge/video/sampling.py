"""Which frames and which crops of a video are looked at: integer arithmetic, no tensors, no global state.

Two rules of ours choose the frames. `segments` cuts the video into T equal parts and takes one frame of each (Temporal
Segment Networks, ECCV 2016). `stride` takes T frames, a fixed number of decoded frames apart, from one place; its
arithmetic, and that of the crops, is that of the published EVL (ECCV 2022). Where a video has too few frames some are
repeated, in order. The rules of the other published codes are in `published_sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from muybridge.errors import BadInput, unknown
from muybridge.structures import Sampling
from muybridge.video import published_sampling as published
from muybridge.video.draws import at_least_one
from muybridge.video.draws import generator as generator


def segments_train(count: int, frames: int, rng: np.random.Generator) -> list[int]:
    """One frame from each of `frames` equal parts of the video, drawn uniformly within the part.

    Args:
        count: how many frames the video has.
        frames: T.
        rng: where the draws come from.

    Returns:
        T indices, ascending.

    Raises:
        BadInput: `count` or `frames` is below 1.
    """
    at_least_one(count=count, frames=frames)
    edges = [part * count // frames for part in range(frames + 1)]
    return [int(rng.integers(low, max(high, low + 1))) for low, high in pairwise(edges)]


def segments_test(count: int, frames: int, views: int) -> list[list[int]]:
    """The centre of each of `frames` equal parts; several views lie evenly spread within the parts.

    Args:
        count: how many frames the video has.
        frames: T.
        views: V.

    Returns:
        [V][T] indices, each view ascending.

    Raises:
        BadInput: `count`, `frames` or `views` is below 1.
    """
    at_least_one(count=count, frames=frames, views=views)
    # View v looks at the share (2 v + 1) / 2 V of every part.
    return [
        [count * (2 * views * part + 2 * view + 1) // (2 * views * frames) for part in range(frames)]
        for view in range(views)
    ]


def stride_train(count: int, frames: int, stride: int, rng: np.random.Generator) -> list[int]:
    """`frames` frames, `stride` apart, from a place drawn uniformly.

    Args:
        count: how many frames the video has.
        frames: T.
        stride: decoded frames from one index to the next.
        rng: where the draws come from.

    Returns:
        T indices, ascending. Of a short video every `stride`-th frame, the last of these repeated.

    Raises:
        BadInput: `count`, `frames` or `stride` is below 1.
    """
    at_least_one(count=count, frames=frames, stride=stride)
    span = stride * (frames - 1) + 1
    if count > span:
        start = int(rng.integers(count - span + 1))
        return [start + stride * i for i in range(frames)]
    # Reference: repeats the last frame reached, not the last frame of the video as at test time.
    last = (count - 1) // stride
    return [stride * min(i, last) for i in range(frames)]


def stride_test(count: int, frames: int, stride: int, views: int) -> list[list[int]]:
    """`frames` frames, `stride` apart; several views lie evenly spread from the start to the end of the video.

    Args:
        count: how many frames the video has.
        frames: T.
        stride: decoded frames from one index to the next.
        views: V.

    Returns:
        [V][T] indices, each view ascending. Of a short video all views are the same, its last frame repeated.

    Raises:
        BadInput: `count`, `frames`, `stride` or `views` is below 1.
    """
    at_least_one(count=count, frames=frames, stride=stride, views=views)
    slide = max(count - (stride * (frames - 1) + 1), 0)
    if views == 1:
        starts = [slide // 2]
    else:
        # Reference: this order of operations in floating point, and halves to the even neighbour.
        starts = [round(slide / (views - 1) * view) for view in range(views)]
    return [[min(start + stride * i, count - 1) for i in range(frames)] for start in starts]


TRAIN_RULES: dict[str, Callable[[int, Sampling, np.random.Generator], list[int]]] = {
    "segments": lambda count, sampling, rng: segments_train(count, sampling.frames, rng),
    "stride": lambda count, sampling, rng: stride_train(count, sampling.frames, sampling.stride, rng),
    "tsn": lambda count, sampling, rng: published.spread_train(count, sampling.frames, rng),
    "uniform": lambda count, sampling, rng: published.spread_train(count, sampling.frames, rng),
    "dense": lambda count, sampling, rng: published.dense_train(count, sampling.frames, sampling.stride, rng),
    "linspace": lambda count, sampling, rng: published.linspace_train(count, sampling.frames, rng),
}

TEST_RULES: dict[str, Callable[[int, Sampling], list[list[int]]]] = {
    "segments": lambda count, sampling: segments_test(count, sampling.frames, sampling.views),
    "stride": lambda count, sampling: stride_test(count, sampling.frames, sampling.stride, sampling.views),
    "tsn": lambda count, sampling: published.tsn_test(count, sampling.frames, sampling.views),
    "uniform": lambda count, sampling: published.uniform_test(count, sampling.frames, sampling.views),
    "dense": lambda count, sampling: published.dense_test(count, sampling.frames, sampling.stride, sampling.views),
    "linspace": lambda count, sampling: published.linspace_test(count, sampling.frames, sampling.views),
}


def train_indices(count: int, sampling: Sampling, rng: np.random.Generator) -> list[int]:
    """One view for training by the rule of `sampling`: T indices, ascending unless `dense` loops.

    Args:
        count: how many frames the video has.
        sampling: the rule and its numbers.
        rng: where the draws come from.

    Raises:
        BadInput: `count` or a number of `sampling` is below 1.
        UnknownName: there is no such rule.
    """
    if sampling.rule not in TRAIN_RULES:
        raise unknown("sampling rule", sampling.rule, TRAIN_RULES)
    return TRAIN_RULES[sampling.rule](count, sampling, rng)


def test_indices(count: int, sampling: Sampling) -> list[list[int]]:
    """The temporal views at test time by the rule of `sampling`: `[V][T]` indices.

    Each view is ascending, unless `dense` or several views of `tsn` loop through a short video.

    Args:
        count: how many frames the video has.
        sampling: the rule and its numbers.

    Raises:
        BadInput: `count` or a number of `sampling` is below 1.
        UnknownName: there is no such rule.
    """
    if sampling.rule not in TEST_RULES:
        raise unknown("sampling rule", sampling.rule, TEST_RULES)
    return TEST_RULES[sampling.rule](count, sampling)


def crop_offsets(
    height: int, width: int, size: tuple[int, int], crops: int, steps: str = "ends"
) -> list[tuple[int, int]]:
    """Where the spatial crops at test time begin.

    Args:
        height: of the picture, in pixels.
        width: of the picture.
        size: (height, width) of a crop.
        crops: 1: the centre; 3: start, middle and end of the side on which more is left over, centred on the other.
        steps: `ends`: the third of three crops ends with the picture; `even`: it begins two steps of half the margin,
            rounded down, after the first, and so may end a pixel earlier (ILA, ZeroI2V).

    Returns:
        (top, left) of each crop.

    Raises:
        BadInput: the crop does not fit into the picture, `crops` is neither 1 nor 3, or there are no such steps.
    """
    down, across = height - size[0], width - size[1]
    if down < 0 or across < 0:
        raise BadInput(f"A crop of {size[0]} x {size[1]} pixels does not fit into {height} x {width}.")
    if crops == 1:
        return [(down // 2, across // 2)]
    if crops != 3:
        raise BadInput(f"crops is {crops}; expected 1 (the centre) or 3 (along the long side).")
    if steps not in ("ends", "even"):
        raise BadInput(f"crop_steps is {steps!r}; expected ends or even.")
    margin = max(down, across)
    places = (0, margin // 2, margin if steps == "ends" else margin // 2 * 2)
    if down > across:
        return [(top, across // 2) for top in places]
    return [(down // 2, left) for left in places]
