"""`muybridge predict`: what is printed and written, with --out and without, and one sentence for every mistake."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

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
        (["--with-features"], "give --out DIR"),
        (["--with-features"], "--features FILE"),
        (["--block", "3"], "--block is for collections"),
        (["--train.lr", "3"], "--train.lr is not for predictions"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size", "-3"], "batch_size -3"),
        (["--workers", "-1"], "workers is -1"),
        (["--step", "1"], "--step is for --windows"),
        (["--min-score", "0.5"], "--min-score is for --windows"),
        (["--windows", "0"], "window is 0; expected a positive number of seconds"),
        (["--windows", "1", "--step", "-1"], "step is -1"),
        (["--windows", "1", "--min-score", "50", "--csv", "not-made.csv"], "min_score is 50; expected a probability"),
        (["--annotate", "x.avi"], "expected .mp4, .mov, .mkv"),
        (["--annotate", "gone/x.mp4"], "no folder"),
        (["--csv", "gone/x.csv"], "no folder"),
        (["--features", "x.npy"], ".safetensors or .parquet"),
        (["--out", "x", "--features", "x.parquet"], "--with-features"),
        (["--out", "x", "--windows", "1"], "--windows is for answers that are printed"),
        (["--out", "x", "--train.lr", "3"], "--train.lr is not for predictions"),
        (["--out", "x", "--source.fold", "2"], "--source.fold is not for predictions"),
        (["--out", "x", "--source.decoder", "vlc"], "vlc"),
        (["--out", "x", "--address", "auto"], "for --engine ray"),
        (["--out", "x", "--block", "0"], "--block is 0"),
        (["--out", "x", "--batch-size", "0"], "--batch-size is 0"),
        (["--out", "x", "--top", "0"], "top is 0"),
        (["--out", "x", "--workers", "-1"], "workers is -1"),
        (["--out", "x", "--with-features", "--format", "csv"], "Features are written as parquet"),
    ],
)
def test_mistakes(run, videos, tmp_path, capsys, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = told(capsys, "predict", run, videos / "val/rising/0.mp4", *options)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "x/predictions.csv").exists()
    assert not (tmp_path / "not-made.csv").exists()


def test_what_is_told_of_several_videos(run, videos, tmp_path, capsys, monkeypatch):
    """In the order of the inputs, each by the name it was given, broken ones in their places."""
    monkeypatch.chdir(videos)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    (videos / "list.txt").write_text("val/rising/1.mp4\n")
    inputs = ["./val/rising/0.mp4", broken, "gone.mp4", "val/falling", "val/*/2.mp4", "list.txt"]
    names = ["val/rising/0.mp4", str(broken), "gone.mp4", *(f"val/falling/{i}.mp4" for i in range(3))]
    names += ["val/closing/2.mp4", "val/rising/2.mp4", "val/rising/1.mp4"]
    for workers in (0, 2):
        command = ["predict", run, *inputs, "--top", 2, "--batch-size", 3, "--workers", workers]
        code, said, err = told(capsys, *command, "--json")
        rows = [json.loads(line) for line in said.splitlines()]
        assert code == 2
        assert [row["video"] for row in rows] == names
        assert rows[1] == {"video": str(broken), "error": "not a video file that FFmpeg can read"}
        assert rows[2] == {"video": "gone.mp4", "error": "no such file"}
        assert "2 of 9 videos cannot be read" in err
        best = recogniser().predict(videos / "val/falling/1.mp4", 2)
        assert [answer["label"] for answer in rows[4]["predictions"]] == [answer.label for answer in best]
        assert rows[4]["predictions"][0]["score"] == pytest.approx(best[0].score, abs=1e-5)
    code, said, err = told(capsys, *command)
    assert said.splitlines()[0] == "val/rising/0.mp4"
    assert len(said.splitlines()) == 3 * 7
    assert "gone.mp4: no such file" in err


def test_rows_features_and_an_annotated_video(run, videos, tmp_path, capsys):
    film = videos / "val/rising/0.mp4"
    outputs = ["--csv", tmp_path / "x.csv", "--features", tmp_path / "x.safetensors"]
    code, said, _ = told(capsys, "predict", run, film, tmp_path / "gone.mp4", "--top", 1, *outputs)
    assert (code, said) == (2, "")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(film), str(tmp_path / "gone.mp4")]
    assert rows[1]["error"] == "no such file"
    model = recogniser()
    assert rows[0]["label_1"] == model.predict(film)[0].label
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["paths"]) == [str(film)]
        torch.testing.assert_close(file.get_tensor("features"), model.features(film)[None])
    for option in outputs[::2]:
        code, _, err = told(capsys, "predict", run, film, option, outputs[outputs.index(option) + 1])
        assert code == 2
        assert "nothing is written over" in err
    command = ["predict", run, film, "--windows", 0.5, "--annotate", tmp_path / "x.mp4"]
    code, said, err = told(capsys, *command, "--features", tmp_path / "windows.safetensors")
    assert code == 0
    assert said.startswith(f"{film}\n  0:00.0 - 0:")
    assert "without sound" in err
    with safe_open(tmp_path / "windows.safetensors", "pt") as file:
        assert file.get_tensor("start").tolist() == pytest.approx([0, 0.25, 0.5])
        assert file.get_tensor("features").shape == (3, len(model.features(film)))
    code, _, err = told(capsys, *command)
    assert code == 2
    assert "nothing is written over" in err
    code, _, err = told(capsys, "predict", run, film, videos / "val/rising/1.mp4", "--annotate", tmp_path / "y.mp4")
    assert code == 2
    assert "2 are given" in err
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    for more in ([], ["--windows", 1]):
        code, said, err = told(capsys, "predict", run, broken, "--annotate", tmp_path / "y.mp4", *more)
        assert (code, said) == (2, "")
        assert "broken.mp4: not a video file" in err
        assert not (tmp_path / "y.mp4").exists()


def test_names_of_files_give_a_terminal_no_orders(run, tmp_path, capsys):
    broken = tmp_path / "a\x1b[31m\nb.mp4"
    broken.write_text("no video")
    _, _, err = told(capsys, "predict", run, broken)
    assert "a\ufffd[31m\ufffdb.mp4: not a video file" in err
    assert "\x1b" not in err


def test_a_timeline_as_rows_and_as_json(run, videos, tmp_path, capsys):
    film, broken = videos / "val/rising/0.mp4", tmp_path / "broken.mp4"
    broken.write_text("no video")
    command = ["predict", run, film, broken, "--windows", 0.5, "--step", 0.25, "--min-score", 0.1]
    code, said, _ = told(capsys, *command, "--json")
    first, second = (json.loads(line) for line in said.splitlines())
    assert code == 2
    assert first["duration"] == 1.0
    assert [(window["start"], window["end"]) for window in first["windows"]] == [(0, 0.5), (0.25, 0.75), (0.5, 1)]
    assert first["segments"][0]["start"] == 0
    assert first["segments"][-1]["end"] == 1
    assert second == {"video": str(broken), "error": "not a video file that FFmpeg can read"}
    code, said, _ = told(capsys, *command, "--csv", tmp_path / "x.csv")
    assert (code, said) == (2, "")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows[:-1]] == [segment["label"] for segment in first["segments"]]
    assert rows[-1]["error"]


def test_answers_go_where_stdout_goes_also_beside_a_bar(run, videos, tmp_path):
    """A bar on the terminal takes sys.stdout over; what is printed must still come out there."""
    code = (
        "import sys\nfrom muybridge.engine import progress\nfrom rich.console import Console\n"
        "progress.Console = lambda **more: Console(**more, force_terminal=True)\n"
        "from muybridge.cli import run\nsys.exit(run(sys.argv[1:]))"
    )
    words = ["predict", run, videos / "val/rising/0.mp4", videos / "val/falling/0.mp4", "--json", "--workers", 0]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    assert "predict" in done.stderr
    assert '"video"' not in done.stderr


def test_a_published_recipe_by_its_name(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "zeroi2v_vitb16_k400_8f"
    film = videos / "val/rising/0.mp4"
    code, _, err = told(capsys, "predict", name, film)
    assert code == 2
    assert "expected CLIP-B_k400_8x16x1.pth in the current folder" in err
    asked = []
    monkeypatch.setattr(loading, "load", lambda path, *_, **more: asked.append((path, more)) or recogniser())
    (tmp_path / "CLIP-B_k400_8x16x1.pth").touch()
    assert told(capsys, "predict", name, film)[0] == 0
    assert str(asked[0][0]) == "CLIP-B_k400_8x16x1.pth"
    assert asked[0][1]["recipe"] == name


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


def test_features_as_parquet(run, videos, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'muybridge[parquet]'")
    film = videos / "val/rising/0.mp4"
    code, _, _ = told(capsys, "predict", run, film, "--windows", 0.5, "--features", tmp_path / "x.parquet")
    assert code == 0
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["start"] == pytest.approx([0, 0.25, 0.5])
    assert len(table["feature"][0]) == len(recogniser().features(film))
