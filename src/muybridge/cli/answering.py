"""`muybridge predict` without --out: answers are printed as they are known, and written where that is asked for."""

from __future__ import annotations

import csv as csv_module
import json as json_module
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import Parameter

from muybridge.cli.app import WRONG, complain
from muybridge.errors import BadInput, MissingFile, VideoError

if TYPE_CHECKING:
    from torch import Tensor

    from muybridge.engine.answers import Question
    from muybridge.predicting.results import Predictions
    from muybridge.predicting.timeline import Timeline
    from muybridge.predicting.vectors import Vector
    from muybridge.recogniser import Recogniser
    from muybridge.structures import Item, SourceArgs


@Parameter(name="*")
@dataclass(frozen=True)
class Answering:
    """How answers are made and told; not with --out.

    Attributes:
        windows: answer a long video in windows of so many seconds, and print what happens when.
        step: seconds from the start of a window to that of the next (default: half a window).
        min_score: a window whose best class has a lower probability counts as nothing, 0 to 1.
        annotate: write the one video again with the labels in its corner (.mp4, .mov, .mkv); its sound is left out.
        csv: write the answers to this file in place of printing them.
        features: write embeddings too, the vectors from which the head tells the classes (.safetensors, .parquet).
    """

    windows: float | None = None
    step: float | None = None
    min_score: float | None = None
    annotate: Path | None = None
    csv: Path | None = None
    features: Path | None = None

    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]

    def check(self) -> None:
        """Raise BadInput or MissingFile before anything is loaded: options that do not fit, files that are there."""
        if self.windows is None:
            for name in ("step", "min_score"):
                if getattr(self, name) is not None:
                    raise BadInput(f"--{name.replace('_', '-')} is for --windows SECONDS, which is not given.")
        else:
            from muybridge.predicting.timeline import check_score, plan_windows

            plan_windows(0.0, self.windows, self.step)
            check_score(self.min_score or 0.0)
        if self.annotate is not None:
            from muybridge.predicting.annotate import check_out

            check_out(self.annotate)
        if self.features is not None and self.features.suffix not in (".safetensors", ".parquet"):
            raise BadInput(f"--features is {self.features}; expected a name ending in .safetensors or .parquet.")
        for path in (self.csv, self.features):
            if path is not None and path.exists():
                raise BadInput(f"{path} exists already; nothing is written over. Give another name.")
            if path is not None and not path.absolute().parent.is_dir():
                raise MissingFile(f"There is no folder {path.absolute().parent} to write {path.name} into.")


def find_inputs(inputs: Sequence[Path]) -> tuple[list[Item], list[str]]:
    """The videos that are meant, and what to call each: as it was given, within a folder by its path from here.

    One that is not there is found when it is read, and reported in its place.

    Raises:
        BadInput, MissingFile: as `find_videos`.
    """
    from muybridge.structures import Item
    from muybridge.video.inputs import GLOB, NO_LABEL, find_videos

    names: dict[Item, str] = {}
    for given in inputs:
        text = str(given)
        if not os.path.exists(text) and not any(mark in text for mark in (*GLOB, "{", "://", ":/")):
            names.setdefault(Item(os.path.abspath(text), NO_LABEL, os.path.abspath(text)), text)
            continue
        for item in find_videos([given]):
            relative = not given.is_absolute() and item.name.startswith(here := os.getcwd() + os.sep)
            name = item.name.removeprefix(here) if relative else item.name
            names.setdefault(item, text if item.path == item.name == os.path.abspath(text) else name)
    return list(names), list(names.values())


