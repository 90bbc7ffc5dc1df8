"""`muybridge report`: a run as one page of HTML, with everything in it: no script, no network, nothing beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import muybridge
from muybridge.backbones.weights import BACKBONES
from muybridge.engine.checkpoint import write_atomically
from muybridge.engine.progress import duration
from muybridge.errors import BadInput
from muybridge.methods import METHODS
from muybridge.report.charts import line_chart, percent
from muybridge.report.environment import environment, without_home
from muybridge.report.facts import RunFacts, read_run
from muybridge.report.markup import Markup, table, tag
from muybridge.report.results import how_evaluated, result_parts, video_parts
from muybridge.report.settings import changed, settings_of, value_text
from muybridge.report.style import STYLE
from muybridge.structures import Recipe

GENERATOR = "muybridge"
CARDS = 9
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    evaluation: str | Path | None = None,
    data: str | None = None,
    thumbnails: int = CARDS,
) -> Path:
    """Write a run as one page.

    Args:
        folder: of a run, or of a finished evaluation.
        out: the page; None: `report.html` in `folder`. A page of muybridge that is there is replaced, nothing else.
        evaluation: as in `read_run`.
        data: where the videos of the evaluation are now; None: where they were.
        thumbnails: videos of the most certain right answers, and as many wrong ones; 0: none.

    Returns:
        The page.

    Raises:
        MuybridgeError: as `read_run`; `out` is something else than a page of muybridge.
    """
    facts = read_run(folder, evaluation)
    page = Path(out) if out is not None else facts.folder / "report.html"
    check_page(page)
    write_page(page, report_page(facts, page, data, thumbnails))
    return page


def check_page(page: Path) -> None:
    """Raise BadInput where a page cannot be written without losing something."""
    if page.is_dir():
        raise BadInput(f"{page} is a folder; expected a file for the page, such as {page / 'report.html'}.")
    if page.exists():
        with page.open("rb") as file:
            if f'name="generator" content="{GENERATOR}'.encode() not in file.read(600):
                raise BadInput(f"{page} is there and no page of muybridge; nothing is written over. Give another file.")


def write_page(page: Path, text: str) -> None:
    """Write a page; bytes of file names that are no text become question marks."""
    try:
        write_atomically(page, lambda partial: partial.write_bytes(text.encode("utf-8", "replace")))
    except OSError as error:
        raise BadInput(f"{page} cannot be written: {error.strerror or error}. Give another file.") from None


def document(title: str, *body: object) -> str:
    """A whole page around its body."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=f"{GENERATOR} {muybridge.__version__}"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    written = f"Written by muybridge {muybridge.__version__}, {time.strftime('%Y-%m-%d %H:%M')}."
    foot = tag("footer", written)
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *body, foot)), lang="en") + "\n"


def report_page(facts: RunFacts, page: Path, data: str | None = None, thumbnails: int = CARDS) -> str:
    """The text of the page; see `write_report`."""
    result = facts.result
    parts = [_header(facts), *(tag("p", note, class_="note") for note in facts.notes), _tiles(facts)]
    if result is None:
        parts.append(_how_to_evaluate(facts))
    if facts.lines:
        parts += [tag("h2", "Training"), training_charts(facts)]
    if result is not None:
        parts += result_parts(facts, result)
        if thumbnails:
            parts += video_parts(facts, result, page, data, thumbnails)
    if facts.recipe is not None:
        parts += _settings(facts.recipe)
    parts.append(_environment())
    return document(f"{facts.name} - muybridge report", *parts)


def _header(facts: RunFacts) -> Markup:
    lines: list[object] = []
    if facts.recipe is not None:
        recipe = facts.recipe
        lines.append(METHODS[recipe.method].title if recipe.method in METHODS else recipe.method)
        size = "x".join(map(str, recipe.transform.size))
        licence = f", weights {BACKBONES[recipe.backbone].licence}" if recipe.backbone in BACKBONES else ""
        lines.append(f"{recipe.backbone}{licence}; {recipe.sampling.frames} frames of {size} px")
    elif facts.result is not None:
        lines.append(f"Evaluation of {facts.result.settings.get('method', 'a model')}")
    lines.append(tag("code", without_home(facts.folder.absolute())))
    return tag("header", tag("h1", facts.name), *(tag("p", line) for line in lines))


