"""How the published codes of ILA, ZeroI2V and DiST choose frames, index for index: pure arithmetic, no global state.

`tsn` (ILA) and `uniform` (ZeroI2V) cut the video into T equal parts of the span from the first to the last frame and
draw alike in training; at test time they differ. `dense` (ZeroI2V) takes frames a fixed number apart and loops through
short videos. `linspace` (DiST) cuts the span from 0 to the number of frames in fp32. Halves are rounded to the even
neighbour, as NumPy and Python do.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from muybridge.video.draws import at_least_one, generator


def spread_train(count: int, frames: int, rng: np.random.Generator) -> list[int]:
    """One frame drawn from each of T parts, both ends included: the training rule of ILA and of ZeroI2V's `uniform`.

    Args:
        count: how many frames the video has.
        frames: T.
        rng: where the draws come from.

    Returns:
        T indices, ascending; neighbouring parts share a frame, so one may be drawn twice.

    Raises:
        BadInput: `count` or `frames` is below 1.
    """
    at_least_one(count=count, frames=frames)
    return [int(rng.integers(low, high + 1)) for low, high in pairwise(_spread_edges(count, frames))]


def tsn_test(count: int, frames: int, views: int) -> list[list[int]]:
    """ILA at test time.

    One view: the middle of each part of `spread_train`. Several: one frame drawn from each of T equal whole-numbered
    parts, other draws for every view. The published code draws anew in every run; here the draws depend on the number
    of frames and the view alone, so an accuracy can be repeated.

    Args:
        count: how many frames the video has.
        frames: T.
        views: V.

    Returns:
        [V][T] indices. Ascending, but for several views of a video of fewer than T frames, which begins again at 0
        where rounding reaches its end.

    Raises:
        BadInput: `count`, `frames` or `views` is below 1.
    """
    at_least_one(count=count, frames=frames, views=views)
    if views == 1:
        return [[(low + high) // 2 for low, high in pairwise(_spread_edges(count, frames))]]
    part = count // frames
    if part == 0:
        return [[round(i * (count / frames)) % count for i in range(frames)] for _ in range(views)]
    return [
        [i * part + int(draw) for i, draw in enumerate(generator(0, count, view).integers(0, part, frames))]
        for view in range(views)
    ]


def uniform_test(count: int, frames: int, views: int) -> list[list[int]]:
    """ZeroI2V's uniform rule at test time: view v looks at the share (v + 1) / (V + 1) of every part.

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
    starts = _spread_edges(count, frames)[:-1]
    gap = (count - 1) / frames
    return [[start + int(gap / (views + 1) * (view + 1)) for start in starts] for view in range(views)]


def dense_train(count: int, frames: int, stride: int, rng: np.random.Generator) -> list[int]:
    """`frames` frames, `stride` apart, from a place drawn uniformly (ZeroI2V, as MMAction2).

    Args:
        count: how many frames the video has.
        frames: T.
        stride: decoded frames from one index to the next.
        rng: where the draws come from.

    Returns:
        T indices; a video that is too short begins again at its start.

    Raises:
        BadInput: `count`, `frames` or `stride` is below 1.
    """
    at_least_one(count=count, frames=frames, stride=stride)
    # Reference: a view is counted as frames * stride long, so the last places of the video are never drawn.
    places = count - frames * stride + 1
    start = int(rng.integers(places)) if places > 0 else 0
    return [(start + i * stride) % count for i in range(frames)]


def dense_test(count: int, frames: int, stride: int, views: int) -> list[list[int]]:
    """`frames` frames, `stride` apart; several views evenly from the start to the end of the video.

    Args:
        count: how many frames the video has.
        frames: T.
        stride: decoded frames from one index to the next.
        views: V.

    Returns:
        [V][T] indices; a video that is too short begins again at its start, the same in all views.

    Raises:
        BadInput: `count`, `frames`, `stride` or `views` is below 1.
    """
    at_least_one(count=count, frames=frames, stride=stride, views=views)
    slide = max(count - (stride * (frames - 1) + 1), 0)
    starts = [slide // 2] if views == 1 else [round(view * slide / (views - 1)) for view in range(views)]
    return [[(start + i * stride) % count for i in range(frames)] for start in starts]


def linspace_train(count: int, frames: int, rng: np.random.Generator) -> list[int]:
    """A place drawn uniformly from each of T equal parts, rounded to a frame (DiST).

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
    edges = _linspace(count, frames)
    return _to_frames(edges[:-1] + np.diff(edges) * rng.random(frames, dtype=np.float32), count)


def linspace_test(count: int, frames: int, views: int) -> list[list[int]]:
    """One view: the middle of each of T equal parts. Several: view v looks at the share (v + 1) / V, so the last view
    at the ends of the parts (DiST).

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
    edges = _linspace(count, frames)
    low, high = edges[:-1], edges[1:]
    if views == 1:
        return [_to_frames((low + high) / np.float32(2), count)]
    return [_to_frames(low + (high - low) * np.float32(view + 1) / np.float32(views), count) for view in range(views)]


def _spread_edges(count: int, frames: int) -> list[int]:
    gap = (count - 1) / frames
    return [round(gap * i) for i in range(frames + 1)]


def _linspace(count: int, frames: int) -> npt.NDArray[np.float32]:
    # Reference: torch.linspace in fp32; equal to this to the bit where `frames` is a power of two, as published.
    return np.linspace(0, count, frames + 1, dtype=np.float32)


def _to_frames(places: npt.NDArray[np.float32], count: int) -> list[int]:
    return [int(place) for place in np.rint(np.clip(places, 0, count - 1))]
