"""Accuracy of a method on a set of videos.

`evaluate` runs over batches and keeps nothing: a training does so after its epochs. `evaluate_data` is what one
publishes from: a data set by its path, in one or several processes, kept in a folder from which an interrupted
evaluation goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from muybridge.backbones.files import sha256_of_state
from muybridge.engine.batches import ALONE, Batch, Batches, Key, VideoBatches
from muybridge.engine.checkpoint import write_json
from muybridge.engine.interrupt import Interrupted, StopRequest, stop_on_signal
from muybridge.engine.metrics import Evaluation
from muybridge.engine.predictions import (
    RIGHT,
    SUMMARY,
    Rows,
    SavedRows,
    evaluation_of,
    hash_of,
    hash_of_items,
    join_rows,
    write_predictions,
)
from muybridge.engine.processes import Processes, join_processes
from muybridge.engine.progress import Progress
from muybridge.engine.sharding import in_step, is_sharded, join_in
from muybridge.errors import BadInput
from muybridge.methods.base import Method, check_named
from muybridge.recipes.fields import to_dict
from muybridge.structures import Item, ModelSpec, Sampling, SourceArgs
from muybridge.video.dataset import VideoDataset
from muybridge.video.sources import read_part

SAVE_EVERY = 10.0  # seconds of work that a killed process may lose

# The frames of a batch in some order: video [B, V, T, 3, H, W] and positions in the data set [B] -> video.
Reorder = Callable[[Tensor, Tensor], Tensor]


class Model(Protocol):
    """What is evaluated: a `Recogniser`."""

    method: Method
    trained: Method
    spec: ModelSpec
    device: torch.device

    def relabel(self, labels: Sequence[str], weights: str | Path | None = None) -> None:
        """Recognise other classes, by their names alone."""
        ...


@dataclass(frozen=True)
class EvaluateArgs:
    """What is evaluated on, and how.

    Attributes:
        split: `val`, `train` or `all`.
        views: temporal views x spatial crops, such as `3x1`; empty: the model's own.
        batch_size: views that are computed at a time; all views of a video are, even if they are more.
        workers: processes that decode.
        source: how the videos are found and read.
    """

    split: str = "val"
    views: str = ""
    batch_size: int = 8
    workers: int = 0
    source: SourceArgs = field(default_factory=SourceArgs)


@torch.inference_mode()
def view_scores(method: Method, inputs: Tensor | Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Probabilities [B, K] on the CPU: softmax of the logits, mean over the test views, fp32.

    Args:
        method: in evaluation mode.
        inputs: video [B, V, T, 3, H, W], or features [B, V, ...].
        device: where the method is.
    """
    if isinstance(inputs, Tensor):
        video = inputs.to(device)
        views = video.shape[:2]
        logits = method(video.flatten(0, 1)).logits
    else:
        features = {name: tensor.to(device) for name, tensor in inputs.items()}
        views = next(iter(features.values())).shape[:2]
        logits = method.readout({name: x.flatten(0, 1) for name, x in features.items()}).logits
    return logits.float().softmax(dim=-1).unflatten(0, views).mean(dim=1).cpu()


def evaluate(
    method: Method,
    batches: Batches,
    device: torch.device,
    progress: Progress | None = None,
    title: str = "evaluate",
    processes: Processes = ALONE,
) -> Evaluation:
    """Scores of every video, see `view_scores`.

    Args:
        method: the recogniser, put into evaluation mode for the call.
        batches: of evaluation: video [B, V, T, 3, H, W], or features [B, V, ...].
        device: where the method is.
        progress: told of every batch.
        title: what the progress bar calls it.
        processes: those that share the batches; each gets the whole result.

    Raises:
        BadInput: no video could be decoded.
    """
    progress = progress or Progress()
    was_training = method.training
    method.eval()
    scores, labels, indices = [], [], []
    errors: dict[int, str] = {}
    sharded = is_sharded(method)
    progress.start(title, len(batches))
    try:
        for batch in in_step(batches.epoch(0), processes) if sharded else batches.epoch(0):
            if batch is not None and batch.inputs is not None:
                scores.append(view_scores(method, batch.inputs, device))
                labels.append(batch.labels)
                indices.append(batch.indices)
            elif sharded:
                join_in(method, device)
            if batch is not None:
                errors |= batch.errors
                progress.advance(1)
    finally:
        progress.finish()
        method.train(was_training)
    parts = processes.gather((scores, labels, indices, errors))
    scores = [one for part in parts for one in part[0]]
    labels = [one for part in parts for one in part[1]]
    indices = [one for part in parts for one in part[2]]
    errors = dict(sorted(item for part in parts for item in part[3].items()))
    if not scores:
        raise _nothing(errors)
    order = torch.cat(indices).argsort()
    return Evaluation(
        torch.cat(scores)[order], torch.cat(labels)[order], torch.cat(indices)[order], tuple(errors.values())
    )


