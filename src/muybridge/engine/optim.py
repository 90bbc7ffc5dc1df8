"""Optimiser and schedule, from a recipe's `train` fields."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from muybridge.methods.base import Method
from muybridge.structures import TrainArgs


def make_optimizer(method: Method, args: TrainArgs) -> AdamW:
    """AdamW over the method's trainable parameters."""
    # Fast: the fused update is one pass over the parameters (CPU and CUDA both have it).
    return AdamW(method.parameter_groups(args), lr=args.lr, betas=args.betas, fused=True)


def rate_factor(args: TrainArgs, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of an optimiser step as a share of its group's peak.

    Linear from 1 / warm-up steps to 1 over the warm-up, then a cosine to `min_lr` or constant.

    Args:
        args: warmup, schedule, epochs, lr and min_lr are read.
        steps_per_epoch: optimiser steps.
    """
    total = args.epochs * steps_per_epoch
    warmup = min(round(args.warmup * steps_per_epoch), total)
    floor = args.min_lr / args.lr if args.lr else 0.0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if args.schedule == "constant":
            return 1.0
        progress = (step - warmup) / max(total - warmup, 1)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return factor


def make_schedule(optimizer: torch.optim.Optimizer, args: TrainArgs, steps_per_epoch: int) -> LambdaLR:
    """The schedule of `rate_factor`, to be stepped once per optimiser step."""
    return LambdaLR(optimizer, rate_factor(args, steps_per_epoch))
