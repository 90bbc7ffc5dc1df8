"""`muybridge evaluate`: accuracy as one can publish it, order diagnostics, actions, zero-shot."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from muybridge.cli.app import WRONG, Fields, Loading, Reading, app, parse_labels
from muybridge.errors import BadInput, MuybridgeError

if TYPE_CHECKING:
    from muybridge.engine.evaluate import EvaluateArgs
    from muybridge.engine.metrics import ActionEvaluation, Evaluation
    from muybridge.engine.order import OrderDiagnostics
    from muybridge.engine.progress import Progress
    from muybridge.engine.protocols import ZeroShot

LOADING, READING = Loading(), Reading()
FEW, WORST, BEST, PAIRS = 24, 12, 4, 8  # classes that are all shown; else the worst and the best; confused pairs
NARROWEST = 14  # of a column of class names beside four of numbers: 80 characters hold two such
ACTIONS = "actions.json"


@app.command
def evaluate(
    run: Path,
    /,
    *,
    data: str | None = None,
    split: str = "val",
    views: str | None = None,
    out: Path | None = None,
    order: bool = False,
    twins: str | None = None,
    seed: int = 0,
    noun_run: Path | None = None,
    zero_shot: bool = False,
    template: str = "{}",
    folds: str | None = None,
    loading: Loading = LOADING,
    reading: Reading = READING,
    batch_size: int = 8,
    workers: int = 2,
    json: bool = False,
    fields: Fields = None,
) -> int:
    """Accuracy of a trained recogniser on videos with known classes.

    With --out every video's prediction is kept while it runs: the same command goes on where one was stopped. Several
    processes share the work: torchrun --nproc-per-node 2 -m muybridge evaluate ... Limits for a file that is hard to
    read: --source.seconds, --source.megapixels, --source.megabytes, as in `train`.

    Args:
        run: a run folder, its model.safetensors, a published checkpoint, or a published recipe whose file is here;
            without --data the folder of a finished evaluation, which is shown again.
        data: the videos, laid out as for `train`; classes are matched by name.
        split: 'val', 'train' or 'all'.
        views: temporal views x spatial crops at test time, such as 3x1 (default: the run's).
        out: folder for evaluation.json, predictions.csv, the scores, classes.csv and confusion.csv.
        order: also with the frames reversed, shuffled and frozen to one: what the order of the frames is worth.
        twins: with --order, classes that turn into each other when a video is reversed: 'opening,closing;up,down' or a
            file with a pair a line (default: found).
        seed: of the shuffles.
        noun_run: `run` knows the verbs and this run the nouns: the action score of EPIC-KITCHENS. Both may be folders
            of finished evaluations, without --data.
        zero_shot: recognise the data's classes by their names alone, or by --labels; needs a model with a text head.
        template: with --zero-shot, the text around a class name, such as 'a video of {}'.
        folds: with --zero-shot, several official splits, such as 1,2,3: mean and deviation.
        batch_size: views at a time.
        workers: processes that decode.
        json: print the result as JSON.
    """
    from muybridge.engine.evaluate import EvaluateArgs, evaluate_data
    from muybridge.engine.processes import is_first, own_gpu
    from muybridge.engine.progress import Progress, ProgressBar

    first = is_first()  # of several processes the first one speaks
    progress: Progress = ProgressBar() if first else Progress()
    args = EvaluateArgs(split, views or "", batch_size, workers, reading.args(fields))
    _check_options(order, twins, noun_run, zero_shot, template, folds)
    if data is None:
        needed = {"order": order, "zero-shot": zero_shot, "views": views is not None, "split": split != "val"}
        needed["out"] = out is not None and noun_run is None
        for name in (name for name, given in needed.items() if given):
            raise BadInput(f"--{name} is for videos that are evaluated now. Give the videos with --data.")
    result: Evaluation | OrderDiagnostics | ActionEvaluation | ZeroShot
    try:
        if noun_run is not None:
            result = _actions(run, noun_run, data, args, out, loading, progress)
        elif data is None:
            result = _shown(run)
        else:
            own_gpu()
            labels = parse_labels(loading.labels) if zero_shot else None
            recogniser = (replace(loading, labels=None) if zero_shot else loading).load(run)
            if zero_shot:
                from muybridge.engine.protocols import zero_shot as run_zero_shot

                chosen, weights = _folds(folds), loading.weights
                result = run_zero_shot(recogniser, data, args, chosen, labels, template, out, progress, weights)
            elif order:
                from muybridge.engine.order import order_diagnostics

                result = order_diagnostics(recogniser, data, args, twins, seed, out, progress)
            else:
                result = evaluate_data(recogniser, data, args, out, progress)
    except MuybridgeError:
        if first:
            raise
        return WRONG
    if first:
        if json:
            print(json_module.dumps(result.summary(), ensure_ascii=False))
        else:
            _print(result)
            if out is not None:
                print(f"Every prediction: {out}" if data is not None else f"Written: {out / ACTIONS}")
    return 0


def _check_options(
    order: bool,
    twins: str | None,
    noun_run: Path | None,
    zero_shot: bool,
    template: str,
    folds: str | None,
) -> None:
    """Options that exclude each other, or mean nothing without another."""
    kinds = [
        name for name, given in (("--order", order), ("--noun-run", noun_run), ("--zero-shot", zero_shot)) if given
    ]
    if len(kinds) > 1:
        raise BadInput(f"{' and '.join(kinds)} exclude each other; give one.")
    if twins is not None and not order:
        raise BadInput("--twins is read with --order only; give both.")
    if (template != "{}" or folds is not None) and not zero_shot:
        raise BadInput("--template and --folds are read with --zero-shot only; for one split give --fold.")


def _folds(text: str | None) -> tuple[int, ...]:
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) > 0 for word in words) or len(set(words)) < len(words):
        raise BadInput(f"folds is '{text}'; expected different official splits from 1, such as 1,2,3.")
    return tuple(map(int, words))


def _finished(folder: Path) -> Evaluation:
    from muybridge.engine.predictions import is_evaluation, read_evaluation

    if not is_evaluation(folder):
        raise BadInput(
            f"Give the videos with --data. Without them the folder of a finished evaluation is shown, and {folder} is "
            "none."
        )
    return read_evaluation(folder)


def _shown(folder: Path) -> Evaluation | OrderDiagnostics:
    from muybridge.engine import order

    evaluation = _finished(folder)
    return order.read_order(folder) if (folder / order.SUMMARY).is_file() else evaluation


def _actions(
    verb_run: Path,
    noun_run: Path,
    data: str | None,
    args: EvaluateArgs,
    out: Path | None,
    loading: Loading,
    progress: Progress,
) -> ActionEvaluation:
    from muybridge.engine.checkpoint import write_atomically
    from muybridge.engine.evaluate import evaluate_data
    from muybridge.engine.metrics import join_actions
    from muybridge.engine.processes import join_processes, own_gpu

    own_gpu()
    parts = []
    kinds: tuple[tuple[Literal["verb", "noun"], Path], ...] = (("verb", verb_run), ("noun", noun_run))
    for kind, run in kinds:
        if data is None:
            parts.append(_finished(run))
            continue
        progress.say(f"{kind}s: {run}")
        part = replace(args, source=replace(args.source, label=kind))
        parts.append(evaluate_data(loading.load(run), data, part, out / kind if out else None, progress))
    actions = join_actions(*parts)
    if out is not None and join_processes().first:
        text = json_module.dumps(actions.summary(), indent=2) + "\n"
        write_atomically(out / ACTIONS, lambda partial: partial.write_text(text, encoding="utf-8"))
    return actions


def _print(result: Any) -> None:
    from muybridge.engine.metrics import ActionEvaluation
    from muybridge.engine.order import OrderDiagnostics
    from muybridge.engine.protocols import ZeroShot

    console = Console()
    if isinstance(result, ActionEvaluation):
        _print_actions(console, result)
    elif isinstance(result, OrderDiagnostics):
        _print_order(console, result)
    elif isinstance(result, ZeroShot):
        _print_zero_shot(console, result)
    else:
        _print_evaluation(console, result)


def _table(console: Console, title: str, *columns: str) -> Table:
    """A table under its title, which may be wider; the first column is text, the others are numbers."""
    console.print(f"\n{title}", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    return table


def _print_evaluation(console: Console, evaluation: Evaluation) -> None:
    rows = evaluation.per_class()
    title, chosen = f"{len(evaluation.labels)} videos", rows
    if len(rows) > FEW:
        ranked = sorted(rows, key=lambda one: one.top1)
        title += f"; the {WORST} worst and the {BEST} best of {len(rows)} classes"
        chosen = [*ranked[:WORST], *ranked[-BEST:]]
    table = _table(console, title, "class", "videos", "top-1", "top-5")
    for place, one in enumerate(chosen):
        table.add_row(escape(one.name), str(one.videos), f"{one.top1:.1%}", f"{one.top5:.1%}")
        if len(rows) > FEW and place == WORST - 1:
            table.add_section()
    console.print(table)
    pairs = evaluation.confused_pairs(PAIRS)
    if pairs:
        table = _table(console, "most confused", "class", "taken for", "videos", "share")
        table.columns[1].justify, table.columns[1].no_wrap = "left", False
        for pair in pairs:
            table.add_row(escape(pair.label), escape(pair.predicted), str(pair.count), f"{pair.share:.1%}")
        console.print(table)
    low, high = evaluation.top1_interval
    console.print(
        f"top-1 {evaluation.top1:.1%} (95 % interval {low:.1%} to {high:.1%}), top-5 {evaluation.top5:.1%}, mean over "
        f"classes {evaluation.mean_class:.1%}",
        highlight=False,
        soft_wrap=True,
    )
    _print_left_out(console, evaluation.unreadable)


def _print_left_out(console: Console, sentences: Sequence[str]) -> None:
    for sentence in sentences[:20]:
        console.print(f"Left out: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if len(sentences) > 20:
        console.print(f"Left out: {len(sentences) - 20} more; evaluation.json of --out names all.", highlight=False)


def _print_order(console: Console, result: OrderDiagnostics) -> None:
    within = {order: result.within_twins(order) for order in result.orders}
    table = _table(console, f"{len(result.right.labels)} videos", "order of the frames", "top-1", "gap", "within twins")
    for order, one in result.orders.items():
        share = within[order]
        gap = "" if one is result.right else f"{result.gap(order) * 100:+.1f}"
        table.add_row(order, f"{one.top1:.1%}", gap, "-" if share is None else f"{share:.1%}")
    console.print(table)
    needing = [row for row in result.per_class() if row["right"] > row["shuffled"]]
    if needing:
        title = "classes that need the order most: top-1"
        table = _table(console, title, "class", "right", "reversed", "shuffled", "frozen", "twin")
        table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
        table.columns[0].min_width = table.columns[-1].min_width = NARROWEST
        for row in sorted(needing, key=lambda row: row["shuffled"] - row["right"])[:WORST]:
            shares = [f"{row[order]:.1%}" for order in result.orders]
            table.add_row(escape(row["class"]), *shares, escape(row["twin"]))
        console.print(table)
    else:
        console.print("No class is recognised better in the right order than shuffled.", highlight=False)
    if result.twins:
        count = "1 pair" if len(result.twins) == 1 else f"{len(result.twins)} pairs"
        how = "given" if result.given else "found in the answers to the reversed videos"
        turned = "-" if result.turned is None else f"{result.turned:.1%}"
        console.print(
            f"Twins: {count}, {how}; reversed, their videos are taken for the twin: {turned}.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print("No twins were found: no two classes turn into each other when reversed.", highlight=False)
    _print_left_out(console, result.right.unreadable)


def _print_actions(console: Console, result: ActionEvaluation) -> None:
    table = _table(console, f"{len(result.verb.labels)} videos", "", "top-1", "top-5")
    for name, one in (("verb", result.verb), ("noun", result.noun), ("action", result)):
        table.add_row(name, f"{one.top1:.1%}", f"{one.top5:.1%}")
    console.print(table)
    if result.alone:
        console.print(f"{len(result.alone)} videos are in one evaluation only and left out.", highlight=False)
    _print_left_out(console, sorted({*result.verb.unreadable, *result.noun.unreadable}))


def _print_zero_shot(console: Console, result: ZeroShot) -> None:
    table = _table(
        console,
        f"zero-shot, {len(result.texts)} classes such as '{result.texts[0]}'",
        "split",
        "videos",
        "top-1",
        "top-5",
    )
    for fold, one in result.evaluations.items():
        table.add_row(str(fold), str(len(one.labels)), f"{one.top1:.1%}", f"{one.top5:.1%}")
    if len(result.evaluations) > 1:
        table.add_section()
        table.add_row("mean", "", str(result.top1), str(result.top5))
    console.print(table)
    for one in result.evaluations.values():
        _print_left_out(console, one.unreadable)
