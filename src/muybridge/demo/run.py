"""`muybridge demo`: make videos, train two recognisers on them, compare them, predict one video in words.

Five of the ten classes are the other five played backwards, so a recogniser that does not know the order of the frames
is right about half the time within such a pair of twins, whatever it sees in the single frames. The table shows it:
the baseline `probe` (mean of frozen features) stays at a coin's toss within twins, EVL does not, and falls back to it
when its frames are shuffled.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from muybridge.backbones.vit import ViT
from muybridge.backbones.weights import load_backbone
from muybridge.demo.films import CLASSES, TWINS, write_film, write_films
from muybridge.demo.picture import draw_answers
from muybridge.engine.batches import Batch, Batches, FeatureBatches, VideoBatches
from muybridge.engine.device import cores_allowed, pick_device
from muybridge.engine.evaluate import evaluate
from muybridge.engine.features import compute_features, megabytes
from muybridge.engine.metrics import Evaluation
from muybridge.engine.progress import Progress
from muybridge.engine.train import TrainResult, train
from muybridge.errors import BadInput
from muybridge.loading import load
from muybridge.methods import build_method
from muybridge.recipes import fit_to_backbone
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.video.dataset import Source, VideoDataset, read_source

DEFAULT_BACKBONE = "vits14_imgfocus"
EVL_OPTIONS = {"layers": 4}


@dataclass(frozen=True)
class Budget:
    """How much the demo does; the defaults take about three minutes on two cores.

    Attributes:
        train: training videos of a class.
        val: validation videos of a class.
        epochs: of every training.
        size: side of the square the recognisers read, in pixels.
        frames: T.
        workers: processes that render and decode; by default two, or one where there is one core.
    """

    train: int = 40
    val: int = 20
    epochs: int = 20
    size: int = 84
    frames: int = 8
    workers: int = field(default_factory=lambda: min(2, cores_allowed()))


@dataclass(frozen=True)
class Row:
    """One line of the demo's table; shares are in [0, 1], `trainable` is None for a control without training."""

    name: str
    top1: float
    within_twins: float
    trainable: int | None
    seconds: float | None


def run_demo(
    out: Path, backbone: str, weights: Path | None, seed: int, progress: Progress, budget: Budget | None = None
) -> list[Row]:
    """Do all of it; see the module's docstring.

    Args:
        out: folder for everything; must not exist.
        backbone: a name of the table.
        weights: a file with its weights, or None.
        seed: of every draw.
        progress: told of every step.
        budget: how much to do.

    Returns:
        The rows of the table, also written to `results.csv`.

    Raises:
        BadInput: `out` exists.
    """
    started = time.perf_counter()
    budget = budget or Budget()
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # paths may hold brackets

    if out.exists():
        raise BadInput(f"{out} exists already; nothing is written over. Give another --out or remove it.")
    vit, info = load_backbone(None if weights and backbone == DEFAULT_BACKBONE else backbone, weights)
    films = budget.train + budget.val
    progress.start("making videos", len(CLASSES) * films)
    videos = write_films(
        out / "videos",
        train=budget.train,
        val=budget.val,
        seed=seed,
        workers=budget.workers,
        progress=lambda: progress.advance(1),
    )
    progress.finish()
    progress.say(f"{len(CLASSES) * films} videos of {len(CLASSES)} classes in {videos}")
    recipe = fit_to_backbone(demo_recipe(budget, seed, videos), info)
    recipe = replace(recipe, weights=str(weights.absolute()) if weights else "")
    source = read_source(videos)
    shared = _features(recipe, vit, source.labels, source, progress)

    results = {}
    for name, method, options in (
        ("probe", "probe", {}),
        ("ordered linear", "probe", {"pool": "concat"}),
        ("evl", "evl", EVL_OPTIONS),
    ):
        setting = replace(recipe, method=method, options=options)
        batches = shared if method == "evl" else tuple(_summaries(part, vit) for part in shared)
        folder = out / ("ordered" if options.get("pool") else name)
        results[name] = train(setting, folder, source, vit, _WithoutLines(progress), (batches[0], batches[1]))
        progress.say(f"trained {name}: {results[name].seconds:.0f} s")
    shuffled = _shuffled_evaluation(recipe, results["evl"], source, progress)

    rows = [
        _row("probe", results["probe"].evaluation, source.labels, results["probe"]),
        _row("EVL", results["evl"].evaluation, source.labels, results["evl"]),
        _row(
            "control: ordered linear",
            results["ordered linear"].evaluation,
            source.labels,
            results["ordered linear"],
        ),
        _row("control: EVL, frames shuffled", shuffled, source.labels, None),
    ]
    _write_rows(out / "results.csv", rows)
    say(
        "\nprobe: mean of the frames' features, linear. ordered linear: the frames' features side by side, linear.\n"
        "within twins: is the right class ahead of its twin, the same films played backwards? 50 % is a coin's toss."
    )
    console.print(_table(rows, len(source.val)))
    draw_answers(
        out / "answers.png",
        source.val,
        source.labels,
        {"probe": results["probe"].evaluation, "EVL": results["evl"].evaluation},
        recipe.sampling,
    )
    unseen = write_film(out / "unseen.mp4", CLASSES[seed % len(CLASSES)], "val", budget.val, seed)
    answers = load(out / "evl").predict(unseen, top=3)
    say(f"\n{unseen}, a film of '{CLASSES[seed % len(CLASSES)]}' that was in neither set:")
    for answer in answers:
        say(f"  {answer.score:6.1%}  {answer.label}")
    say(
        f"\nPicture: {out / 'answers.png'}\nRecogniser: {out / 'evl'}. Try: muybridge predict {out / 'evl'} {unseen}\n"
        f"{time.perf_counter() - started:.0f} seconds."
    )
    return rows


