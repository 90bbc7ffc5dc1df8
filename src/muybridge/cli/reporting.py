"""`muybridge report` and `muybridge compare`: runs as pages and tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from muybridge.cli.app import app
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.report.compare import Comparison

ACROSS = 4  # runs beside each other in a table of settings


@app.command
def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    evaluation: Path | None = None,
    data: str | None = None,
    thumbnails: int = 9,
) -> None:
    """A run as one page of HTML: results, curves, classes, confusion, videos, settings.

    The page holds everything itself: it can be mailed, needs no network, follows the light or dark scheme and prints.

    Args:
        run: a run folder, finished or not, or the folder that `evaluate --out` wrote.
        out: the page (default: report.html in the run folder). An earlier page is replaced, nothing else.
        evaluation: folder of an evaluation of this run (default: the latest in the run folder, else the training's).
        data: where the videos are now, if they have moved.
        thumbnails: how many of the most certain right answers are shown, and of the wrong ones.
    """
    if thumbnails < 0:
        raise BadInput(f"--thumbnails is {thumbnails}; expected 0 or more.")
    from muybridge.report.page import write_report

    print(f"Written: {write_report(run, out, evaluation, data, thumbnails)}")


@app.command
def compare(
    *runs: Path,
    html: Path | None = None,
    csv: Path | None = None,
    json: bool = False,
) -> None:
    """Runs side by side: results, costs, the settings that differ, and what each has right of the same videos.

    Args:
        runs: run folders, or folders that `evaluate --out` wrote; at least two.
        html: a page to write, with the curves over each other. An earlier page is replaced, nothing else.
        csv: a file to write, a row a run.
        json: print as JSON.
    """
    import json as json_module

    from muybridge.report.compare import compare_runs, write_csv
    from muybridge.report.compare_page import compare_page
    from muybridge.report.page import check_page, write_page

    comparison = compare_runs(runs)
    if html is not None:
        check_page(html)
    if csv is not None:
        write_csv(csv, comparison)
    if html is not None:
        write_page(html, compare_page(comparison))
    if json:
        print(json_module.dumps(comparison.to_dict(), ensure_ascii=False))
        return
    print_comparison(comparison)
    for path in (html, csv):
        if path is not None:
            print(f"Written: {path}")


def print_comparison(comparison: Comparison) -> None:
    """Tables of results, costs and settings, and a sentence for each pair of runs."""
    from muybridge.report.compare_page import COLUMNS, COSTS, RESULTS, figure_text, kept, pair_sentence
    from muybridge.report.settings import value_text

    console, rows, names = Console(), comparison.rows(), comparison.names

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for chosen in (RESULTS, COSTS):
        figures = kept(comparison, chosen)
        if not figures:
            continue
        table = Table()
        table.add_column("run", overflow="fold")
        for name in figures:
            table.add_column(COLUMNS[name], justify="right")
        for row in rows:
            cells = [figure_text(name, row[name]) for name in figures]
            table.add_row(escape(row["run"]), *cells)
        console.print(table)
    if comparison.settings:
        for start in range(0, len(names), ACROSS):
            say("\nsettings that differ")
            table = Table()
            for name in ("field", *names[start : start + ACROSS]):
                table.add_column(escape(name), overflow="fold")
            for field, values in comparison.settings.items():
                table.add_row(field, *(escape(value_text(value)) for value in values[start : start + ACROSS]))
            console.print(table)
    elif all(run.recipe is not None for run in comparison.runs):
        say("No setting differs.")
    for pair in comparison.pairs:
        say(f"{pair_sentence(names, pair)}.")
    for note in comparison.notes:
        say(note)
