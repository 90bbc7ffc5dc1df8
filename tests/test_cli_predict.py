"""`muybridge predict --out`: what is printed and written, and one sentence for every mistake."""

import csv
import json
import sys

import pytest
import torch

from asked import recogniser
from muybridge import cli, loading
from muybridge.engine import ray_jobs
from muybridge.engine.collection import in_this_process


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recogniser().save(folder)
    return folder


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_folder_becomes_a_table(run, videos, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "list.txt").write_text(f"gone.mp4\n{videos}/val/rising/0.mp4\n")
    command = ["predict", run, videos / "val", tmp_path / "list.txt", "--out", out, "--top", 1, "--block", 4]
    code, said, _ = told(capsys, *command, "--source.seconds", "60")
    assert code == 0
    assert (
        said == f"10 videos, a row each in {out}/predictions.csv; 1 cannot be read, which the column error explains.\n"
    )
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "path", "label_1", "score_1", "error"]
    assert rows[9]["error"] == "no such file"
    code, _, err = told(capsys, *command)
    assert code == 2
    assert "source.seconds was 60.0, now 120.0" in err
    code, said, err = told(capsys, *command, "--source.seconds", "60", "--json")
    assert "finished already" in err
    assert json.loads(said) == {"out": str(out), **json.loads((out / "summary.json").read_text())}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--engine", "ray"], "--engine is for collections"),
        (["--features"], "give --out DIR"),
        (["--source.seconds", "3"], "--source.seconds is for collections"),
        (["--out", "x", "--train.lr", "3"], "--train.lr is not for predictions"),
        (["--out", "x", "--source.fold", "2"], "--source.fold is not for predictions"),
        (["--out", "x", "--source.decoder", "vlc"], "vlc"),
        (["--out", "x", "--address", "auto"], "for --engine ray"),
        (["--out", "x", "--block", "0"], "--block is 0"),
        (["--out", "x", "--batch-size", "0"], "--batch-size is 0"),
        (["--out", "x", "--top", "0"], "top is 0"),
        (["--out", "x", "--workers", "-1"], "workers is -1"),
        (["--out", "x", "--features", "--format", "csv"], "Features are written as parquet"),
    ],
)
def test_mistakes(run, videos, tmp_path, capsys, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = told(capsys, "predict", run, videos / "val/rising/0.mp4", *options)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "x/predictions.csv").exists()


def test_inputs_that_are_nothing_and_ray_that_is_not_there(run, tmp_path, capsys, monkeypatch):
    code, _, err = told(capsys, "predict", run, tmp_path / "gone", "--out", tmp_path / "out")
    assert code == 2
    assert "nothing at" in err
    monkeypatch.setitem(sys.modules, "ray.data", None)
    code, _, err = told(capsys, "predict", run, tmp_path / "gone", "--out", tmp_path / "out", "--engine", "ray")
    assert code == 2
    assert "pip install 'muybridge[ray]'" in err
    assert not (tmp_path / "out").exists()


def test_with_ray_the_model_here_is_on_the_cpu(run, videos, tmp_path, capsys, monkeypatch):
    asked, load = [], loading.load
    monkeypatch.setattr(
        loading, "load", lambda path, device, **more: asked.append(device) or load(path, device, **more)
    )
    monkeypatch.setattr(ray_jobs, "import_ray", lambda: None)
    monkeypatch.setattr(ray_jobs, "through_ray", lambda *_: in_this_process(torch.device("cpu")))
    for engine, device in (("ray", "cpu"), ("local", None)):
        command = ["predict", run, videos / "val", "--out", tmp_path / engine, "--engine", engine]
        assert told(capsys, *command)[0] == 0
        assert asked.pop() == device


@pytest.mark.slow
def test_ray_is_quiet_and_writes_what_one_process_writes(run, videos, tmp_path, capfd):
    pytest.importorskip("ray", reason="pip install 'muybridge[ray]'")
    for engine in ("local", "ray"):
        command = ["predict", run, videos / "val", "--out", tmp_path / engine, "--block", 4, "--engine", engine]
        code, out, err = told(capfd, *command, "--workers", 2)
        assert (code, out) == (0, f"9 videos, a row each in {tmp_path}/{engine}/predictions.csv.\n")
    assert err.startswith("Ray: 2 workers with ")
    assert len(err.splitlines()) == 1
    tables = []
    for engine in ("local", "ray"):
        with (tmp_path / engine / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for one, other in zip(*tables, strict=True):
        for name, value in one.items():
            same = pytest.approx(float(other[name]), abs=2e-6) if name.startswith("score") else other[name]
            assert (float(value) if name.startswith("score") else value) == same
