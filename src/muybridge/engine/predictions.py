"""The files of an evaluation: written in parts while it runs, so that the same command goes on where one was stopped.

A folder of an evaluation holds

    settings.json        what is evaluated: the model's hash, the videos' hash, views, transform, decoder
    parts/*.safetensors  the scores of some videos each, while it runs
    evaluation.json      the figures; written last: where it stands, the evaluation is finished
    predictions.csv      a row a video (and predictions.parquet, where pyarrow is installed)
    scores.safetensors   the scores of every video and class
    classes.csv          a row a class
    confusion.csv        a row a true class, a column a predicted one

Every file is written beside its place and then moved there, so that whatever ends the process, what stands is whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from muybridge.engine.asked import keep_settings, match_settings
from muybridge.engine.checkpoint import write_atomically, write_json
from muybridge.engine.metrics import Evaluation
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.structures import Item

FORMAT = "muybridge-evaluation-1"
SETTINGS, SUMMARY, SCORES, PARTS = "settings.json", "evaluation.json", "scores.safetensors", "parts"
FILES = (
    SUMMARY,
    SCORES,
    "order.json",
    "order.csv",
    "predictions.csv",
    "predictions.parquet",
    "classes.csv",
    "confusion.csv",
)
RIGHT = "right"
COLUMNS = ("name", "label", "predicted", "score", "right", "top5")


@dataclass(frozen=True)
class Rows:
    """What is known of some videos.

    Attributes:
        indices: [n], positions in the data set.
        scores: order of the frames -> [n, K].
        errors: a sentence for every video that could not be decoded, by its position.
    """

    indices: Tensor
    scores: dict[str, Tensor]
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def known(self) -> set[int]:
        """Positions of the videos that need not be read again."""
        return {*self.indices.tolist(), *self.errors}


def join_rows(parts: Sequence[Rows]) -> Rows:
    """All of them, sorted by position; of a video that comes twice the first."""
    parts = [part for part in parts if part.scores or part.errors]
    errors = {index: sentence for part in parts for index, sentence in part.errors.items()}
    filled = [part for part in parts if len(part.indices)]
    if not filled:
        return Rows(torch.zeros(0, dtype=torch.long), {}, errors)
    indices = torch.cat([part.indices for part in filled])
    order = indices.argsort(stable=True)
    new = torch.ones(len(order), dtype=torch.bool)
    new[1:] = indices[order][1:] != indices[order][:-1]
    order = order[new]
    scores = {name: torch.cat([part.scores[name] for part in filled])[order] for name in filled[0].scores}
    return Rows(indices[order], scores, errors)


def evaluation_of(rows: Rows, items: Sequence[Item], classes: Sequence[str], order: str = RIGHT) -> Evaluation:
    """The evaluation of one order of the frames."""
    chosen = [items[index] for index in rows.indices.tolist()]
    return Evaluation(
        rows.scores[order],
        torch.tensor([item.label for item in chosen], dtype=torch.long),
        rows.indices,
        tuple(rows.errors[index] for index in sorted(rows.errors)),
        tuple(item.name for item in chosen),
        tuple(classes),
    )


class SavedRows:
    """The folder of one evaluation, new or to be gone on with."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def begin(self, settings: Mapping[str, Any], about: Mapping[str, Any]) -> Rows:
        """Set the folder up, or read what was computed before.

        Args:
            settings: what decides the scores, flat; an evaluation of other settings is refused.
            about: what is told beside them and not compared.

        Raises:
            BadInput: the folder has an evaluation of something else, or files that are not of an evaluation.
            CheckpointError: a file of it is damaged.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; expected a folder for the evaluation.")
        # As JSON has it, so that what was read compares with what was given.
        wanted = json.loads(json.dumps(dict(settings)))
        file = self.folder / SETTINGS
        if not file.exists():
            taken = [name for name in FILES if (self.folder / name).exists()]
            if taken:
                raise BadInput(
                    f"{self.folder / taken[0]} is there already and of no evaluation that can go on; nothing is "
                    "written over. Give another --out."
                )
            keep_settings(file, FORMAT, wanted, about)
            return join_rows([])
        match_settings(file, FORMAT, wanted, "an evaluation", "an evaluation of another setting")
        if self.finished:
            return _read_rows(self.folder / SCORES)[0]
        parts = sorted((self.folder / PARTS).glob("*.safetensors"))
        return join_rows([_read_rows(part)[0] for part in parts])

    @property
    def finished(self) -> bool:
        """Whether nothing is left to compute."""
        return all((self.folder / name).is_file() for name in (SUMMARY, SCORES))

    def add(self, rows: Rows) -> None:
        """Keep the scores of some more videos."""
        known = sorted(rows.known)
        if known:
            _write_rows(self.folder / PARTS / f"{known[0]:09d}.safetensors", rows, {})

    def finish(self, rows: Rows, items: Sequence[Item], classes: Sequence[str], summary: Mapping[str, Any]) -> None:
        """Write everything that a finished evaluation has, and remove the parts."""
        if not self.finished:
            evaluation = evaluation_of(rows, items, classes)
            about = {"names": evaluation.names, "labels": evaluation.labels.tolist(), "classes": list(classes)}
            _write_rows(self.folder / SCORES, rows, about)
            write_tables(self.folder, evaluation)
            write_predictions(self.folder, evaluation)
            write_json(self.folder / SUMMARY, summary)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)


def read_evaluation(folder: str | Path, order: str = RIGHT) -> Evaluation:
    """The evaluation that a folder holds.

    Args:
        folder: what `--out` was.
        order: of the frames: `right`, or for an evaluation with order diagnostics one of theirs.

    Raises:
        MissingFile: there is no finished evaluation with its scores.
        CheckpointError: its file is damaged.
        BadInput: it has no such order.
    """
    folder = Path(folder)
    if not (folder / SCORES).is_file() or not (folder / SUMMARY).is_file():
        raise MissingFile(
            f"{folder} holds no finished evaluation; expected {SUMMARY} and {SCORES}, as `muybridge evaluate` with "
            "--out writes them."
        )
    rows, about = _read_rows(folder / SCORES)
    if order not in rows.scores:
        raise BadInput(f"{folder} has scores for the orders {', '.join(sorted(rows.scores))}; asked for '{order}'.")
    return Evaluation(
        rows.scores[order],
        torch.tensor(about["labels"], dtype=torch.long),
        rows.indices,
        tuple(rows.errors[index] for index in sorted(rows.errors)),
        tuple(about["names"]),
        tuple(about["classes"]),
    )


def is_evaluation(folder: str | Path) -> bool:
    """Whether this is the folder of a finished evaluation."""
    return all((Path(folder) / name).is_file() for name in (SETTINGS, SUMMARY, SCORES))


def write_predictions(folder: Path, evaluation: Evaluation, parquet: bool = True) -> None:
    """Write `predictions.csv`: a row a video.

    Its name, true class, best class and that class's score, whether it is right, and whether the true class is among
    the best five.

    Args:
        folder: where.
        evaluation: with the names of its videos and classes.
        parquet: write `predictions.parquet` too, with all scores, where pyarrow is installed.
    """
    table = _table(evaluation)

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for *front, score, right, top5 in zip(*table.values(), strict=True):
                writer.writerow([*front, f"{score:.6f}", int(right), int(top5)])

    write_atomically(folder / "predictions.csv", write)
    if not parquet:
        return
    try:
        arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        return
    columns = arrow.table({**table, "scores": list(evaluation.scores.numpy())})
    write_atomically(folder / "predictions.parquet", lambda partial: files.write_table(columns, partial))


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write `classes.csv` and `confusion.csv`."""

    def classes(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("class", "videos", "top1", "top5"))
            for one in evaluation.per_class():
                writer.writerow((one.name, one.videos, f"{one.top1:.6f}", f"{one.top5:.6f}"))

    def confusion(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("true \\ predicted", *evaluation.classes))
            for name, row in zip(evaluation.classes, evaluation.confusion.tolist(), strict=True):
                writer.writerow((name, *row))

    write_atomically(folder / "classes.csv", classes)
    write_atomically(folder / "confusion.csv", confusion)


