"""Tables of figures in the documentation: rows as Markdown, put between the marks of a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from muybridge.measure.table import read_rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"


def latest(name: str, *keys: str) -> list[dict[str, str]]:
    """Rows of results/<name>.csv; of those that were measured again, being equal in `keys`, the last."""
    return list({tuple(row[key] for key in keys): row for row in read_rows(RESULTS / f"{name}.csv")}.values())


def parse(parser: argparse.ArgumentParser, page: str, write: Callable[[], None]) -> argparse.Namespace:
    """The options, --out among them, which is needed; with --table `write` is called and the program ends.

    Args:
        parser: with the other options.
        page: what `write` puts the table of the committed CSV into.
        write: see `put`.
    """
    parser.add_argument("--out", type=Path, help="CSV to append to")
    parser.add_argument("--table", action="store_true", help=f"put the table of the committed CSV into {page}")
    asked = parser.parse_args()
    if asked.table:
        write()
        parser.exit()
    if asked.out is None:
        parser.error("give --out FILE or --table")
    return asked


def markdown(rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Rows as a table.

    Args:
        rows: the first is the head.
        words: how many columns are words, on the left; what is behind them are numbers.
    """
    head, *body = list(rows)
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    return "\n".join("".join(f"| {cell}".rstrip() + " " for cell in line) + "|" for line in (head, rule, *body))


def put(page: Path, name: str, table: str) -> None:
    """Replace what stands between `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page} has no place for the table '{name}'; expected one {begin} and one {end} behind it.")
    page.write_text(f"{text.split(begin)[0]}{begin}\n{table}\n{end}{text.split(end)[1]}", encoding="utf-8")
