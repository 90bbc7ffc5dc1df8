"""Two protocols of the field: trained on a few videos a class, and not trained on the data at all.

Few-shot: K videos of every class are drawn from the training half, a recogniser is trained on them, and the whole
validation half judges it; for several K and seeds. Zero-shot: a recogniser with a text head is asked about the classes
of other data by their names, on one or several official splits.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muybridge.backbones.vit import ViT
from muybridge.engine.alone import alone_in
from muybridge.engine.checkpoint import write_atomically, write_json
from muybridge.engine.evaluate import EvaluateArgs, Model, evaluate_data
from muybridge.engine.metrics import Evaluation
from muybridge.engine.predictions import SUMMARY, hash_of_items
from muybridge.engine.processes import how_many, join_processes
from muybridge.engine.progress import Progress
from muybridge.engine.small_data import MOST
from muybridge.engine.sweeps import (
    SWEEP,
    Spread,
    as_dict,
    check_sweep_folder,
    flat_fields,
    read_json,
    told_differences,
    train_or_resume,
)
from muybridge.errors import BadInput
from muybridge.methods.base import text_head
from muybridge.recipes import check
from muybridge.recipes.fields import to_dict
from muybridge.recipes.files import validate
from muybridge.structures import Item, Recipe
from muybridge.video.readers.formats import find
from muybridge.video.sources import Source, read_source

SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Cell:
    """One training of a few-shot sweep; shares are in [0, 1].

    Attributes:
        shots: K, videos of a class.
        seed: of the draw of the videos and of the training.
        videos: it was trained on; fewer than K times the classes where a class has fewer.
        top1, top5, mean_class: on the whole validation half.
        folder: the run folder, relative to that of the sweep.
    """

    shots: int
    seed: int
    videos: int
    top1: float
    top5: float
    mean_class: float
    folder: str


@dataclass(frozen=True)
class FewShot:
    """A finished sweep.

    Attributes:
        cells: by shots, then seed.
        folder: where the runs are.
    """

    cells: tuple[Cell, ...]
    folder: Path

    def spread(self, shots: int, figure: str = "top1") -> Spread:
        """Mean and deviation over the seeds of `top1`, `top5` or `mean_class`."""
        return Spread.of([getattr(cell, figure) for cell in self.cells if cell.shots == shots])

    @property
    def shots(self) -> tuple[int, ...]:
        """Every K, ascending."""
        return tuple(sorted({cell.shots for cell in self.cells}))

    def summary(self) -> dict[str, Any]:
        """Every cell, and mean and deviation for every K."""
        figures = ("top1", "top5", "mean_class")
        rows = [{"shots": k, **{name: as_dict(self.spread(k, name)) for name in figures}} for k in self.shots]
        return {"shots": rows, "cells": [to_dict(cell) for cell in self.cells]}

    def __repr__(self) -> str:
        seeds = len({cell.seed for cell in self.cells})
        return f"FewShot({seeds} seeds, top-1: {', '.join(f'{k}: {self.spread(k)}' for k in self.shots)})"


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """A recogniser on classes that it was not trained for.

    Attributes:
        evaluations: official split -> evaluation.
        texts: what the classes were called.
    """

    evaluations: dict[int, Evaluation]
    texts: tuple[str, ...] = field(default=())

    @property
    def top1(self) -> Spread:
        """Mean and deviation over the splits."""
        return Spread.of([one.top1 for one in self.evaluations.values()])

    @property
    def top5(self) -> Spread:
        """Mean and deviation over the splits."""
        return Spread.of([one.top5 for one in self.evaluations.values()])

    def summary(self) -> dict[str, Any]:
        """Mean, deviation, and the summary of every split."""
        return {
            "top1": as_dict(self.top1),
            "top5": as_dict(self.top5),
            "texts": list(self.texts),
            "folds": {str(fold): one.summary() for fold, one in self.evaluations.items()},
        }

    def __repr__(self) -> str:
        folds = ", ".join(f"{fold}: {one.top1:.1%}" for fold, one in self.evaluations.items())
        return f"ZeroShot({len(self.texts)} classes, top-1 {self.top1}; splits {folds})"


def draw_shots(items: Sequence[Item], shots: int, seed: int) -> tuple[Item, ...]:
    """`shots` videos of every class, all of a class that has fewer, in the order given; one listed twice counts once.

    Which ones depends on the seed and their names only: not on the order of the files or the other classes. With one
    seed those of a smaller `shots` are among those of a larger one.

    Args:
        items: of the training half.
        shots: K.
        seed: of the draw.

    Raises:
        BadInput: `shots` is below 1.
    """
    if shots < 1:
        raise BadInput(f"shots is {shots}; expected at least 1.")
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    drawn: set[Item] = set()
    for members in classes.values():
        ranked = sorted(
            dict.fromkeys(members), key=lambda item: hashlib.sha256(f"shots/{seed}/{item.name}".encode()).digest()
        )
        drawn.update(ranked[:shots])
    return tuple(item for item in dict.fromkeys(items) if item in drawn)


def few_shot(
    recipe: Recipe,
    out: str | Path,
    shots: Sequence[int] = SHOTS,
    seeds: int = 3,
    source: Source | None = None,
    backbone: ViT | None = None,
    progress: Progress | None = None,
    texts: Sequence[str] | None = None,
) -> FewShot:
    """Train on K videos of every class for every K and seed, and evaluate each on the whole validation half.

    Each training is a run folder `out/<K>-shot/seed-<n>`. It is judged after its last epoch only: to keep the epoch
    that is best on the validation half would choose by what judges. A sweep that was stopped goes on with the same
    command, and finished trainings are not run again; more shots and seeds may be asked for later.

    Args:
        recipe: how each is trained; `train.seed` is that of the first.
        out: folder of the sweep; new, or that of a sweep with the same recipe.
        shots: every K.
        seeds: how many; they are counted from `train.seed`.
        source, backbone, texts: as in `train`.
        progress: told of every step.

    Raises:
        BadInput: as `train`; `out` has something else.
        Interrupted: Ctrl-C or SIGTERM.
    """
    out, progress = Path(out), progress or Progress()
    if seeds < 1 or not shots or min(shots) < 1:
        raise BadInput(
            f"shots are {', '.join(map(str, shots)) or 'none'} and seeds {seeds}; expected 1 or more of each."
        )
    if how_many() > 1:
        raise BadInput("A sweep's many short trainings run one after the other, in one process: start it by itself.")
    recipe = validate(replace(recipe, train=replace(recipe.train, evaluate_every=recipe.train.epochs or MOST)))
    check(recipe)
    source = source or read_source(recipe.data, recipe.source)
    check_sweep_folder(out)
    with alone_in(out):
        _begin(out, recipe, source, texts)
        cells = []
        for k in sorted(set(shots)):
            for seed in range(recipe.train.seed, recipe.train.seed + seeds):
                folder = Path(f"{k}-shot") / f"seed-{seed}"
                half = replace(source, train=draw_shots(source.train, k, seed))
                if not (out / folder / SUMMARY).is_file():
                    progress.say(f"{k} videos a class, seed {seed}: {len(half.train)} videos -> {out / folder}")
                    setting = replace(recipe, train=replace(recipe.train, seed=seed))
                    train_or_resume(setting, out / folder, half, backbone, _WithoutEpochs(progress), texts)
                figures = read_json(out / folder / SUMMARY)
                top1, top5, mean_class = (float(figures[name]) for name in ("top1", "top5", "mean_class"))
                cells.append(Cell(k, seed, len(half.train), top1, top5, mean_class, folder.as_posix()))
                _write_cells(out, cells)
    return FewShot(tuple(cells), out)


def zero_shot(
    model: Model,
    data: str | Path,
    args: EvaluateArgs | None = None,
    folds: Sequence[int] = (),
    labels: Sequence[str] | None = None,
    template: str = "{}",
    out: str | Path | None = None,
    progress: Progress | None = None,
    weights: str | Path | None = None,
) -> ZeroShot:
    """Evaluate a recogniser with a text head on the classes of other data, by their names alone.

    The model recognises these classes from then on.

    Args:
        model: from `muybridge.load`.
        data: see `read_source`.
        args, progress: as `evaluate_data`.
        folds: official splits, from 1; none: that of `args.source`.
        labels: what to call the classes, in the data's order; None: their names as words, see `as_words`.
        template: the text around a name, such as `a video of {}`.
        out: folder as in `evaluate_data`; with several splits one folder a split in it, `fold-<n>`.
        weights: a file with the text tower, where the model was saved without it.

    Raises:
        BadInput: the model has no text head; `labels` are not as many as the classes.
        MuybridgeError: as `evaluate_data`.
    """
    args = args or EvaluateArgs()
    if text_head(model.trained) is None:
        raise BadInput(
            f"This {model.spec.method} has a linear head for its {len(model.spec.labels)} classes; zero-shot needs a "
            "model with a text head (ila or dist on a CLIP backbone)."
        )
    if "{}" not in template:
        raise BadInput(f"template is '{template}'; expected a text with {{}} where the class name goes.")
    chosen = tuple(folds) or (args.source.fold,)
    names: tuple[str, ...] = ()
    evaluations = {}
    for fold in chosen:
        part = replace(args, source=replace(args.source, fold=fold))
        # What the data set has may be a validation half alone, which no one could train on.
        classes = find(data, part.source).labels or read_source(data, part.source).labels
        if classes != names:
            if labels is not None and len(labels) != len(classes):
                raise BadInput(f"{len(labels)} labels for the {len(classes)} classes of {data}; expected as many.")
            names, texts = classes, tuple(template.replace("{}", text) for text in labels or map(as_words, classes))
            model.relabel(texts, weights)
        place = Path(out) / f"fold-{fold}" if out is not None and len(chosen) > 1 else out
        evaluations[fold] = evaluate_data(model, data, part, place, progress, names)
    result = ZeroShot(evaluations, texts)
    if out is not None and join_processes().first:
        write_json(Path(out) / "zero_shot.json", result.summary())
    return result


def as_words(name: str) -> str:
    """A class name as a person would write it: `ApplyEyeMakeup` and `apply_eye_makeup` become `apply eye makeup`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.replace("_", " "))
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in spaced.split()) or name


