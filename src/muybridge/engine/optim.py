"""Optimiser and schedule, from a recipe's `train` fields."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from muybridge.engine.unfreeze import backbone_groups
from muybridge.errors import unknown
from muybridge.methods.base import Method
from muybridge.structures import TrainArgs

Factor = Callable[[int], float]


def make_optimizer(method: Method, args: TrainArgs) -> AdamW:
    """AdamW over the method's trainable parameters, and those of its backbone that were unfrozen."""
    # Fast: the fused update is one pass over the parameters (CPU and CUDA both have it).
    groups = [*method.parameter_groups(args), *backbone_groups(method, args)]
    return AdamW(groups, lr=args.lr, betas=args.betas, fused=True)


def rate_factor(args: TrainArgs, steps_per_epoch: int, peak: float | None = None) -> Factor:
    """The learning rate of an optimiser step as a share of its group's peak, by `args.schedule`.

    Args:
        args: warmup, warmup_start, schedule, epochs, lr, min_lr and accumulate are read.
        steps_per_epoch: optimiser steps.
        peak: of the group, by default `args.lr`. Only `ila` makes a difference: its rates all end at `min_lr` itself,
            as published; those of the other schedules at the share `min_lr / lr` of their peaks.

    Raises:
        UnknownName: there is no such schedule.
    """
    if args.schedule not in SCHEDULES:
        raise unknown("train.schedule", args.schedule, SCHEDULES)
    top = peak if peak is not None and args.schedule == "ila" else args.lr
    return SCHEDULES[args.schedule](args, steps_per_epoch, args.min_lr / top if top else 0.0)


def make_schedule(optimizer: torch.optim.Optimizer, args: TrainArgs, steps_per_epoch: int) -> LambdaLR:
    """The schedule of `rate_factor` for every group, to be stepped once per optimiser step."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return LambdaLR(optimizer, [rate_factor(args, steps_per_epoch, peak) for peak in peaks])


def _cosine(progress: float, floor: float) -> float:
    """From 1 at progress 0 to `floor` at 1 and after."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _warmup_then(args: TrainArgs, steps_per_epoch: int, floor: float) -> Factor:
    """Linear from 1 / warm-up steps to 1 over the warm-up, then over the remaining steps a cosine, or constant."""
    total = args.epochs * steps_per_epoch
    warmup = min(round(args.warmup * steps_per_epoch), total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if args.schedule == "constant":
            return 1.0
        return _cosine((step - warmup) / max(total - warmup, 1), floor)

    return factor


def _ila(args: TrainArgs, steps_per_epoch: int, floor: float) -> Factor:
    """Linear from 0, then a cosine over ALL steps: where the warm-up of 5 of 50 epochs ends, it begins at 0.976."""
    total = args.epochs * steps_per_epoch * args.accumulate
    warmup = int(args.warmup * steps_per_epoch * args.accumulate)

    def factor(step: int) -> float:
        batch = step * args.accumulate  # counted in batches, moved by steps; the first step's rate is 0
        return batch / warmup if batch < warmup else _cosine(batch / total, floor)

    return factor


def _dist(args: TrainArgs, steps_per_epoch: int, floor: float) -> Factor:
    """A cosine over the fractional epoch; before it linear from `warmup_start` to its value there."""

    def factor(step: int) -> float:
        epoch = step / steps_per_epoch
        if epoch < args.warmup:
            end = _cosine(args.warmup / args.epochs, floor)
            return args.warmup_start + (end - args.warmup_start) * epoch / args.warmup
        return _cosine(epoch / args.epochs, floor)

    return factor


def _zeroi2v(args: TrainArgs, steps_per_epoch: int, floor: float) -> Factor:
    """A warm-up per step, linear from `warmup_start`, times a cosine that moves once per epoch, from epoch 0."""
    # Reference: mmengine's warm-up over n iterations is complete in the n-th, after n - 1 changes.
    changes = int(args.warmup * steps_per_epoch) - 1

    def factor(step: int) -> float:
        warm = min(step / changes, 1.0) if changes > 0 else 1.0
        return (args.warmup_start + (1 - args.warmup_start) * warm) * _cosine(
            step // steps_per_epoch / args.epochs, floor
        )

    return factor


SCHEDULES: dict[str, Callable[[TrainArgs, int, float], Factor]] = {
    "cosine": _warmup_then,
    "constant": _warmup_then,
    "ila": _ila,
    "dist": _dist,
    "zeroi2v": _zeroi2v,
}
