"""EVL's local temporal modules: a frame's features meet those of its neighbours (see `evl.py`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muybridge.methods.base import unfold_frames
from muybridge.methods.fused import stretched_products


class TemporalConv(nn.Module):
    """x + depthwise convolution of x over time with kernel 3, zeros outside.

    `weight` [D, 1, 3] and `bias` [D] are those of an `nn.Conv1d` and are drawn as it draws them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(3)
        self.weight = nn.Parameter(torch.empty(width, 1, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, L, D] -> the same; x stays as it is."""
        before, here, after = self.weight[:, 0].unbind(-1)  # each [D]
        # Fast: three passes, the second and third into what the first has made: no copy to [B * L, D, T] and back.
        y = torch.addcmul(self.bias, x, 1 + here)
        y[:, 1:].addcmul_(x[:, :-1], before)
        y[:, :-1].addcmul_(x[:, 1:], after)
        return y


class TemporalMatch(nn.Module):
    """What the temporal cross attention adds: sum_r a[p, r] w[p - r] over the frames before and after.

    Args:
        width: D.
        grid: (rows, columns) of patches.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        displacements = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.previous = nn.Parameter(torch.zeros(displacements, width))
        self.next = nn.Parameter(torch.zeros(displacements, width))

    def onto(self, y: Tensor, added: Tensor) -> Tensor:
        """y [B, T, L, D] -> y with what `added` returns."""
        added = added.permute(1, 2, 0, 3, 4).flatten(2, 3)  # [B, T, P, D]
        prefix = y.shape[2] - added.shape[2]
        return torch.cat([y[:, :, :prefix], y[:, :, prefix:] + added], dim=2)

    def added(self, affinity: Tensor, index: Tensor) -> Tensor:
        """
        Args:
            affinity: [B, 2, T - 1, P, P], see `affinity_maps`.
            index: [columns, P], see `stretch_index`.

        Returns:
            the match, [rows, B, T, columns, D]; the first frame has no previous one and the last no next.
        """
        # Fast: probabilities are added up by displacement first, so the tables are never gathered to a dense [P, P, D]
        # (118 MB for 14 x 14 patches, D = 768). A row of patches can be displaced by as many rows as there are, so it
        # reads a stretch of the table: one product a row, half as large as with the whole table (5 % -> 2.6 % of
        # ViT-B/16's multiply-adds). A patch's displacements all differ, so nothing collides.
        b, t = affinity.shape[0], affinity.shape[2] + 1
        rows, columns = self.grid
        shifts = rows * (2 * columns - 1)  # displacements that the patches of one row have
        index = index.expand(rows, b, t - 1, -1, -1)
        pairs = affinity.unflatten(3, self.grid).permute(1, 3, 0, 2, 4, 5)  # [2, rows, B, T - 1, columns, P]
        bins = affinity.new_zeros(2, rows, b, t, columns, shifts)
        bins[0, :, :, 1:].scatter_(-1, index, pairs[0])
        bins[1, :, :, : t - 1].scatter_(-1, index, pairs[1])
        before, after = bins.flatten(2, 4)  # [rows, B * T * columns, shifts]
        added = stretched_products(before, after, self.previous, self.next, 2 * columns - 1)
        return added.view(rows, b, t, columns, -1)

    def pair(self, affinity: Tensor, index: Tensor) -> Tensor:
        """What the match of two neighbouring frames adds to each, without what their other neighbours add.

        Args:
            affinity: [B, 2, 1, P, P], of these two.
            index: as of `added`.

        Returns:
            [rows, B, 2, columns, D], to the earlier frame and to the later one: as `added` returns it.
        """
        # Fast: half the products of `added`, whose first frame has no previous one and whose last has no next: 6 ms a
        # layer in place of 13 (ViT-B/16, one thread).
        rows, columns = self.grid
        stride = 2 * columns - 1
        index = index.expand(rows, len(affinity), -1, -1)
        pairs = affinity[:, :, 0].unflatten(2, self.grid).permute(1, 2, 0, 3, 4)  # [2, rows, B, columns, P]
        added = []
        for matches, table in ((pairs[1], self.next), (pairs[0], self.previous)):
            bins = affinity.new_zeros(rows, len(affinity), columns, rows * stride).scatter_(-1, index, matches)
            stretches = table.unfold(0, rows * stride, stride).transpose(1, 2)  # [rows, shifts, D]
            added.append((bins.flatten(1, 2) @ stretches).unflatten(1, (-1, columns)))
        return torch.stack(added, dim=2)


def affinity_maps(q: Tensor, k: Tensor, frames: int, prefix: int) -> Tensor:
    """Probability, averaged over heads, that patch p of a frame matches patch r of its neighbour.

    Args:
        q: [B * T, h, L, d], the backbone's queries.
        k: [B * T, h, L, d], its keys.
        frames: T.
        prefix: tokens before the patches; left out on both sides and of the softmax.

    Returns:
        [B, 2, T - 1, P, P], fp32 (fp64 of fp64): [:, 0, i] matches frame i + 1 with
        frame i, [:, 1, i] frame i with frame i + 1.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    q = unfold_frames(q[:, :, prefix:].to(exact), frames)  # [B, T, h, P, d]
    k = unfold_frames(k[:, :, prefix:].to(exact), frames).transpose(-1, -2)
    scale = q.shape[-1] ** -0.5
    if q.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _affinity_in_place(q, k, scale)
    q = q * scale

    def match(here: int, there: int) -> Tensor:
        return (q[:, here] @ k[:, there]).softmax(dim=-1).mean(dim=1)  # [B, P, P]

    # Fast: a pair of frames at a time, whose scores of all heads fit into a cache: half the time of all at once.
    previous = [match(t, t - 1) for t in range(1, frames)]
    following = [match(t, t + 1) for t in range(frames - 1)]
    if not previous:
        return q.new_zeros(q.shape[0], 2, 0, q.shape[-2], q.shape[-2])
    return torch.stack([torch.stack(previous, dim=1), torch.stack(following, dim=1)], dim=1)


def _affinity_in_place(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q [B, T, h, P, d], k [B, T, h, d, P] -> as `affinity_maps`."""
    # Fast: one pair of one video at a time, whose scores of all heads fit into a cache and are written over; queries
    # and keys are read where they lie.
    b, t, heads, count, _ = q.shape
    out = q.new_empty(b, 2, t - 1, count, count)
    scores = q.new_empty(heads, count, count)
    for video in range(b):
        for first in range(t - 1):
            for way, (here, there) in enumerate(((first + 1, first), (first, first + 1))):
                torch.baddbmm(scores, q[video, here], k[video, there], beta=0, alpha=scale, out=scores)
                torch.softmax(scores, dim=-1, out=scores)
                torch.mean(scores, dim=0, out=out[video, way, first])
    return out


def stretch_index(grid: tuple[int, int]) -> Tensor:
    """Where, among the displacements that a row of patches can have, the one from patch r to that row's patch p is.

    Returns:
        [columns, P], int64: by the column of p and by r; the same for every row.
    """
    rows, columns = grid
    down = (rows - 1 - torch.arange(rows)) * (2 * columns - 1)
    across = torch.arange(columns)[:, None] - torch.arange(columns)[None] + columns - 1
    return (down[None, :, None] + across[:, None]).flatten(1)  # [columns, rows, columns] -> [columns, P]
