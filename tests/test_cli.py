"""The command line as a person meets it: help, answers, and one sentence for every mistake."""

import json
import signal
import subprocess
import sys
import time

import pytest

from muybridge import cli
from muybridge.demo.films import CLASSES, write_films
from trainings import trained


def muybridge(*arguments, **options):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "muybridge", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A run folder trained for an epoch on a tiny random backbone."""
    folder = tmp_path_factory.mktemp("runs") / "probe"
    return trained(videos, folder, kind="clip").folder


def told(capsys, *arguments):
    """Exit code and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def test_help_names_every_command_and_is_quick_to_import():
    answer = muybridge("--help")
    assert answer.returncode == 0
    for command in ("demo", "train", "evaluate", "predict", "list"):
        assert command in answer.stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, muybridge.cli; print('torch' in sys.modules, 'av' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert loaded.stdout.split() == ["False", "False"]


def test_train_help_lists_the_fields(capsys):
    assert cli.run(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for name in ("--data", "--train.lr", "--sampling.frames", "--evl.layers", "--probe.pool"):
        assert name in out


def test_predict_as_text_and_json(run, videos):
    film = videos / "val/rising/0.mp4"
    plain = muybridge("predict", run, film, "--top", 2)
    assert plain.returncode == 0, plain.stderr
    lines = plain.stdout.splitlines()
    assert lines[0] == str(film)
    assert len(lines) == 3
    answer = muybridge("predict", run, film, "--json")
    row = json.loads(answer.stdout)
    assert row["video"] == str(film)
    assert {entry["label"] for entry in row["predictions"]} == {"closing", "falling", "rising"}
    assert sum(entry["score"] for entry in row["predictions"]) == pytest.approx(1, abs=1e-5)


def test_evaluate_as_table_and_json(run, videos, tmp_path, capsys):
    assert cli.run(["evaluate", str(run), "--data", str(videos), "--workers", "0"]) == 0
    assert "top-1" in capsys.readouterr().out
    out = tmp_path / "evaluation"
    assert cli.run(["evaluate", str(run), "--data", str(videos), "--workers", "0", "--json", "--out", str(out)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["videos"] == 9
    assert summary == json.loads((out / "evaluation.json").read_text())
    assert summary["top1"] == json.loads((run / "evaluation.json").read_text())["top1"]
    assert len((out / "predictions.csv").read_text().splitlines()) == 10


def test_more_views_change_the_scores_not_the_count(run, videos, capsys):
    command = ["evaluate", str(run), "--data", str(videos), "--workers", "0", "--json", "--views", "2x3"]
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 9


def test_list(capsys):
    assert cli.run(["list"]) == 0
    out = capsys.readouterr().out
    assert "evl" in out
    assert "clip_vitb16" in out
    assert cli.run(["list", "backbones", "--json"]) == 0
    assert "vits14_imgfocus" in json.loads(capsys.readouterr().out)["backbones"]


def test_mistakes_get_a_sentence_and_code_2(run, videos, tmp_path, capsys):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"nothing of the kind")
    for arguments, sentence in [
        (["predict", run, tmp_path / "gone.mp4"], "gone.mp4"),
        (["predict", run, empty], "empty"),
        (["predict", run, text], "text.mp4"),
        (["predict", run], "Name at least one video"),
        (["predict", tmp_path / "no-run", text], "There is no"),
        (["predict", videos, text], "model.safetensors"),
        (["predict", run, videos / "val/rising/0.mp4", "--top", 0], "top is 0"),
        (["evaluate", run, "--data", tmp_path / "gone"], "gone"),
        (["evaluate", run, "--data", videos, "--views", "3"], "such as 3x1"),
        (["evaluate", run, "--data", videos, "--split", "tests"], "split"),
        (["train"], "--data"),
        (["train", "--data", tmp_path / "gone"], "gone"),
        (["train", "--data", videos, "--method", "evll"], "Did you mean evl"),
        (["train", "--data", videos, "--backbone", "clip_vitb17"], "clip_vitb16"),
        (["train", "--data", videos, "--train.lrr", "1"], "train.lr"),
        (["train", "--data", videos, "--train.lr"], "needs a value"),
        (["train", "--data", videos, "--evl.layer", "1"], "evl.layers"),
        (["train", "--data", videos, "--weights", weights], "weights.safetensors"),
        (["train", "--data", videos, "--weights", tmp_path / "gone.pt"], "gone.pt"),
        (["train", "--resume", tmp_path / "gone"], "recipe"),
        (["train", "--resume", run, "--data", videos], "give it alone"),
        (["train", "--recipe", tmp_path / "gone.json"], "gone.json"),
        (["list", "--train.lr", "1"], "muybridge train"),
        (["list", "backbone"], "Did you mean backbones"),
        (["demo", "--out", tmp_path], "exists already"),
    ]:
        code, err = told(capsys, *arguments)
        assert code == 2, arguments
        assert sentence in err, (arguments, err)
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) <= 3, err


def test_unknown_command_and_option_name_the_closest():
    answer = muybridge("trian")
    assert answer.returncode != 0
    assert "train" in answer.stderr
    answer = muybridge("train", "--dta", "x")
    assert answer.returncode != 0
    assert "--data" in answer.stderr


def test_good_files_are_answered_beside_broken_ones(run, videos, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    answer = muybridge("predict", run, empty, videos / "val/rising/0.mp4")
    assert answer.returncode == 2
    assert "0.mp4" in answer.stdout
    assert "empty" in answer.stderr


def test_debug_shows_the_traceback(run):
    answer = muybridge("predict", run, "gone.mp4", "--debug")
    assert answer.returncode != 0
    answer = muybridge("predict", "gone", "gone.mp4", "--debug")
    assert "Traceback" in answer.stderr


def test_fields_are_taken_out_of_the_arguments():
    rest, fields = cli.split_fields(
        [
            "train",
            "--data",
            "a.b/c",
            "--train.lr",
            "3e-4",
            "--train.batch-size=2",
            "--transform.mean",
            "-1,0,1",
            "x.mp4",
        ]
    )
    assert rest == ["train", "--data", "a.b/c", "x.mp4"]
    assert fields == {"train.lr": "3e-4", "train.batch_size": "2", "transform.mean": "-1,0,1"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A class-folder tree without a split, of two classes of the demo's films."""
    folder = write_films(tmp_path_factory.mktemp("films") / "films", classes=CLASSES[:2], train=10, val=0, workers=1)
    return folder / "train"


SMALL = [
    "--train.batch-size",
    4,
    "--transform.size",
    56,
    "--sampling.frames",
    4,
    "--evl.layers",
    2,
    "--train.workers",
    1,
]


@pytest.mark.slow
def test_train_ctrl_c_resume_evaluate_predict(films, tmp_path):
    """The whole way on the real backbone, by separate processes, as a person would go it."""
    run = tmp_path / "run"
    command = ["train", "--data", films, "--backbone", "vits14_imgfocus", "--out", run, *SMALL, "--train.epochs", 40]
    process = subprocess.Popen(
        [sys.executable, "-m", "muybridge", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert f"muybridge train --resume {run}" in err
    assert "Traceback" not in err
    assert not (run / "evaluation.json").exists()
    assert "20% of each class" in err

    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["backbone"] == "vits14_imgfocus"
    assert recipe["evl"]["layers"] == 2
    again = muybridge("train", "--data", films, "--backbone", "vits14_imgfocus", "--out", run)
    assert again.returncode == 2
    assert "nothing is written over" in again.stderr

    # Fewer epochs are not asked for: the run goes on as it was set up, here cut short by a second Ctrl-C.
    recipe["train"]["epochs"] = 2
    short = tmp_path / "short"
    (tmp_path / "short.json").write_text(json.dumps(recipe))
    answer = muybridge("train", "--recipe", tmp_path / "short.json", "--out", short, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["run"] == str(short)
    answer = muybridge("evaluate", short, "--data", films, "--split", "all", "--json")
    assert json.loads(answer.stdout)["videos"] == 20
    film = next(films.rglob("*.mp4"))
    assert json.loads(muybridge("predict", short, film, "--json").stdout)["video"] == str(film)
    resumed = subprocess.Popen(
        [sys.executable, "-m", "muybridge", "train", "--resume", str(run)], stderr=subprocess.PIPE, text=True
    )
    before = len((run / "metrics.jsonl").read_text().splitlines())
    while resumed.poll() is None and time.monotonic() < deadline + 200:
        if len((run / "metrics.jsonl").read_text().splitlines()) > before:
            break
        time.sleep(0.2)
    resumed.send_signal(signal.SIGINT)
    _, err = resumed.communicate(timeout=100)
    assert resumed.returncode == 130, err
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) > before
