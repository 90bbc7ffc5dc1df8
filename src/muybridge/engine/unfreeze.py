"""Training the backbone too, or its last blocks, at a rate of its own.

    unfreeze(method, "last:2")            # before the optimiser is made
    backbone_groups(method, args)         # beside method.parameter_groups(args)

What is unfrozen are the parameters that the method's gradient reaches, and no others: a method that reads no more than
the blocks' tokens leaves the backbone's last norm as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from muybridge.errors import BadInput
from muybridge.methods.base import Method
from muybridge.recipes.check import blocks_to_unfreeze
from muybridge.structures import TrainArgs


def unfreeze(method: Method, what: str) -> int:
    """Make parameters of the backbone trainable.

    Args:
        method: whose `freezes_backbone` becomes False, unless nothing is to be unfrozen.
        what: `none`; `last:N`: the last N blocks that the method reads, and what it reads after them; `all`.

    Returns:
        How many numbers of the backbone are trained now.

    Raises:
        BadInput: another `what`, or more blocks than the method reads.
    """
    wanted = blocks_to_unfreeze(what)
    if not wanted:
        return 0
    reached = reached_by_gradient(method)
    if not reached:
        raise BadInput(
            f"No gradient of this {type(method).__name__} reaches its backbone, so nothing of it can be trained: "
            "its walk over the blocks runs without a graph. Decorate it with graph_where_trained, not torch.no_grad."
        )
    blocks = sorted({number for name in reached if (number := _block(name)) is not None})
    if wanted != math.inf and wanted > len(blocks):
        raise BadInput(f"train.unfreeze is {what}; this {type(method).__name__} reads {len(blocks)} blocks.")
    first = blocks[-int(wanted)] if wanted != math.inf else 0
    method.freezes_backbone = False
    trained = 0
    for name, parameter in method.backbone.named_parameters():
        number = _block(name)
        late = number >= first if number is not None else wanted == math.inf or _after_blocks(name)
        if name in reached and late:
            parameter.requires_grad_(True)
            trained += parameter.numel()
    return trained


def reached_by_gradient(method: Method) -> set[str]:
    """Names of the backbone's parameters that the loss depends on; found on tensors without content, in no time."""
    with torch.random.fork_rng(devices=[]):
        twin = copy.deepcopy(method).to("meta").train()
        twin.freezes_backbone = False
        twin.backbone.requires_grad_(True)
        kind = method.backbone.pos_embed.dtype
        video = torch.empty(2, method.frames, 3, *method.image_size, dtype=kind, device="meta")
        with torch.enable_grad():
            output = twin(video)
            (output.logits.sum() + sum(output.losses.values())).backward()
    return {name for name, parameter in twin.backbone.named_parameters() if parameter.grad is not None}


def backbone_groups(method: Method, args: TrainArgs) -> list[dict[str, Any]]:
    """Optimiser groups over the unfrozen parameters of the backbone; none if it is frozen.

    The rate is `backbone_lr`, times `layer_decay` for every block that lies behind. Vectors, tokens and the table of
    positions are decayed only with `decay_all`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _unfrozen(method):
        number = _block(name)
        if number is None:
            number = method.backbone.config.depth if _after_blocks(name) else -1
        behind = method.backbone.config.depth - number
        plain = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token", "reg_token", "latent"))
        decay = 0.0 if plain and not args.decay_all else args.weight_decay
        groups.setdefault((args.backbone_lr * args.layer_decay**behind, decay), []).append(parameter)
    return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]


def _unfrozen(method: Method) -> Iterator[tuple[str, nn.Parameter]]:
    beside = {id(parameter) for _, parameter in method.trained_parameters()}
    for name, parameter in method.backbone.named_parameters():
        if parameter.requires_grad and id(parameter) not in beside:
            yield name, parameter


def _block(name: str) -> int | None:
    """The number of the block that a parameter of the backbone belongs to."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


def _after_blocks(name: str) -> bool:
    return name.split(".")[0] in ("norm", "attn_pool", "head")
