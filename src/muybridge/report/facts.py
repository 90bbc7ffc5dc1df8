"""What the files of a run tell: read, not computed. A run without an evaluation, or not finished, is one too."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from muybridge.backbones.files import sha256_of_state
from muybridge.engine.checkpoint import MODEL, is_model, load_model, read_spec
from muybridge.engine.metrics import wilson_interval
from muybridge.engine.order import SUMMARY as ORDER
from muybridge.engine.predictions import SETTINGS, SUMMARY, hash_of
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.recipes import read_recipe
from muybridge.structures import ModelSpec, Recipe
from muybridge.video.labels import read_labels

RECIPE, LABELS, METRICS, PREDICTIONS, SPLIT = (
    *("recipe.json", "labels.txt", "metrics.jsonl", "predictions.csv", "split.csv"),
)


@dataclass(frozen=True)
class Answer:
    """A row of `predictions.csv`: a video, its class, the best class and that one's score in [0, 1]."""

    name: str
    label: str
    predicted: str
    score: float
    right: bool
    top5: bool


@dataclass(frozen=True)
class Result:
    """An evaluation, of a training or of `muybridge evaluate --out`.

    Attributes:
        folder: where its files are.
        summary: what `evaluation.json` holds.
        answers: a row a video; empty where there is no `predictions.csv`.
        order: what `order.json` holds; None: the order of the frames was not looked at.
        settings: what decided the scores, flat; empty for the evaluation at the end of a training.
        about: data, split and how they were found, likewise.
    """

    folder: Path
    summary: dict[str, Any]
    answers: tuple[Answer, ...]
    order: dict[str, Any] | None
    settings: dict[str, Any]
    about: dict[str, Any]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the top-1, with a probability of 95 %."""
        videos = int(self.summary["videos"])
        return wilson_interval(round(float(self.summary["top1"]) * videos), videos)


@dataclass(frozen=True)
class Sizes:
    """Parameters beside the backbone and of it (0: it is not in the file), and the file's size in bytes."""

    own: int
    backbone: int
    bytes: int


@dataclass(frozen=True)
class RunFacts:
    """Everything that the files of a run tell.

    Attributes:
        folder: of the run, or of an evaluation.
        recipe: how it was trained; None: the folder is an evaluation.
        spec: what its best model is; None: there is none yet.
        labels: class names by index; empty: not known.
        lines: of `metrics.jsonl`, one an epoch.
        result: its evaluation, if there is one.
        sizes: of the model.
        train_videos: how many it was trained on; 0: not known.
        notes: sentences that one should read beside it.
    """

    folder: Path
    recipe: Recipe | None
    spec: ModelSpec | None
    labels: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]
    result: Result | None
    sizes: Sizes | None
    train_videos: int
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call it: the folder's name."""
        return self.folder.absolute().name or str(self.folder)

    @property
    def seconds(self) -> float:
        """About how long the training epochs took, without evaluations; 0: not known."""
        rates = [float(line["videos_per_second"]) for line in self.lines if _number(line.get("videos_per_second"))]
        return sum(self.train_videos / rate for rate in rates if rate > 0)

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end."""
        return self.recipe is None or (self.folder / SUMMARY).is_file()


def read_run(folder: str | Path, evaluation: str | Path | None = None) -> RunFacts:
    """What the files of a run tell.

    Args:
        folder: of a run, or of a finished evaluation.
        evaluation: folder of an evaluation of this run, as `muybridge evaluate --out` wrote it; None: the latest one
            in the run folder, else what the training left.

    Raises:
        MissingFile: there is no run and no evaluation.
        BadInput: `evaluation` is of another model.
        CheckpointError: a file is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        raise MissingFile(f"There is nothing at {folder}; expected a run folder or the folder of an evaluation.")
    if folder.is_file():
        raise BadInput(f"{folder} is a file; expected a run folder, such as {folder.parent}.")
    if not (folder / RECIPE).is_file():
        if not (folder / SUMMARY).is_file():
            raise MissingFile(
                f"{folder} has neither {RECIPE} nor {SUMMARY}; expected a run folder or the folder that "
                "`muybridge evaluate` --out wrote."
            )
        if evaluation is not None:
            raise BadInput(f"{folder} is an evaluation itself; --evaluation is for a run folder.")
        alone = read_result(folder)
        return RunFacts(folder, None, None, tuple(alone.summary["classes"]), (), alone, None, 0)
    recipe = read_recipe(folder / RECIPE)
    spec = read_spec(folder) if is_model(folder) else None
    labels = spec.labels if spec else read_labels(folder / LABELS) if (folder / LABELS).is_file() else ()
    notes: list[str] = []
    result = _result(folder, spec, evaluation, notes)
    facts = RunFacts(
        folder, recipe, spec, labels, _lines(folder / METRICS), result, _sizes(folder), _videos(folder / SPLIT)
    )
    if not facts.finished:
        notes.insert(0, f"The training is not finished: {len(facts.lines)} of {recipe.train.epochs} epochs.")
    return RunFacts(**{**vars(facts), "notes": tuple(notes)})


