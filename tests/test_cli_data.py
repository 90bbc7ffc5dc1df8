"""`muybridge data check | show` as a person meets them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from muybridge import cli


@pytest.fixture
def here(videos, tmp_path, monkeypatch):
    """A folder to work in, with a copy of the videos as `films`."""
    shutil.copytree(videos, tmp_path / "films")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_good_videos(capsys, here):
    code, out, err = told(capsys, "check", "films", "--workers", 0)
    assert (code, err) == (0, "")
    assert "24 videos in 24 files: 24 good." in out
    assert "problems" not in out
    assert max(map(len, out.splitlines())) <= 100
    rows = list(csv.DictReader((here / "checks/films/check.csv").read_text().splitlines()))
    assert len(rows) == 24
    assert {row["status"] for row in rows} == {"good"}
    assert {row["label"] for row in rows} == {"closing", "falling", "rising"}


def test_check_broken_videos_and_use_the_good_ones(capsys, here):
    long = here / "films/train/falling" / f"{'[red] a very long name ' * 6}.mp4"
    long.write_bytes(b"no video")
    shutil.copy(here / "films/train/rising/0.mp4", here / "films/val/rising/copy.mp4")
    code, out, err = told(capsys, "check", "films", "--workers", 0, "--write-list", "good")
    assert (code, err) == (1, "")
    assert "26 videos in 26 files: 25 good, 1 broken." in out
    assert "[red] a very" in out
    assert "not a video file" in out
    assert "in both halves" in out
    assert "14 good videos to train with, 10 to validate with" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = told(capsys, "check", "good", "--workers", 0, "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["videos"], report["duplicates"]) == (0, True, 24, [])


def test_check_many_classes_and_problems_are_cut_short(capsys, here):
    for number in range(60):
        (here / f"films/train/class {number:02}").mkdir()
        for name in ("a", "b"):
            (here / f"films/train/class {number:02}/{name}.mp4").write_bytes(b"no video")
    code, out, _ = told(capsys, "check", "films", "--workers", 0)
    assert code == 1
    assert "120 problems" in out
    assert "... and 100 more" in out
    assert len(out.splitlines()) < 90
    assert told(capsys, "check", "films", "--workers", 0, "--out", "all")[0] == 1
    assert len((here / "all/check.csv").read_text().splitlines()) == 1 + 24 + 120


def test_show_opens_no_video(capsys, here):
    for path in (here / "films").rglob("*.mp4"):
        path.write_bytes(b"")
    code, out, err = told(capsys, "show", "films")
    assert (code, err) == (0, "")
    assert "15 videos to train with, 9 to validate with" in out
    assert "train/closing/0.mp4" in out
    code, out, _ = told(capsys, "show", "films", "--json")
    assert json.loads(out)["classes"]["rising"] == {"train": 5, "val": 3}


def test_fields_of_the_source(capsys, here):
    code, out, _ = told(capsys, "check", "films", "--workers", 0, "--source.megapixels", 0.001)
    assert code == 1
    assert "24 broken" in out
    shutil.rmtree(here / "films/val")
    _, out, _ = told(capsys, "show", "films/train", "--source.val_share", 0.4)
    assert "9 videos to train with, 6 to validate with" in out


def test_mistakes_get_a_sentence_and_code_2(capsys, here):
    (here / "full").mkdir()
    (here / "full/a").touch()
    for arguments, sentence in [
        (["check", "gone"], "gone"),
        (["show", "gone"], "gone"),
        (["check", "films", "--workers", -1], "--workers is -1"),
        (["check", "films", "--write-list", "full"], "nothing is written over"),
        (["check", "films", "--train.lr", 1], "muybridge train"),
        (["check", "films", "--seconds", -1], "source.seconds is -1"),
        (["check", "films", "--seconds", 1, "--source.seconds", 2], "both given"),
    ]:
        code, out, err = told(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert sentence in err, (arguments, err)
        assert len(err.strip().splitlines()) == 1, err
    assert not (here / "checks").exists()


def test_ctrl_c_keeps_what_was_done(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "films")
    film = tmp_path / "films/train/rising/0.mp4"
    for number in range(3000):
        os.link(film, film.with_name(f"again {number}.mp4"))
    command = [sys.executable, "-m", "muybridge", "data", "check", tmp_path / "films", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    table = tmp_path / "out/check.csv"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (table.exists() and len(table.read_text().splitlines()) > 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = len(table.read_text().splitlines()) - 1
    told = re.fullmatch(
        r"muybridge: Stopped after (\d+) of 3024 files. The same command goes on from there.", err.strip()
    )
    assert told, err
    assert abs(int(told[1]) - kept) <= 1  # Stopped between the two.
    assert 3 <= kept < 3024
