"""benchmarks/parts.py: that its two ways of every step agree, and that the pages show the committed tables."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from muybridge.measure.table import append_row
from muybridge.measure.timing import Times

ROOT = Path(__file__).parents[2]
# Two frames of one video, and few channels; the grid stays.
SMALL = {"B": 1, "T": 2, "N": 2, "D": 64, "HEADS": 2, "NARROW": 48, "MAPS": 8}


@pytest.fixture(scope="module")
def bench():
    """A program of benchmarks/ by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # they import what stands beside them
        before = set(sys.modules)
        yield import_module
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
                del sys.modules[name]


@pytest.mark.parametrize("method", ["backbone", "evl", "ila", "dist", "zeroi2v"])
def test_both_ways_of_every_step_agree(bench, monkeypatch, method):
    parts = bench("parts")
    for name, size in SMALL.items():
        monkeypatch.setattr(parts, name, size)
    away = {part.what: parts.difference(part) for part in parts.PARTS[method]()}
    assert len(away) >= 3
    assert {what: value for what, value in away.items() if not value < parts.NEAR} == {}


def test_a_row_says_what_is_saved(bench, monkeypatch):
    parts = bench("parts")
    times = Times({"ours": [0.1, 0.1, 0.2], "formula": [0.3, 0.3, 0.4]})
    monkeypatch.setattr(parts, "difference", lambda _: 1e-6)
    monkeypatch.setattr(parts, "interleaved", lambda *_: times)
    row = parts.measure("evl", parts.Part("ours", "formula", "forward", 12, None, None), 3, 2.0)
    # 12 x (0.3 - 0.1) s of 2 s.
    assert (row["ratio"], row["saved"], row["ours_ms"]) == ("0.33", "1.200", "100.00")
    monkeypatch.setattr(parts, "difference", lambda _: 0.1)
    with pytest.raises(AssertionError, match="differ by 0.1"):
        parts.measure("evl", parts.Part("ours", "formula", "forward", 12, None, None), 3, 2.0)


TABLES = [
    ("parts", "parts"),
    ("backbone", "backbone"),
    ("train_costs", "costs"),
    ("speed", "speed"),
    ("speed", "usual"),
]


@pytest.mark.parametrize(("program", "name"), TABLES)
def test_the_page_shows_the_committed_table(bench, program, name):
    module = bench(program)
    table = module.usual if name == "usual" else module.table
    shown = (ROOT / module.PAGE).read_text(encoding="utf-8").split(f"<!-- {name}: begin -->\n")[1]
    assert shown.startswith(table() + "\n<!--"), f"python benchmarks/{program}.py --table"


def test_a_row_that_is_measured_again_takes_the_place_of_the_first(bench, tmp_path, monkeypatch):
    pages = bench("pages")
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    for method, ms in (("evl", 3), ("ila", 4), ("evl", 5)):
        append_row(tmp_path / "times.csv", {"method": method, "ms": ms})
    assert pages.latest("times", "method") == [{"method": "evl", "ms": "5"}, {"method": "ila", "ms": "4"}]
    assert pages.markdown([["", "ms"], ["evl", "5"]]) == "| | ms |\n| --- | ---: |\n| evl | 5 |"