def predict_and_tell(
    load: Callable[[], Recogniser],
    inputs: Sequence[Path],
    top: int,
    answering: Answering,
    source: SourceArgs,
    batch_size: int,
    workers: int | None,
    json: bool,
) -> int:
    """Answer and print; 2 if some could not be read, which is told in their places."""
    from muybridge.engine.progress import Progress, ProgressBar
    from muybridge.predicting.asking import question_to

    answering.check()
    if workers is not None and workers < 0:
        raise BadInput(f"workers is {workers}; expected at least 0.")
    items, names = find_inputs(inputs)
    if answering.annotate is not None and len(items) != 1:
        raise BadInput(f"--annotate writes one video; {len(items)} are given.")
    recogniser = load()
    question = question_to(recogniser, top, batch_size, source)
    with ExitStack() as stack:
        teller = Teller(answering, json, min(top, len(recogniser.labels)), stack)
        # Answers that appear on a terminal show how far it is; a bar would be in their way.
        bar: Progress = Progress() if teller.on_terminal and answering.windows is None else ProgressBar()
        if answering.features is not None and answering.features.suffix == ".parquet":
            from muybridge.engine.collected import import_arrow

            import_arrow()
        each = _windows if answering.windows is not None else _whole
        for number, answer, feature in each(recogniser, question, items, names, answering, workers, bar):
            teller.tell(answer, feature)
            if answering.annotate is not None and not answer.error:
                _annotate(answering.annotate, items[number], answer, source)
        teller.finish(len(items))
    if answering.annotate is not None and not teller.failed:
        complain(f"wrote {answering.annotate}, without sound.")
    return WRONG if teller.failed else 0


class Teller:
    """Prints and writes answers in the order in which they come.

    Args:
        answering: where to.
        json: an object a line.
        top: how many classes a row of a table has.
        stack: closes the files.

    Attributes:
        failed: how many videos could not be read.
        on_terminal: whether answers are printed where somebody looks.
    """

    def __init__(self, answering: Answering, json: bool, top: int, stack: ExitStack) -> None:
        # A progress bar takes sys.stdout over while it runs, and writes what is printed where the bar is.
        self.out: TextIO = sys.stdout
        self.answering, self.json, self.failed = answering, json, 0
        self.printing = json or answering.csv is None
        self.on_terminal = self.printing and self.out.isatty()
        self.bars = self.on_terminal and _takes_blocks(self.out)
        self.features: list[Vector] = []
        columns = [f"{name}_{place}" for place in range(1, top + 1) for name in ("label", "score")]
        self.columns = ["path", *columns, "error"]
        if answering.windows is not None:
            self.columns = ["path", "start", "end", "label", "score", "error"]
        self.rows = None
        if answering.csv is not None:
            self.file = stack.enter_context(answering.csv.open("x", newline="", encoding="utf-8"))
            self.rows = csv_module.DictWriter(self.file, self.columns, lineterminator="\n")
            self.rows.writeheader()

    def tell(self, answer: Predictions | Timeline, feature: Tensor | None) -> None:
        """One video."""
        from muybridge.engine.collected import clean

        name = clean(answer.video) or ""
        shown = printable(name)
        if self.json:
            print(json_module.dumps({**answer.to_dict(), "video": name}, ensure_ascii=False), file=self.out, flush=True)
        elif self.printing and not answer.error:
            print("\n".join([shown, *map(printable, answer.lines(self.bars))]), file=self.out, flush=True)
        if answer.error:
            self.failed += 1
            if not self.json:
                complain(f"{shown}: {printable(answer.error)}")
        if self.rows is not None:
            self.rows.writerows({"path": name, **row} for row in _rows(answer))
            self.file.flush()  # Ctrl-C leaves the rows that are done
        if feature is not None:
            self._keep(name, answer, feature)

    def finish(self, asked: int) -> None:
        """All are told: write the features, and say what became of the files."""
        answering = self.answering
        if answering.csv is not None:
            what = "a row for every segment" if answering.windows is not None else "a row each"
            print(f"{asked} video{'s' if asked > 1 else ''}, {what} in {answering.csv}.", file=sys.stderr)
        if answering.features is not None and self.features:
            from muybridge.predicting.vectors import write_features

            write_features(answering.features, self.features)
            print(f"{len(self.features)} features in {answering.features}.", file=sys.stderr)
        if self.failed and (asked > 1 or self.json):
            complain(f"{self.failed} of {asked} videos cannot be read.")

    def _keep(self, name: str, answer: Predictions | Timeline, feature: Tensor) -> None:
        from muybridge.predicting.timeline import Timeline
        from muybridge.predicting.vectors import Vector

        if isinstance(answer, Timeline):
            rows = zip(answer.windows, feature, strict=True)
            self.features += [Vector(name, row, window.start, window.end) for window, row in rows]
        else:
            self.features.append(Vector(name, feature))