def write_evaluation(folder: Path, evaluation: Evaluation, items: Sequence[Item], names: Sequence[str]) -> None:
    """Write `evaluation.json` and `predictions.csv`, as a training leaves them in its run folder.

    Args:
        folder: made if it is not there.
        evaluation: its indices count `items`.
        items: the videos.
        names: class names by index.
    """
    videos = tuple(items[index].name for index in evaluation.indices.tolist())
    evaluation = replace(evaluation, names=videos, classes=tuple(names))
    write_predictions(folder, evaluation, parquet=False)
    write_json(folder / SUMMARY, evaluation.summary())  # last: where it stands, the run is finished


def evaluate_data(
    model: Model,
    data: str | Path,
    args: EvaluateArgs | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    classes: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate a recogniser on the videos of a data set.

    In several processes (torchrun) each video is evaluated by one of them, and each process gets the whole result.

    Args:
        model: from `muybridge.load`.
        data: see `read_source`; classes are matched by name.
        args: which part of it, and how.
        out: folder for what `predictions` lists; an interrupted evaluation goes on from there, and of a finished one
            the result is read. None: nothing is kept.
        progress: told of every batch.
        classes: what the data set calls the model's classes, in their order; None: as the model does.

    Raises:
        BadInput, UnknownName, MissingFile: the data cannot be used, or has classes that the model does not know; `out`
            has something else; no video could be decoded.
        Interrupted: Ctrl-C or SIGTERM; what was computed is in `out`.
    """
    return score_orders(model, data, {RIGHT: lambda video, _: video}, args, out, progress, classes)[RIGHT]


def score_orders(
    model: Model,
    data: str | Path,
    orders: Mapping[str, Reorder],
    args: EvaluateArgs | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    classes: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Evaluation]:
    """As `evaluate_data`, with the frames of every view in several orders; every video is decoded once.

    Args:
        model, data, args, out, progress, classes: as `evaluate_data`.
        orders: name -> what it does to a batch.
        settings: what decides their scores besides their names, such as a seed.

    Returns:
        An evaluation for each order.
    """
    args, progress, spec = args or EvaluateArgs(), progress or Progress(), model.spec
    check_named(model.method)
    if args.batch_size < 1 or args.workers < 0:
        raise BadInput(
            f"batch_size is {args.batch_size} and workers {args.workers}; expected at least 1 and at least 0."
        )
    sampling = with_views(spec.sampling, args.views)
    classes = tuple(classes or spec.labels)
    part = read_part(data, classes, args.split, args.source)
    items, processes = part.items, join_processes()
    saved = SavedRows(out) if out is not None else None

    def begin() -> Rows:
        if saved is None:
            return join_rows([])
        decides = {"orders": list(orders), **(settings or {}), **_settings(model, sampling, items, classes, args)}
        return saved.begin(decides, {"data": str(data), "split": args.split, "how": part.how, "videos": len(items)})

    done = processes.agree(begin)
    missing = sorted(set(range(len(items))) - done.known)
    if missing:
        progress.say(f"{len(items)} videos: {part.how}.")
    if done.known and missing:
        progress.say(f"{len(done.known)} of {len(items)} videos were evaluated before; {len(missing)} are left.")
    keys: list[Key] = [(0, index, 0) for index in missing]
    size = max(args.batch_size // (sampling.views * sampling.crops), 1)
    # Batches are dealt, not videos: so they, and every bit of the scores, are those of one process.
    mine = [keys[i : i + size] for i in range(0, len(keys), size)][processes.rank :: processes.count]
    dataset = VideoDataset(items, sampling, spec.transform, False, 0, args.source)

    def score() -> Rows:
        if not mine:
            return join_rows([])
        return _score(model, VideoBatches(dataset, size, workers=args.workers), mine, orders, saved, progress)

    rows = join_rows([done, *processes.collect(score)])
    if not rows.scores:
        raise _nothing(rows.errors)
    found = {name: evaluation_of(rows, items, classes, name) for name in orders}
    if saved is not None:
        processes.agree(lambda: saved.finish(rows, items, classes, next(iter(found.values())).summary()))
    return found


def with_views(sampling: Sampling, views: str) -> Sampling:
    """`sampling` with other test views.

    Args:
        sampling: the model's.
        views: temporal views x spatial crops, such as `3x1`; empty: as they are.

    Raises:
        BadInput: `views` is written otherwise, or the crops are neither 1 nor 3.
    """
    if not views:
        return sampling
    temporal, _, spatial = views.partition("x")
    if not (temporal.isdecimal() and spatial.isdecimal() and int(temporal) > 0 and spatial in ("1", "3")):
        raise BadInput(
            f"views is '{views}'; expected temporal views x spatial crops (1 or 3 of them), such as 3x1 or 4x3."
        )
    return replace(sampling, views=int(temporal), crops=int(spatial))


def _score(
    model: Model,
    batches: VideoBatches,
    keys: list[list[Key]],
    orders: Mapping[str, Reorder],
    saved: SavedRows | None,
    progress: Progress,
) -> Rows:
    """The scores of these videos, kept in parts."""
    done: list[Rows] = []
    pending: list[Rows] = []
    model.method.eval()
    progress.start("evaluate", sum(map(len, keys)))
    with stop_on_signal() if saved is not None else nullcontext(StopRequest()) as stop:
        try:
            clock = time.monotonic()
            for batch in batches.read(keys):
                pending.append(_batch_rows(model, batch, orders, batches.dataset.items))
                progress.advance(len(batch.labels) + len(batch.errors))
                if saved is not None and (stop.asked or time.monotonic() - clock >= SAVE_EVERY):
                    saved.add(join_rows(pending))
                    done, pending, clock = [*done, *pending], [], time.monotonic()
                if stop.asked and saved is not None and len(done) < len(keys):
                    raise Interrupted(
                        f"Stopped; the scores of {len(join_rows(done).known)} videos are kept in {saved.folder}. "
                        "The same command goes on from there."
                    )
        finally:
            # Whatever ended the loop: what was computed is not computed again.
            if saved is not None:
                saved.add(join_rows(pending))
            progress.finish()
    return join_rows([*done, *pending])


def _batch_rows(model: Model, batch: Batch, orders: Mapping[str, Reorder], items: Sequence[Item]) -> Rows:
    if batch.inputs is None:
        return Rows(batch.indices, {}, batch.errors)
    assert isinstance(batch.inputs, Tensor)
    scores = {}
    for name, reorder in orders.items():
        scores[name] = view_scores(model.method, reorder(batch.inputs, batch.indices), model.device)
        broken = ~scores[name].isfinite().all(dim=1)
        if broken.any():
            first = items[int(batch.indices[broken][0])].name
            raise BadInput(
                f"The model's scores of {first} are not numbers; its weights are damaged or of another model."
            )
    return Rows(batch.indices, scores, batch.errors)


def _settings(
    model: Model, sampling: Sampling, items: Sequence[Item], classes: Sequence[str], args: EvaluateArgs
) -> dict[str, Any]:
    """Everything that decides the scores, flat."""
    limits = ("decoder", "seconds", "megapixels", "megabytes")
    return {
        "model": sha256_of_state(model.trained.state_dict()),
        "method": model.spec.method,
        **{f"{model.spec.method}.{name}": value for name, value in model.spec.options.items()},
        "videos": hash_of_items(items),
        "classes": hash_of(*classes),
        "labels": hash_of(*model.spec.labels),
        **{f"sampling.{name}": value for name, value in asdict(sampling).items()},
        **{f"transform.{name}": value for name, value in to_dict(model.spec.transform).items()},
        **{f"source.{name}": getattr(args.source, name) for name in limits},
    }


def _nothing(errors: Mapping[int, str]) -> BadInput:
    return BadInput(f"None of the videos can be decoded; the first: {next(iter(errors.values()), 'no video')}")
