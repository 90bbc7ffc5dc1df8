"""ILA's stored outputs."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from muybridge.methods.heads import TextHead
from muybridge.methods.ila import ILA
from muybridge.published.ila import names
from muybridge.testing.stored.base import Run

IN_A_BLOCK = {
    "points": "layers.{}.points",
    "mask_earlier": "layers.{}.mask_earlier",
    "mask_later": "layers.{}.mask_later",
    "aligned_head": "layers.{}.aligned",
    "interactive_head": "layers.{}.inter",
    "tokens_head": "block.{}",
    "tokens_sum": "block.{}",
}
HEAD_TOKENS, HEAD_CHANNELS, PAIR_CHANNELS = 3, 8, 4


def output(name: str, run: Run) -> Tensor | None:
    """Our tensor for the stored output `name`; None if there is no such output."""
    method = run.method
    assert isinstance(method, ILA)
    if name in ("logits", "frame_features"):
        return run.trace[name]
    if name == "cos_loss":
        return losses(run)
    if name == "loss":
        loss = run.trace["logits"].float().logsumexp(-1).sum()
        return (loss + losses(run).sum() if run.case.loss == "logsumexp+aux" else loss).reshape(1)
    if name == "video_features":  # what the authors' `mit` returns: with a linear head that is the logits
        return run.trace["logits" if method.config.head == "linear" else "video_feature"]
    if name == "logits_eval_batch_statistics":
        return with_batch_statistics(method, run.video)
    if found := re.fullmatch(r"text_features(?:_first(\d+))?", name):
        features = run.label_features
        return None if features is None else features[: int(found[1])] if found[1] else features
    if found := re.fullmatch(r"after\.block(\d+)\.(.+)_head", name):
        ours = {theirs: ours for ours, theirs in names(method).items()}
        key = ours.get(f"visual.transformer.resblocks.{found[1]}.message_attn.{found[2]}")
        return None if key is None else method.state_dict()[key].flatten()[:HEAD_CHANNELS]
    if found := re.fullmatch(r"block(\d+)\.(\w+)", name):
        return of_block(int(found[1]), found[2], run)
    return None


def losses(run: Run) -> Tensor:
    """[N]: one value a block."""
    return torch.stack([run.trace[f"layers.{i}.loss"] for i in range(run.method.backbone.config.depth)])


def of_block(i: int, name: str, run: Run) -> Tensor | None:
    """What is stored of block i: points, masks, and the first numbers or the sum of larger tensors."""
    if i >= run.method.backbone.config.depth:
        return None
    if name == "pooled_pairs_head":
        sides = [run.trace[f"layers.{i}.pooled_{side}"][..., :PAIR_CHANNELS] for side in ("earlier", "later")]
        return torch.cat(sides, dim=-1)
    if name not in IN_A_BLOCK:
        return None
    tensor = run.trace[IN_A_BLOCK[name].format(i)]
    if name.startswith("tokens"):
        tensor = tensor.unflatten(0, (-1, run.method.frames))
    if name.endswith("_sum"):
        return tensor.sum(dim=-1)
    return tensor[..., :HEAD_TOKENS, :HEAD_CHANNELS] if name.endswith("_head") else tensor


@torch.no_grad()
def with_batch_statistics(method: ILA, video: Tensor) -> Tensor:
    """Logits of the model that evaluates with the statistics of the batch."""
    labels = {"label_features": method.head.features} if isinstance(method.head, TextHead) else {}
    config = replace(method.config, batch_statistics=True)
    other = type(method)(method.backbone, config, method.classes, method.frames, method.image_size, **labels)
    other.load_own(method.own_state())
    return other.eval()(video).logits
