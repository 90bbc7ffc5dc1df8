"""`muybridge compare --html`: the comparison as one page, with the curves of the runs over each other."""

from __future__ import annotations

from typing import Any

from muybridge.engine.progress import duration
from muybridge.report.charts import line_chart, percent, share_bar
from muybridge.report.compare import Comparison, Pair
from muybridge.report.markup import Markup, join, table, tag
from muybridge.report.page import document, points
from muybridge.report.settings import value_text

# Figure -> its column's name and how it is written.
COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class": "mean over classes",
    "videos": "videos",
    "shuffled_gap": "gap, shuffled",
    "within_twins": "within twins",
    "own_parameters": "own parameters",
    "model_bytes": "MB",
    "epochs": "epochs",
    "epoch_seconds": "time in epochs",
    "videos_per_second": "videos/s",
    "memory_gb": "peak GB",
}
RESULTS = ("top1", "top5", "mean_class", "videos", "shuffled_gap", "within_twins")
COSTS = ("own_parameters", "model_bytes", "epochs", "epoch_seconds", "videos_per_second", "memory_gb")


def figure_text(name: str, value: Any) -> str:
    """A figure of a run as a person reads it; `-` where the run does not tell."""
    if value is None:
        return "-"
    if name in ("top1", "top5", "mean_class", "within_twins"):
        return f"{value:.1%}"
    if name == "shuffled_gap":
        return f"{value * 100:+.1f}"
    if name == "own_parameters":
        return f"{value:,}"
    if name == "model_bytes":
        return f"{value / 1e6:.0f}"
    if name == "epoch_seconds":
        return duration(value)
    if name == "videos_per_second":
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    if name == "memory_gb":
        return f"{value:.1f}"
    return f"{value:,}"


def pair_sentence(names: tuple[str, ...], pair: Pair) -> str:
    """What two runs say of the same videos, in words."""
    first, second = names[pair.first], names[pair.second]
    p = pair.p_value
    chance = "p below 0.0001" if p < 1e-4 else f"p = {p:.2g}"
    verdict = (
        "more than chance explains" if p < 0.05 else "which chance explains as well" if p > 0.2 else "perhaps chance"
    )
    return (
        f"{first} / {second}: of {pair.videos} videos {pair.both} right in both, {pair.only_first} only in {first}, "
        f"{pair.only_second} only in {second}, {pair.neither} in neither; {chance}, {verdict}"
    )


def kept(comparison: Comparison, names: tuple[str, ...]) -> list[str]:
    """Those figures that a run has."""
    rows = comparison.rows()
    return [name for name in names if any(row[name] is not None for row in rows)]


def compare_page(comparison: Comparison) -> str:
    """The text of the page."""
    rows, names = comparison.rows(), comparison.names
    results = kept(comparison, RESULTS)
    cells: list[list[object]] = []
    for row in rows:
        bar: object = ""
        if row["top1"] is not None:
            bar = share_bar(round(row["top1"] * row["videos"]), row["videos"])
        cells.append([row["run"], bar, *(figure_text(name, row[name]) for name in results)])
    head = ["run", "top-1 with its 95 % interval", *(COLUMNS[name] for name in results)]
    costs = kept(comparison, COSTS)
    cost_cells: list[list[object]] = [[row["run"], *(figure_text(name, row[name]) for name in costs)] for row in rows]
    parts = [
        tag("header", tag("h1", "Runs side by side"), tag("p", ", ".join(names))),
        *(tag("p", note, class_="note") for note in comparison.notes),
        tag("h2", "Results"),
        table(head, cells, numbers=len(results), class_="bars"),
        _pairs(comparison),
    ]
    if costs:
        columns = ["run", *(COLUMNS[name] for name in costs)]
        parts += [tag("h2", "Costs"), table(columns, cost_cells, numbers=len(costs))]
    curves = {name: run.lines for name, run in zip(names, comparison.runs, strict=True) if run.lines}
    if curves:
        parts += [
            tag("h2", "Training"),
            tag(
                "div",
                line_chart(
                    "Validation top-1", {n: points(lines, "val_top1") for n, lines in curves.items()}, percent, (0, 1)
                ),
                line_chart("Loss, training", {n: points(lines, "loss") for n, lines in curves.items()}),
                class_="charts",
            ),
        ]
    parts.append(tag("h2", "Settings"))
    if comparison.settings:
        fields: list[list[object]] = [
            [tag("code", name), *map(value_text, values)] for name, values in comparison.settings.items()
        ]
        parts += [tag("p", "Where they differ."), table(["field", *names], fields, class_="wide")]
    else:
        parts.append(tag("p", "No setting differs."))
    return document(f"{' / '.join(names[:3])} - muybridge compare", *parts)


def _pairs(comparison: Comparison) -> Markup:
    if not comparison.pairs:
        return tag("p", "No two of these runs have answers to the same videos.")
    names = comparison.names
    rows: list[list[object]] = [
        [
            names[pair.first],
            names[pair.second],
            *(str(count) for count in (pair.videos, pair.both, pair.only_first, pair.only_second, pair.neither)),
            "< 0.0001" if pair.p_value < 1e-4 else f"{pair.p_value:.2g}",
        ]
        for pair in comparison.pairs
    ]
    head = ["A", "B", "videos", "both right", "only A", "only B", "neither", "p"]
    alone = [pair for pair in comparison.pairs if pair.alone]
    more = f" {max(pair.alone for pair in alone)} videos or fewer are in one of two only and left out." if alone else ""
    told = (
        "p: how likely such a difference in what only one has right is by chance (McNemar's exact test); it tells of "
        f"the videos, not of the seeds of the training.{more}"
    )
    return join(tag("h3", "The same videos"), table(head, rows, numbers=6), tag("p", told, class_="legend"))