def _begin(out: Path, recipe: Recipe, source: Source, texts: Sequence[str] | None) -> None:
    """Remember what the sweep is of, or see that it is the same."""
    halves = {"train": hash_of_items(source.train), "val": hash_of_items(source.val)}
    wanted = json.loads(json.dumps({"recipe": to_dict(recipe), "videos": halves, "texts": list(texts or ())}))
    file = out / SWEEP
    if not file.is_file():
        write_json(file, wanted)
        return
    there = read_json(file)
    if "recipe" not in there:
        raise BadInput(f"{out} is a sweep of settings (--try), not of shots. Give another --out.")
    if there != wanted:
        flat, asked = flat_fields(there), flat_fields(wanted)
        raise BadInput(f"{out} is a sweep of another setting: {told_differences(flat, asked)}. Give another --out.")


class _WithoutEpochs(Progress):
    """Bars and lines, but for the line of every epoch."""

    def __init__(self, inner: Progress) -> None:
        self.start, self.advance, self.finish = inner.start, inner.advance, inner.finish  # type: ignore[method-assign]
        self.inner = inner

    def say(self, text: str) -> None:
        """One line that stays."""
        if not text.startswith("epoch "):
            self.inner.say(text)


def _write_cells(out: Path, cells: Sequence[Cell]) -> None:
    result = FewShot(tuple(cells), out)

    def table(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("shots", "seeds", "top1", "top1_deviation", "top5", "top5_deviation", "mean_class"))
            for k in result.shots:
                top1, top5 = result.spread(k), result.spread(k, "top5")
                deviations = ["" if one.deviation is None else f"{one.deviation:.6f}" for one in (top1, top5)]
                mean_class = f"{result.spread(k, 'mean_class').mean:.6f}"
                row = (k, top1.count, f"{top1.mean:.6f}", deviations[0], f"{top5.mean:.6f}", deviations[1], mean_class)
                writer.writerow(row)

    def every(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(to_dict(cells[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(to_dict(cell) for cell in cells)

    write_atomically(out / "few_shot.csv", table)
    write_atomically(out / "cells.csv", every)
