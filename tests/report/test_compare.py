"""`muybridge compare`: what differs, what each has right of the same videos, and how it looks."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from muybridge import cli
from muybridge.errors import BadInput
from muybridge.recipes import write_recipe
from muybridge.report.compare import compare_runs, mcnemar
from muybridge.structures import Recipe, TrainArgs

CLASSES = ("a", "b")


def make_run(folder, rights, method="probe", options=None, lr=1e-3, prefix=""):
    """A run folder without tensors: `rights` tells of each video whether the answer is right."""
    folder.mkdir(parents=True)
    write_recipe(folder / "recipe.json", Recipe(method=method, options=options or {}, data="d", train=TrainArgs(lr=lr)))
    rows = ["name,label,predicted,score,right,top5"]
    for index, right in enumerate(rights):
        label = CLASSES[index % 2]
        predicted = label if right else CLASSES[1 - index % 2]
        rows.append(f"{prefix}{index}.mp4,{label},{predicted},0.9,{int(right)},1")
    (folder / "predictions.csv").write_text("\n".join(rows) + "\n")
    share = sum(rights) / len(rights)
    summary = {"videos": len(rights), "unreadable": [], "top1": share, "top5": 1.0, "mean_class": share}
    classes = {name: {"videos": len(rights) // 2, "top1": share, "top5": 1.0} for name in CLASSES}
    (folder / "evaluation.json").write_text(json.dumps({**summary, "classes": classes}))
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "split.csv").write_text("name,label,split\nx,a,train\ny,b,train\n")
    lines = [{"epoch": e, "lr": lr, "loss": 1 / e, "videos_per_second": 2.0, "val_top1": share} for e in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def two(tmp_path):
    first = make_run(tmp_path / "first", [True] * 14 + [False] * 6, lr=1e-3)
    second = make_run(tmp_path / "second", [True] * 8 + [False] * 12, "evl", {"layers": 3}, lr=3e-4)
    return first, second


def test_mcnemar():
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    # The normal distribution, for many.
    z = (5200 - 4800 - 1) / math.sqrt(10000)
    assert mcnemar(4800, 5200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=5e-3)


def test_what_differs(two):
    comparison = compare_runs(two)
    assert comparison.names == ("first", "second")
    assert set(comparison.settings) == {"method", "train.lr", "evl.layers"}, "defaults of a method are no difference"
    assert comparison.settings["train.lr"] == (1e-3, 3e-4)
    assert comparison.settings["evl.layers"] == (None, 3)
    (pair,) = comparison.pairs
    assert (pair.videos, pair.both, pair.only_first, pair.only_second, pair.neither) == (20, 8, 6, 0, 6)
    assert pair.p_value == mcnemar(6, 0)
    row = comparison.rows()[0]
    assert row["top1"] == 0.7
    assert row["epoch_seconds"] == pytest.approx(3.0)
    assert row["own_parameters"] is None


def test_other_videos_are_not_compared(two, tmp_path):
    other = make_run(tmp_path / "other", [True] * 20, prefix="x")
    comparison = compare_runs([two[0], other])
    assert comparison.pairs == ()
    fewer = make_run(tmp_path / "fewer", [True] * 10)
    comparison = compare_runs([two[0], fewer])
    assert comparison.pairs[0].videos == 10
    assert comparison.pairs[0].alone == 10
    assert any("different numbers of videos" in note for note in comparison.notes)


def test_of_many_each_with_the_first(tmp_path):
    runs = [make_run(tmp_path / f"run{i}", [True] * 4) for i in range(8)]
    assert [(pair.first, pair.second) for pair in compare_runs(runs).pairs] == [(0, i) for i in range(1, 8)]
    assert len(compare_runs(runs[:4]).pairs) == 6


def test_names_that_differ(tmp_path):
    runs = [make_run(tmp_path / place / "seed-0", [True] * 4) for place in ("setting-1", "setting-2")]
    assert compare_runs(runs).names == ("setting-1/seed-0", "setting-2/seed-0")


def test_the_command(two, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.csv"
    names = [str(one) for one in two]
    assert cli.run(["compare", *names, "--html", str(page), "--csv", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "70.0%" in out
    assert "6 only in first, 0 only in second" in out
    assert "train.lr" in out
    assert all(len(line) <= 80 for line in out.splitlines() if line[:1] in "┏│└")
    rows = list(csv.DictReader(sheet.open()))
    assert [row["run"] for row in rows] == ["first", "second"]
    assert rows[1]["evl.layers"] == "3"
    text = page.read_text()
    for word in ("Runs side by side", "The same videos", "Validation top-1", "<code>train.lr</code>"):
        assert word in text
    assert cli.run(["compare", *names, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"][0]["only_first"] == 6
    assert told["runs"][0]["top1"] == 0.7
    assert cli.run(["compare", *names, "--csv", str(sheet)]) == 2
    assert "nothing is written over" in capsys.readouterr().err
    page.write_text("mine")
    assert cli.run(["compare", *names, "--html", str(page)]) == 2
    assert page.read_text() == "mine"


def test_without_an_evaluation(two, capsys):
    (two[1] / "evaluation.json").unlink()
    assert cli.run(["compare", *map(str, two)]) == 0
    out = capsys.readouterr().out
    assert "Without an evaluation: second" in out
    assert "second: The training is not finished" in out


def test_mistakes(two, tmp_path):
    with pytest.raises(BadInput, match="expected at least 2"):
        compare_runs(two[:1])
    with pytest.raises(BadInput, match="given twice"):
        compare_runs([two[0], Path(two[0].parent / "." / two[0].name)])


def test_the_same_settings(two, tmp_path, capsys):
    shutil.copytree(two[0], tmp_path / "again")
    assert cli.run(["compare", str(two[0]), str(tmp_path / "again")]) == 0
    assert "No setting differs." in capsys.readouterr().out
