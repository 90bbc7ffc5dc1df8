"""`muybridge predict --live`: what is printed, how it ends, what is refused."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from rich.console import Console, Group
from streams import film, serving, transport_stream

from asked import recogniser
from clips import write_video
from muybridge import cli
from muybridge.cli import live as cli_live
from muybridge.cli.live import drawn_line
from muybridge.live import camera
from muybridge.live.stream import Moment
from muybridge.structures import Prediction


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recogniser("evl").save(folder)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A film of one second."""
    file = tmp_path_factory.mktemp("film") / "a.mp4"
    write_video(file, film(frames=13))
    return file


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_line_a_prediction_and_a_summary(run, short, capsys):
    code, out, err = told(capsys, "predict", run, "--live", short, "--live-rate", 6, "--top", 2)
    assert code == 0
    lines = out.splitlines()
    assert 1 <= len(lines) <= 4
    seconds, s, score, label, *_ = lines[-1].split()
    assert (float(seconds), s) == (1.0, "s")
    assert 0 < float(score.rstrip("%")) <= 100
    assert label in ("closing", "falling", "rising")
    said = err.splitlines()
    assert said[:2] == [
        "muybridge: A window is 4 frames, 0.167 s apart: 0.667 s.",
        "muybridge: EVL encodes each frame once and keeps what it found.",
    ]
    assert said[2].startswith("muybridge: 13 frames seen, 7 used, 0 dropped; ")


def test_json_lines_with_time_from_a_stream_that_is_lost(run, capsys, monkeypatch):
    monkeypatch.setattr(camera, "FIRST_PAUSE", 0.01)
    with serving(transport_stream(film(frames=30))) as url:
        command = ["predict", run, "--live", url, "--live-reconnects", 1, "--live-rate", 12, "--json"]
        code, out, err = told(capsys, *command)
    assert code == 2
    for line in out.splitlines():
        row = json.loads(line)
        assert list(row) == ["time", "seconds", "frame", "milliseconds", "predictions"]
        assert datetime.fromisoformat(row["time"]).tzinfo is not None
        assert len(row["predictions"]) == 3
    assert out
    assert "lost (the connection broke off); attempt 1 of 1 in 0.01 s." in err
    assert err.splitlines()[-1].endswith("given up after 1 attempt to open it again")
    assert err.splitlines()[-2].startswith("muybridge: 2")  # 29 or 30 frames seen: the summary
    assert "secret" not in err


def test_it_ends_when_the_time_is_up(run, tmp_path, capsys):
    write_video(tmp_path / "long.mp4", film(frames=120))
    code, _, err = told(capsys, "predict", run, "--live", tmp_path / "long.mp4", "--live-seconds", 0.5)
    assert code == 0
    assert int(err.splitlines()[-1].split()[1]) < 60


def test_ctrl_c_ends_it_with_a_summary(run, tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "long.mp4", film(frames=120))

    def interrupted(moment, top):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_live, "text_line", interrupted)
    code, out, err = told(capsys, "predict", run, "--live", tmp_path / "long.mp4", "--live-rate", 12)
    assert (code, out) == (0, "")
    assert "; 1 prediction, " in err.splitlines()[-1]


@pytest.mark.slow
def test_sigint_ends_the_process_with_a_summary(run, tmp_path):
    write_video(tmp_path / "long.mp4", film(frames=600))
    command = [sys.executable, "-m", "muybridge", "predict", run, "--live", tmp_path / "long.mp4", "--live-rate", "12"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout.readline()  # the first window is there
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "frames seen" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["film.mp4", "--live", "0"], "--live takes the place of videos; leave film.mp4 out"),
        (["film.mp4", "--live-rate", "2"], "--live-rate is for live sources; give --live SOURCE"),
        (["--live", "0", "--out", "x"], "--out is for videos; leave it or --live out"),
        (["--live", "0", "--windows", "2"], "--windows is for videos"),
        (["--live", "0", "--live-every", "0"], "--live-every is 0"),
        (["--live", "0", "--live-rate", "0"], "rate is 0"),
        (["--live", "0", "--live-seconds", "-1"], "--live-seconds is -1"),
        (["--live", "0", "--live-timeout", "0"], "timeout is 0"),
        (["--live", "0", "--top", "0"], "top is 0"),
        (["--live", "0", "--source.decoder", "pyav"], "--source.decoder is not for live sources"),
        (["--live", "gone.mp4"], "There is no gone.mp4; a live source is a camera"),
    ],
)
def test_mistakes(run, capsys, options, sentence):
    code, out, err = told(capsys, "predict", run, *options)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_line_that_is_redrawn_is_one_line(width):
    best = tuple(Prediction(f"a class with a rather long name {n}", n, 0.5 / (n + 1)) for n in range(5))
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    # As `Live` renders it; printed by itself a text loses its rule not to wrap.
    console.print(Group(drawn_line(Moment(12.34, 148, best, None, 21.0), 5)))
    (line,) = console.export_text().splitlines()
    assert len(line) <= width
    assert line.startswith("    12.3 s  █████░░░░░  50%  a class")
    assert line.rstrip().endswith("…")