def _tiles(facts: RunFacts) -> Markup:
    tiles: list[tuple[str, str, str]] = []
    result = facts.result
    if result is not None:
        low, high = result.interval
        summary = result.summary
        unreadable, how = len(summary.get("unreadable", ())), how_evaluated(facts, result)
        tiles += [
            ("top-1", f"{summary['top1']:.1%}", f"95 %: {low:.1%} to {high:.1%}"),
            ("top-5", f"{summary['top5']:.1%}", "all classes" if len(facts.labels) <= 5 else ""),
            ("mean over classes", f"{summary['mean_class']:.1%}", f"{len(facts.labels)} classes"),
            (
                "videos",
                f"{summary['videos']:,}",
                f"{unreadable} unreadable" if unreadable else how,
            ),
        ]
    if facts.lines:
        epochs = f"{facts.lines[-1]['epoch']}"
        spent = f"about {duration(facts.seconds)} in epochs" if facts.seconds else ""
        tiles.append(("epochs", epochs, spent))
    if facts.sizes is not None:
        whole = f"backbone {_millions(facts.sizes.backbone)}" if facts.sizes.backbone else "saved without its backbone"
        tiles.append(("own parameters", _millions(facts.sizes.own), f"{whole}; {facts.sizes.bytes / 1e6:.0f} MB"))
    return tag(
        "div",
        *(tag("div", tag("span", n), tag("b", v), tag("small", m), class_="tile") for n, v, m in tiles),
        class_="tiles",
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


def _how_to_evaluate(facts: RunFacts) -> Markup:
    what = "There is no evaluation yet. When the training is finished, this gives one"
    data = facts.recipe.data if facts.recipe else "DATA"
    run = without_home(facts.folder)
    command = f"muybridge evaluate {_quoted(run)} --data {_quoted(without_home(data) or 'DATA')} --order --out "
    return tag(
        "div",
        tag("h2", "Results"),
        tag("p", f"{what}, with what the order of the frames is worth; then write the report again:"),
        tag("pre", tag("code", command + _quoted(f"{run}/evaluation"))),
    )


def _quoted(text: str) -> str:
    import shlex

    return text if text.startswith("~/") and shlex.quote(text[2:]) == text[2:] else shlex.quote(text)


def points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of a figure of `metrics.jsonl`, where it is."""
    return [(line["epoch"], float(line[name])) for line in lines if isinstance(line.get(name), (int, float))]


def training_charts(facts: RunFacts) -> Markup:
    """Curves of a training: loss, accuracy, learning rate, speed and waiting."""
    lines = facts.lines
    charts = [
        line_chart("Loss", {"training": points(lines, "loss")}),
        line_chart(
            "Accuracy, top-1",
            {
                "training": points(lines, "accuracy"),
                "validation": points(lines, "val_top1"),
                **({"validation top-5": points(lines, "val_top5")} if len(facts.labels) > 5 else {}),
            },
            percent,
            (0.0, 1.0),
        ),
        line_chart("Learning rate", {"rate": points(lines, "lr")}, lambda value: f"{value:.2g}"),
        line_chart("Speed, videos a second", {"training": points(lines, "videos_per_second")}),
        line_chart("Time spent waiting for videos", {"share": points(lines, "data_wait")}, percent, (0.0, 0.1)),
        line_chart("Peak memory, GB", {"memory": points(lines, "memory_gb")}),
    ]
    return tag("div", *charts, class_="charts")


def _settings(recipe: Recipe) -> list[Markup]:
    rows: list[list[object]] = [
        [tag("code", name), value_text(value), value_text(default)]
        for name, (value, default) in changed(recipe).items()
    ]
    every: list[list[object]] = [[tag("code", name), value_text(value)] for name, value in settings_of(recipe).items()]
    return [
        tag("h2", "Settings"),
        tag("p", "What differs from the defaults."),
        table(["field", "value", "default"], rows, class_="wide"),
        tag("details", tag("summary", f"All {len(every)} fields"), table(["field", "value"], every, class_="wide")),
    ]


def _environment() -> Markup:
    groups = environment()
    rows: list[list[object]] = [
        [group.replace("_", " "), name.replace("_", " "), value_text(value)]
        for group, facts in groups.items()
        if group not in ("caches", "variables")
        for name, value in facts.items()
    ]
    machine = f"{groups['system']['processor']}, {groups['torch']['gpus']} GPU, torch {groups['torch']['version']}"
    return tag(
        "div",
        tag("h2", "Environment"),
        tag("p", f"Where this page was written: {machine.replace('none GPU', 'no GPU')}."),
        tag("details", tag("summary", "Versions and machine"), table(["", "", ""], rows, class_="wide")),
    )
