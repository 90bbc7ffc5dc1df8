"""How much each frame mattered: what the class's probability loses without it.

A frame is replaced by the one before it, and then by the one after it, as if the film had stood still there; the fall
of the probability is the mean of both. It asks nothing of a method but its answer, so it is true for all of them, and a
frame that is not looked at, or that shows what its neighbours show, has exactly 0. Below 0: the class is likelier
without the frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from muybridge.methods.base import Method

BATCH = 4  # videos at once


@torch.no_grad()
def without_each(
    method: Method, video: Tensor, index: int, advance: Callable[[int], None] = lambda done: None
) -> Tensor:
    """The probability of the class `index` without each frame.

    Args:
        method: any method, in evaluation mode.
        video: [1, T, 3, H, W], normalised.
        index: of the class.
        advance: told how many more of the `passes(T)` videos are done.

    Returns:
        [T], fp32 on the CPU, the mean over both neighbours. A film of one frame is replaced by its mean colour.
    """
    variants = list(_variants(video[0]))
    sums, counts = torch.zeros(video.shape[1]), torch.zeros(video.shape[1])
    for start in range(0, len(variants), BATCH):
        part = variants[start : start + BATCH]
        batch = torch.stack([_replaced(video[0], here, there) for here, there in part])
        scores = method(batch).logits.float().softmax(dim=-1)[:, index].cpu()
        for (here, _), score in zip(part, scores, strict=True):
            sums[here] += score
            counts[here] += 1
        advance(len(part))
    return sums / counts


def passes(frames: int) -> int:
    """How many videos `without_each` looks at."""
    return max(1, 2 * frames - 2)


def _variants(video: Tensor) -> list[tuple[int, int | None]]:
    """(frame, the one put in its place)."""
    frames = len(video)
    if frames == 1:
        return [(0, None)]
    return [(t, other) for t in range(frames) for other in (t - 1, t + 1) if 0 <= other < frames]


def _replaced(video: Tensor, here: int, there: int | None) -> Tensor:
    """[T, 3, H, W] -> the same with one frame replaced."""
    changed = video.clone()
    changed[here] = video[here].mean(dim=(1, 2), keepdim=True) if there is None else video[there]
    return changed