def demo_recipe(budget: Budget, seed: int, videos: Path) -> Recipe:
    """The setting that all models of the demo share."""
    return Recipe(
        data=str(videos.absolute()),
        sampling=Sampling(frames=budget.frames),
        transform=Transform(size=(budget.size, budget.size), crop="center"),
        train=TrainArgs(
            epochs=budget.epochs,
            batch_size=20,
            lr=1e-3,
            warmup=2,
            fixed_views=1,
            cache="memory",
            workers=budget.workers,
            seed=seed,
        ),
    )


def _device() -> torch.device:
    return pick_device()


def _features(
    recipe: Recipe, vit: ViT, labels: tuple[str, ...], source: Source, progress: Progress
) -> tuple[FeatureBatches, FeatureBatches]:
    """EVL's frozen features of both sets; the probes' can be had from them without running the backbone again."""
    args = recipe.train
    evl = build_method("evl", vit, len(labels), recipe.sampling.frames, recipe.transform.size, EVL_OPTIONS)
    evl.to(_device()).eval()
    train_set = VideoDataset(source.train, recipe.sampling, recipe.transform, True, args.seed)
    val_set = VideoDataset(source.val, recipe.sampling, recipe.transform, False, args.seed)
    training = VideoBatches(train_set, args.batch_size, args.seed, args.fixed_views, args.workers)
    validation = VideoBatches(val_set, args.batch_size, workers=args.workers)
    parts = (
        compute_features(evl, training, _device(), 1, progress, "frozen features, training"),
        compute_features(evl, validation, _device(), 1, progress, "frozen features, validation"),
    )
    size = sum(megabytes(part.features) for part in parts)
    progress.say(f"Frozen features are computed once for all models and kept in memory: {size:.0f} MB.")
    return parts


@torch.no_grad()
def _summaries(part: FeatureBatches, vit: ViT) -> FeatureBatches:
    """The probe's frozen features out of EVL's: the backbone's summary of the last block's tokens."""
    tokens = part.features["tokens"]
    last = tokens.select(-4, -1)  # [..., M, T, L, D] -> [..., T, L, D]
    summary = vit.cpu().summary(last.flatten(0, -3)).unflatten(0, last.shape[:-2])
    return FeatureBatches({"summary": summary}, part.labels, part.errors, part.batch_size, part.seed, part.views)


class _WithoutLines(Progress):
    """Bars without a line an epoch."""

    def __init__(self, inner: Progress) -> None:
        self.start, self.advance, self.finish = inner.start, inner.advance, inner.finish  # type: ignore[method-assign]


class _Shuffled(Batches):
    """Batches of evaluation with the frames of every view in random order."""

    def __init__(self, batches: VideoBatches, seed: int) -> None:
        self.batches, self.seed, self.processes = batches, seed, batches.processes

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self.batches.epoch(epoch, start):
            video = batch.inputs
            if isinstance(video, Tensor):
                orders = [torch.randperm(video.shape[2], generator=generator) for _ in range(len(video))]
                video = torch.stack([one[:, order] for one, order in zip(video, orders, strict=True)])
            yield replace(batch, inputs=video)


def _shuffled_evaluation(recipe: Recipe, result: TrainResult, source: Source, progress: Progress) -> Evaluation:
    val_set = VideoDataset(source.val, recipe.sampling, recipe.transform, False, recipe.train.seed)
    batches = VideoBatches(val_set, recipe.train.batch_size, workers=recipe.train.workers)
    method = result.method.to(_device())
    return evaluate(method, _Shuffled(batches, recipe.train.seed), _device(), progress, "EVL with shuffled frames")


def within_twins(evaluation: Evaluation, labels: tuple[str, ...]) -> float:
    """Share of videos for which the right class scores higher than its twin; classes without a twin are left out."""
    right = []
    for scores, label in zip(evaluation.scores, evaluation.labels.tolist(), strict=True):
        twin = TWINS.get(labels[label])
        if twin in labels:
            right.append(bool(scores[label] > scores[labels.index(twin)]))
    return sum(right) / max(len(right), 1)


def _row(name: str, evaluation: Evaluation, labels: tuple[str, ...], result: TrainResult | None) -> Row:
    return Row(
        name,
        evaluation.top1,
        within_twins(evaluation, labels),
        result.trainable if result else None,
        result.seconds if result else None,
    )


def _table(rows: list[Row], count: int) -> Table:
    table = Table(title=f"{count} validation videos", title_justify="left")
    table.add_column("recogniser")
    for column in ("top-1", "within twins", "trainable", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        trainable = f"{row.trainable:,}" if row.trainable is not None else "-"
        seconds = f"{row.seconds:.1f}" if row.seconds is not None else "-"
        table.add_row(row.name, f"{row.top1:.1%}", f"{row.within_twins:.1%}", trainable, seconds)
    return table


def _write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["recogniser", "top1", "within_twins", "trainable_parameters", "training_seconds"])
        for row in rows:
            writer.writerow([row.name, row.top1, row.within_twins, row.trainable, row.seconds])
