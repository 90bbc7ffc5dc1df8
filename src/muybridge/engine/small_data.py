"""What a training on few or uneven data needs: enough epochs, and classes that weigh alike."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from muybridge.engine.setting import draws_seed
from muybridge.structures import Item, Recipe, TrainArgs
from muybridge.video.sources import Source

STEPS = 500  # of the optimiser, that `auto` aims at; benchmarks/small_data.py
FEWEST, MOST = 10, 200  # epochs
BETA = 0.999  # of the effective number of videos


def fit_to_data(recipe: Recipe, source: Source, processes: int = 1) -> tuple[Recipe, Source]:
    """The recipe with a number of epochs where it left that open, and the videos as often as they are to be seen."""
    args = recipe.train
    if args.balanced_sampling:
        source = replace(source, train=balanced_items(source.train, draws_seed(args)))
    if not args.epochs:
        recipe = replace(recipe, train=replace(args, epochs=auto_epochs(len(source.train), args, processes)))
    return recipe, source


def auto_epochs(videos: int, args: TrainArgs, processes: int = 1) -> int:
    """The number of epochs that takes about `STEPS` optimiser steps, at least `FEWEST` and at most `MOST`.

    Args:
        videos: of the training half.
        args: batch_size and accumulate are read.
        processes: that share the work.
    """
    per_epoch = -(-videos // (args.batch_size * args.accumulate * processes))
    return min(max(round(STEPS / max(per_epoch, 1)), FEWEST), MOST)


def class_weights(labels: Sequence[int], classes: int, kind: Literal["none", "balanced", "effective"]) -> Tensor | None:
    """Weights of the classes in the loss: fp32 [K]; None: all alike. Their mean over the training videos is 1.

    Args:
        labels: of the training videos.
        classes: K.
        kind: `balanced`: a class of n videos weighs 1 / n; `effective`: (1 - beta) / (1 - beta^n), nearly the same for
            small n, and flat where n passes 1 / (1 - beta) (Cui et al., CVPR 2019); `none`.
    """
    if kind == "none":
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
    if kind == "balanced":
        weights = 1 / counts.clamp_min(1)
    else:
        weights = (1 - BETA) / (1 - BETA ** counts.clamp_min(1))
    weights = weights * (counts > 0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def balanced_items(items: Sequence[Item], seed: int) -> tuple[Item, ...]:
    """The items and repeats of them, so that every class has as many as the largest.

    Every item of a class comes equally often, or once more. Which ones do depends on the seed and their names; a repeat
    has random draws of its own, since it has a place of its own in the data set.
    """
    counts = Counter(item.label for item in items)
    largest = max(counts.values(), default=0)
    more = []
    for label in sorted(counts):
        members = [item for item in items if item.label == label]
        ranked = sorted(members, key=lambda item: hashlib.sha256(f"balance/{seed}/{item.name}".encode()).digest())
        more += [ranked[number % len(ranked)] for number in range(largest - len(members))]
    return (*items, *more)