def _whole(
    recogniser: Recogniser,
    question: Question,
    items: Sequence[Item],
    names: Sequence[str],
    answering: Answering,
    workers: int | None,
    bar: Any,
) -> Iterator[tuple[int, Predictions, Tensor | None]]:
    """Every video as one, decoded by processes beside the model where there are several."""
    from muybridge.engine.answers import read_apart
    from muybridge.predicting.asking import ask

    dataset, batches = question.dataset(items), question.batches(range(len(items)))
    processes = min(1 if workers is None else workers, len(batches)) if len(items) > 1 else workers or 0
    if len(items) > 1:
        bar.start("predict", len(items))
    try:
        read = read_apart(dataset, batches, processes)
        for position, answer, feature in ask(recogniser, question, read, items, names, bool(answering.features)):
            yield position, answer, feature
            bar.advance(1)
    finally:
        bar.finish()


def _windows(
    recogniser: Recogniser,
    question: Question,
    items: Sequence[Item],
    names: Sequence[str],
    answering: Answering,
    workers: int | None,
    bar: Any,
) -> Iterator[tuple[int, Timeline, Tensor | None]]:
    """Every video in windows, one after the other."""
    from muybridge.engine.answers import reason_of
    from muybridge.predicting.asking import ask_windows
    from muybridge.predicting.timeline import Timeline

    assert answering.windows is not None
    step, least = answering.step or answering.windows / 2, answering.min_score or 0.0
    for number, (item, name) in enumerate(zip(items, names, strict=True)):
        feature = None
        try:
            answer, feature = ask_windows(
                recogniser, question, item, answering.windows, step, least, bar, bool(answering.features), name
            )
        except VideoError as error:
            answer = Timeline(name, 0.0, answering.windows, step, least, error=reason_of(item, str(error)))
        yield number, answer, feature


def _annotate(out: Path, item: Item, answer: Predictions | Timeline, source: SourceArgs) -> None:
    from muybridge.engine.progress import ProgressBar
    from muybridge.predicting.annotate import annotate
    from muybridge.predicting.timeline import Timeline

    def labels_at(second: float) -> Sequence[Any]:
        if not isinstance(answer, Timeline):
            return answer.predictions
        window = answer.at(second)
        return window.predictions if window is not None else ()

    annotate(item, out, labels_at, source, ProgressBar())


def _rows(answer: Predictions | Timeline) -> list[dict[str, Any]]:
    """The rows of a video in a table, without its path."""
    from muybridge.predicting.timeline import Timeline

    if answer.error:
        return [{"error": answer.error}]
    if isinstance(answer, Timeline):
        return [
            {
                "start": f"{segment.start:.3f}",
                "end": f"{segment.end:.3f}",
                "label": segment.label,
                "score": f"{segment.score:.6f}",
            }
            for segment in answer
        ]
    row: dict[str, Any] = {}
    for place, one in enumerate(answer, start=1):
        row |= {f"label_{place}": one.label, f"score_{place}": f"{one.score:.6f}"}
    return [row]


def printable(text: str) -> str:
    """The text in one line, without what a terminal would obey: names of files and classes are other people's."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _takes_blocks(out: TextIO) -> bool:
    try:
        "█▏".encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
