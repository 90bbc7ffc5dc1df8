"""Accuracy of a method on a set of videos."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muybridge.engine.batches import Batches, VideoBatches
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods.base import Method
from muybridge.structures import Item, ModelSpec
from muybridge.video.dataset import VideoDataset, read_items


@dataclass(frozen=True)
class Evaluation:
    """Scores of every readable video and what follows from them.

    Attributes:
        scores: [N, K], probabilities, mean over the views.
        labels: [N], true class indices.
        indices: [N], positions in the data set.
        unreadable: a sentence for every video that could not be decoded; they are in no figure below.
    """

    scores: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: tuple[str, ...] = ()

    def topk(self, k: int) -> float:
        """Share of videos whose class is among the k best scores; k is at most K."""
        best = self.scores.topk(min(k, self.scores.shape[1])).indices
        return (best == self.labels[:, None]).any(dim=1).double().mean().item()

    @property
    def top1(self) -> float:
        """Share of videos whose class has the best score."""
        return self.topk(1)

    @property
    def top5(self) -> float:
        """Share of videos whose class is among the five best (1 if there are five classes or fewer)."""
        return self.topk(5)

    @property
    def mean_class(self) -> float:
        """Mean over the classes of the share of their videos that is right; classes without a video are left out."""
        right = self.scores.argmax(dim=1) == self.labels
        shares = [right[self.labels == label].double().mean() for label in self.labels.unique()]
        return torch.stack(shares).mean().item()

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """What `evaluation.json` holds; shares are in [0, 1].

        Args:
            names: class names by index.
        """
        best = self.scores.argmax(dim=1)
        classes = {}
        for index, name in enumerate(names):
            mine = self.labels == index
            if mine.any():
                classes[name] = {
                    "videos": int(mine.sum()),
                    "top1": (best[mine] == index).double().mean().item(),
                }
        return {
            "videos": len(self.labels),
            "unreadable": list(self.unreadable),
            "top1": self.top1,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "classes": classes,
        }


@torch.inference_mode()
def evaluate(
    method: Method,
    batches: Batches,
    device: torch.device,
    progress: Progress | None = None,
    title: str = "evaluate",
) -> Evaluation:
    """Scores of every video: softmax of the logits, mean over the test views, fp32.

    Args:
        method: the recogniser, put into evaluation mode for the call.
        batches: of evaluation: video [B, V, T, 3, H, W], or features [B, V, ...].
        device: where the method is.
        progress: told of every batch.
        title: what the progress bar calls it.

    Raises:
        BadInput: no video could be decoded.
    """
    progress = progress or Progress()
    was_training = method.training
    method.eval()
    scores, labels, indices = [], [], []
    errors: dict[int, str] = {}
    progress.start(title, len(batches))
    try:
        for batch in batches.epoch(0):
            errors |= batch.errors
            if batch.inputs is not None:
                if isinstance(batch.inputs, Tensor):
                    video = batch.inputs.to(device)
                    views = video.shape[:2]
                    logits = method(video.flatten(0, 1)).logits
                else:
                    features = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
                    views = next(iter(features.values())).shape[:2]
                    logits = method.readout({name: x.flatten(0, 1) for name, x in features.items()}).logits
                scores.append(logits.float().softmax(dim=-1).unflatten(0, views).mean(dim=1).cpu())
                labels.append(batch.labels)
                indices.append(batch.indices)
            progress.advance(1)
    finally:
        progress.finish()
        method.train(was_training)
    if not scores:
        raise BadInput(f"None of the videos can be decoded; the first: {next(iter(errors.values()), 'no video')}")
    return Evaluation(torch.cat(scores), torch.cat(labels), torch.cat(indices), tuple(errors.values()))


def write_evaluation(folder: Path, evaluation: Evaluation, items: Sequence[Item], names: Sequence[str]) -> None:
    """Write `evaluation.json` and `predictions.csv` (a row a video: name, true class, best class, score, right)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(evaluation.summary(names), indent=2, ensure_ascii=False)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    best = evaluation.scores.max(dim=1)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "predicted", "score", "right"])
        for row, index in enumerate(evaluation.indices.tolist()):
            truth, answer = int(evaluation.labels[row]), int(best.indices[row])
            score = f"{best.values[row].item():.6f}"
            writer.writerow([items[index].name, names[truth], names[answer], score, int(truth == answer)])


def evaluate_folder(
    method: Method,
    spec: ModelSpec,
    data: str | Path,
    split: str = "val",
    views: str | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, tuple[Item, ...]]:
    """Evaluate on the videos of a folder or list; classes are matched with the model's by name.

    Args:
        method: the recogniser's model, on `device`.
        spec: what it is.
        data: see `read_source`.
        split: `val`, `train` or `all`.
        views: temporal views x spatial crops, such as `3x1`; None: the model's own.
        batch_size: videos at a time.
        workers: processes that decode.
        device: where the method is.
        progress: told of every batch.

    Returns:
        The evaluation, and the videos that its indices count.

    Raises:
        BadInput, UnknownName: the folder cannot be used, or has classes that the model does not know.
    """
    sampling = spec.sampling
    if views is not None:
        temporal, _, spatial = views.partition("x")
        if not (temporal.isdecimal() and spatial.isdecimal() and int(temporal) > 0 and spatial in ("1", "3")):
            raise BadInput(
                f"views is '{views}'; expected temporal views x spatial crops (1 or 3 of them), such as 3x1 or 4x3."
            )
        sampling = replace(sampling, views=int(temporal), crops=int(spatial))
    if batch_size < 1 or workers < 0:
        raise BadInput(f"batch_size is {batch_size} and workers {workers}; expected at least 1 and at least 0.")
    items = read_items(data, spec.labels, split)
    dataset = VideoDataset(items, sampling, spec.transform, False, 0)
    batches = VideoBatches(dataset, batch_size, workers=workers)
    return evaluate(method, batches, device or torch.device("cpu"), progress), items