def hash_of(*texts: str) -> str:
    """SHA-256 of texts, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()


def hash_of_items(items: Sequence[Item]) -> str:
    """SHA-256 of what is asked of a data set: names, classes and parts of the videos, not where they lie.

    Raises:
        BadInput: a name that cannot be written to the files of an evaluation.
    """
    for item in items:
        if any("\ud800" <= letter <= "\udfff" for letter in item.name):  # bytes that are no UTF-8, as Python has them
            raise BadInput(
                f"The name of the video {item.name!a} is not UTF-8, as csv and json files need it; rename it."
            )
    return hash_of(*(f"{item.name}\n{item.label}\n{item.start}\n{item.end}\n{item.frames}" for item in items))


def _table(evaluation: Evaluation) -> dict[str, list[Any]]:
    classes, best = evaluation.classes, evaluation.scores.max(dim=1)
    return {
        "name": list(evaluation.names),
        "label": [classes[index] for index in evaluation.labels.tolist()],
        "predicted": [classes[index] for index in best.indices.tolist()],
        "score": best.values.tolist(),
        "right": evaluation.hits(1).tolist(),
        "top5": evaluation.hits(5).tolist(),
    }


def _write_rows(path: Path, rows: Rows, about: Mapping[str, Any]) -> None:
    tensors = {"indices": rows.indices.contiguous()}
    tensors |= {f"scores.{order}": scores.contiguous() for order, scores in rows.scores.items()}
    metadata = {FORMAT: json.dumps({**about, "errors": rows.errors}, ensure_ascii=False)}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def _read_rows(path: Path) -> tuple[Rows, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            about = json.loads((file.metadata() or {})[FORMAT])
        scores = {key.removeprefix("scores."): value for key, value in tensors.items() if key.startswith("scores.")}
        errors = {int(index): sentence for index, sentence in about.pop("errors").items()}
        return Rows(tensors["indices"], scores, errors), about
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); remove it, and its videos are evaluated again."
        ) from None