def _result(folder: Path, spec: ModelSpec | None, given: str | Path | None, notes: list[str]) -> Result | None:
    if given is not None:
        if not (Path(given) / SUMMARY).is_file():
            raise MissingFile(f"{given} holds no finished evaluation; `muybridge evaluate` with --out writes one.")
        chosen = read_result(given)
        if not _same_model(chosen, spec):
            raise BadInput(f"{given} is the evaluation of another model than {folder}: its method or classes differ.")
        if spec is not None and not _same_weights(chosen, folder):
            raise BadInput(f"{given} is the evaluation of another model than {folder}: its weights differ.")
        return chosen
    found = sorted(folder.glob(f"*/{SUMMARY}"), key=lambda file: (file.stat().st_mtime, str(file)), reverse=True)
    inside = [file.parent for file in found if (file.parent / SETTINGS).is_file()]
    fitting = [result for result in map(read_result, inside) if _same_model(result, spec)]
    if fitting:
        if len(fitting) > 1:
            others = ", ".join(result.folder.name for result in fitting[1:])
            notes.append(
                f"Of {len(fitting)} evaluations in the run folder the latest is shown, {fitting[0].folder.name}; "
                f"others: {others} (--evaluation)."
            )
        return fitting[0]
    return read_result(folder) if (folder / SUMMARY).is_file() else None


def _same_weights(result: Result, folder: Path) -> bool:
    """Whether an evaluation is of these weights; also if that cannot be told, as the backbone is not in the file."""
    sizes = _sizes(folder)
    if "model" not in result.settings or sizes is None or not sizes.backbone:
        return True
    return bool(sha256_of_state(load_model(folder).method.state_dict()) == result.settings["model"])


def _same_model(result: Result, spec: ModelSpec | None) -> bool:
    """Whether an evaluation is of such a method with such classes."""
    if spec is None or "labels" not in result.settings:
        return True
    own = {key: value for key, value in result.settings.items() if key.startswith(f"{spec.method}.")}
    options = {f"{spec.method}.{key}": value for key, value in json.loads(json.dumps(spec.options)).items()}
    return result.settings["labels"] == hash_of(*spec.labels) and own == options


def read_result(folder: str | Path) -> Result:
    """The evaluation in a folder.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    folder = Path(folder)
    summary = _json(folder / SUMMARY)
    needed, of_class, classes = (
        ("videos", "top1", "top5", "mean_class"),
        ("videos", "top1", "top5"),
        summary.get("classes"),
    )
    if (
        not all(_number(summary.get(name)) for name in needed)
        or not isinstance(classes, dict)
        or not all(isinstance(one, dict) and all(_number(one.get(key)) for key in of_class) for one in classes.values())
        or not isinstance(summary.get("unreadable", []), list)
    ):
        raise CheckpointError(
            f"{folder / SUMMARY} is no evaluation of videos: expected the numbers {', '.join(needed)}, and classes "
            f"with {', '.join(of_class)} of each."
        )
    asked = _json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    order = _order(folder / ORDER) if (folder / ORDER).is_file() else None
    answers = _answers(folder / PREDICTIONS) if (folder / PREDICTIONS).is_file() else ()
    return Result(folder, summary, answers, order, asked.get("settings", {}), asked.get("about", {}))


def _order(file: Path) -> dict[str, Any]:
    order = _json(file)
    top1, rows = order.get("top1"), order.get("classes", [])
    if (
        not isinstance(top1, dict)
        or not isinstance(rows, list)
        or not all(_number(share) for share in top1.values())
        or not all(isinstance(row, dict) and "class" in row and all(_number(row.get(k)) for k in top1) for row in rows)
    ):
        raise CheckpointError(f"{file} is damaged: expected top1 of each order, for all videos and for each class.")
    return order


def _answers(file: Path) -> tuple[Answer, ...]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return tuple(
                Answer(
                    row["name"],
                    row["label"],
                    row["predicted"],
                    float(row["score"]),
                    row["right"] == "1",
                    row["top5"] == "1",
                )
                for row in csv.DictReader(opened)
            )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {error}).") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {error}).") from None


def _lines(file: Path) -> tuple[dict[str, Any], ...]:
    if not file.is_file():
        return ()
    try:
        text = file.read_text(encoding="utf-8")
        lines = [{**json.loads(line)} for line in text.splitlines() if line.strip()]
        # A line without an epoch is of something else. JSON of Python knows NaN, which no chart can show.
        return tuple(
            {**{key: _finite(value) for key, value in line.items()}, "epoch": int(line["epoch"])} for line in lines
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {error}).") from None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _videos(file: Path) -> int:
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            return sum(row.get("split") == "train" for row in csv.DictReader(opened))
    except (OSError, csv.Error):
        return 0


def _sizes(folder: Path) -> Sizes | None:
    file = folder / MODEL
    if not is_model(file):
        return None
    counts = {"method": 0, "backbone": 0}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no dict
                part = key.partition(".")[0]
                counts[part] = counts.get(part, 0) + math.prod(opened.get_slice(key).get_shape())
    except (SafetensorError, OSError):
        return None
    return Sizes(counts["method"], counts["backbone"], file.stat().st_size)
