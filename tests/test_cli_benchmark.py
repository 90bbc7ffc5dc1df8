"""`muybridge benchmark`, and the scripts in benchmarks/ that need no hour."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from muybridge.cli import run

ROOT = Path(__file__).parents[1]
SMALL = ["--backbone", "dinov2_vits14", "--size", "56", "--frames", "2", "--classes", "6", "--rounds", "1"]


def test_table_and_csv(tmp_path, capsys):
    file = tmp_path / "new" / "times.csv"
    assert run(["benchmark", "evl", *SMALL, "--csv", str(file)]) == 0
    said = capsys.readouterr().out
    assert "evl, dinov2_vits14, 2 frames of 56 px, 6 classes" in said
    assert "backbone alone" in said
    assert run(["benchmark", "evl", *SMALL, "--csv", str(file)]) == 0
    rows = list(csv.DictReader(file.open()))
    assert [row["way"] for row in rows] == ["backbone alone", "eager"] * 2
    assert float(rows[1]["ratio"]) > 0
    assert rows[0]["machine"]


@pytest.mark.parametrize("more", [[], ["--data", "folder"]])
def test_a_table_of_something_else_is_refused_before_anything_is_measured(tmp_path, capsys, more):
    file = tmp_path / "times.csv"
    file.write_text("model,batch,speed\nmine,2,3\n")
    assert run(["benchmark", "evl", "--csv", str(file), *more]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "it has besides speed" in said.err.replace("\n", " ")
    assert file.read_text() == "model,batch,speed\nmine,2,3\n"


def test_json_with_training_steps(capsys):
    assert run(["benchmark", "probe", *SMALL, "--train", "--ways", "eager,train,train-cached", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in rows] == ["backbone alone", "eager", "train", "train-cached"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "neither a method"),
        (["evl", "--batch", "0"], "--batch is 0"),
        (["evl", "--ways", "compild"], "compiled"),
        (["evl", "--ways", "train"], "way 'train'"),
    ],
)
def test_mistakes(arguments, said, capsys):
    assert run(["benchmark", arguments[0], *SMALL, *arguments[1:]]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_where_the_time_of_a_training_goes(videos, tmp_path, capsys):
    file = tmp_path / "stages.csv"
    command = ["benchmark", "probe", *SMALL, "--data", str(videos), "--workers", "0", "--csv", str(file)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert "2 frames of 56 px, 3 classes, batches of 2" in said
    assert "15 training videos" in said
    assert "what this device trains" in said
    rows = list(csv.DictReader(file.open()))
    assert [row["what"] for row in rows[:3]] == ["decode", "transform", "collate"]
    assert sum(row["unit"] == "cores" for row in rows) == 8
    assert run([*command, "--json"]) == 0
    assert [row["unit"] for row in json.loads(capsys.readouterr().out)] == [row["unit"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train"], "leave --train and --ways out"),
        (["--workers", "two"], "--workers is two"),
        (["--format", "nothing"], "nothing"),
    ],
)
def test_mistakes_with_data(arguments, said, videos, capsys):
    assert run(["benchmark", "probe", *SMALL, "--data", str(videos), *arguments]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_gpu_script_runs_anywhere(tmp_path):
    out = tmp_path / "gpu.csv"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--settings", "0", "--no-compile", "--rounds", "1"]
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True)
    rows = list(csv.DictReader(out.open()))
    assert {row["method"] for row in rows} == {"evl", "dist", "ila", "zeroi2v"}
    forward = [row for row in rows if row["difference"]]
    assert len(forward) == 6
    assert all(float(row["difference"]) < 0.05 for row in forward)
