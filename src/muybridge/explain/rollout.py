"""Attention roll-out: which patches the tokens that are read at the end are made of, as attention alone tells.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. A token after a block is half itself (the
residual) and half what it attended to, averaged over heads; from the last block back to the first these halves are
followed into the patches. With A_i the attention of block i and r the share of every token:

    r = r (I + A_i) / 2        i = last, ..., first

Attention that leads into another frame (ZeroI2V's re-assigned heads, AIM's attention over time) is followed there, so
frames can differ in their share. It tells where information came from, not which class it spoke for.

The attention is seen from outside: for as long as `watched` lasts, a hook hangs onto each `attn` and passes its seam
`edit` a function that looks on. Any method that runs the backbone's blocks is seen, whatever it does between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from muybridge.backbones.vit import Attention
from muybridge.errors import BadInput
from muybridge.methods.base import Method


@dataclass
class Watched:
    """Attention of one forward pass of one video.

    Attributes:
        steps: in order; each is offset in frames -> [T, Q, L], the mean over heads, of which only the heads (or the
            share of their channels) that look at that offset count, so that rows of all offsets sum to 1.
        through_time: in place of that an attention among the tokens of one place: [L, T, T].
    """

    steps: list[dict[int, Tensor] | Tensor] = field(default_factory=list)


@contextmanager
def watched(method: Method, batch: int = 1) -> Iterator[Watched]:
    """Collect the attention of `method`'s backbone while the context lasts; for a batch of one video."""
    seen, frames = Watched(), batch * method.backbone_frames
    shares = method.head_frames()

    def look(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = named.get("edit", inputs[1] if len(inputs) > 1 else None)

        def edit(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            length = k.shape[2]
            if given is not None:
                q, k, v = given(q, k, v)
            if q.shape[0] == frames:
                seen.steps.append(by_offset(q, k, shares))
            elif length == frames:
                seen.steps.append(by_offset(q, k, {0: torch.ones(q.shape[1])})[0])
            return q, k, v

        return (inputs[0],), {"edit": edit}

    handles = [
        module.register_forward_pre_hook(look, with_kwargs=True)
        for module in method.backbone.blocks.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def by_offset(q: Tensor, k: Tensor, shares: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Attention of q [N, h, Q, d] to k [N, h, L, d], averaged over heads by `shares` -> offset -> [N, Q, L]."""
    heads = q.shape[1]
    maps: dict[int, list[Tensor]] = {offset: [] for offset in shares}
    # An image at a time: the attention of all heads and frames of a large model would take half a gigabyte.
    for one_q, one_k in zip(q, k, strict=True):
        probability = (one_q.float() @ one_k.float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        for offset, share in shares.items():
            maps[offset].append(torch.einsum("h,hql->ql", share.to(probability) / heads, probability))
    return {offset: torch.stack(images) for offset, images in maps.items()}


def rollout(seen: Watched, read: Tensor) -> Tensor:
    """Follow what is read at the end back to the tokens that entered the first block.

    Args:
        seen: the attention of the pass.
        read: [T, L], how much each token of each frame is read at the end; it sums to 1.

    Returns:
        [T, L], likewise.
    """
    share = read.float()
    for step in reversed(seen.steps):
        if isinstance(step, Tensor):  # [L, T, T], among the tokens of one place
            moved = torch.einsum("tl,lts->sl", share, step)
        else:
            moved = torch.zeros_like(share)
            for offset, attention in step.items():
                # Where the last block makes only the tokens that are read, only these have attended.
                went = torch.einsum("tq,tql->tl", share[:, : attention.shape[1]], attention)
                moved.index_add_(0, sources(offset, len(share), share.device), went)
        share = (share + moved) / 2
    return share


def sources(offset: int, frames: int, device: torch.device | str = "cpu") -> Tensor:
    """The frame that each frame sees at `offset`, itself where there is none: int64 [T]."""
    here = torch.arange(frames, device=device)
    there = here + offset
    return torch.where((there >= 0) & (there < frames), there, here)


@torch.no_grad()
def rollout_map(method: Method, video: Tensor) -> Tensor:
    """Roll-out of the backbone's attention over patches.

    Args:
        method: any method that runs the backbone's blocks.
        video: [1, T, 3, H, W], normalised.

    Returns:
        [S, rows, columns] for the S = `backbone_frames` frames that the backbone reads. All shares, with those of the
        tokens before the patches, sum to 1.

    Raises:
        BadInput: the method does not run the blocks' attention.
    """
    config = method.backbone.config
    with watched(method) as seen:
        method(video)
    if not seen.steps:
        raise BadInput(
            f"{type(method).__name__} does not run the attention of its backbone's blocks frame by frame, so there is "
            "none to roll out; choose the method 'gradient'."
        )
    grid, frames = config.grid_of(method.image_size), method.backbone_frames
    read = torch.zeros(frames, config.prefix + grid[0] * grid[1], device=video.device)
    if config.pool == "token":
        read[:, 0] = 1 / frames
    else:
        read[:, config.prefix :] = 1 / (frames * grid[0] * grid[1])
    return rollout(seen, read)[:, config.prefix :].unflatten(-1, grid)
