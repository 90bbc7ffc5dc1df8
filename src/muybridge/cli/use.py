"""`muybridge evaluate` and `muybridge predict`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from muybridge.cli.app import WRONG, Loading, app, complain
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.engine.evaluate import Evaluation

DEFAULT = Loading()


@app.command
def evaluate(
    run: Path,
    /,
    *,
    data: Path,
    split: str = "val",
    views: str | None = None,
    loading: Loading = DEFAULT,
    batch_size: int = 8,
    workers: int = 2,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Accuracy of a trained recogniser on videos with known classes.

    Args:
        run: a run folder, its model.safetensors, or a published checkpoint.
        data: the videos, laid out as for `train`; classes are matched by name.
        split: 'val', 'train' or 'all'.
        views: temporal views x spatial crops at test time, such as 3x1 (default: the run's).
        batch_size: videos at a time.
        workers: processes that decode.
        out: folder for evaluation.json and predictions.csv; must not have them yet.
        json: print the result as JSON.
    """
    from muybridge.engine.evaluate import evaluate_folder, write_evaluation
    from muybridge.engine.progress import ProgressBar

    if out is not None and any((out / name).exists() for name in ("evaluation.json", "predictions.csv")):
        raise BadInput(f"{out} has an evaluation already; nothing is written over. Give another --out.")
    recogniser = loading.load(run)
    evaluation, items = evaluate_folder(
        recogniser.method, recogniser.spec, data, split, views, batch_size, workers, recogniser.device, ProgressBar()
    )
    if out is not None:
        write_evaluation(out, evaluation, items, recogniser.labels)
    if json:
        print(json_module.dumps(evaluation.summary(recogniser.labels), ensure_ascii=False))
    else:
        _print_evaluation(evaluation, recogniser.labels)


def _print_evaluation(evaluation: Evaluation, labels: Sequence[str]) -> None:
    summary = evaluation.summary(labels)
    console = Console()
    table = Table(title=f"{summary['videos']} videos")
    table.add_column("class")
    table.add_column("videos", justify="right")
    table.add_column("top-1", justify="right")
    for name, figures in summary["classes"].items():
        table.add_row(escape(name), str(figures["videos"]), f"{figures['top1']:.1%}")
    console.print(table)
    console.print(
        f"top-1 {summary['top1']:.1%}, top-5 {summary['top5']:.1%}, mean over classes {summary['mean_class']:.1%}",
        highlight=False,
    )
    for sentence in evaluation.unreadable:
        console.print(f"Left out: {sentence}", markup=False, highlight=False)


@app.command
def predict(
    run: Path,
    /,
    *videos: Path,
    top: int = 5,
    loading: Loading = DEFAULT,
    json: bool = False,
) -> int:
    """What a trained recogniser sees in video files, in words.

    Args:
        run: a run folder, its model.safetensors, or a published checkpoint.
        videos: video files.
        top: how many classes to print.
        json: one JSON object a line and video.
    """
    from muybridge.errors import VideoError

    if not videos:
        raise BadInput("Name at least one video file after the run folder.")
    recogniser = loading.load(run)
    failed = 0
    for path in videos:
        try:
            answers = recogniser.predict(path, top)
        except VideoError as error:
            failed += 1
            complain(str(error))
            continue
        if json:
            rows = [{"label": answer.label, "index": answer.index, "score": answer.score} for answer in answers]
            print(json_module.dumps({"video": str(path), "predictions": rows}, ensure_ascii=False))
        else:
            print(path)
            for answer in answers:
                print(f"  {answer.score:6.1%}  {answer.label}")
    return WRONG if failed else 0
