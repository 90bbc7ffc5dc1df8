"""`export_model` and `muybridge export`: what is written works, is compared, and never replaces anything."""

import json
import subprocess
import sys
import venv

import numpy as np
import pytest
import torch

from asked import CLASSES, recogniser
from clips import moving_square, write_video
from muybridge import cli
from muybridge.errors import BadInput, CheckpointError, UnknownName
from muybridge.export import NotTheSame, export_model, program, standalone, write
from muybridge.export.check import Check, fault, footage
from muybridge.methods import base
from muybridge.recipes import write_recipe
from muybridge.structures import Recipe, Sampling
from muybridge.video.opening import open_item
from muybridge.video.sources import read_source, write_split


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_torch_program_answers_as_the_model(tmp_path, capsys):
    recogniser(views=2).save(tmp_path / "run")
    code, said, _ = told(capsys, "export", tmp_path / "run", "--to", "torch", "--json")
    assert code == 0
    row = json.loads(said)
    assert row["check"]["agreement"] == 1
    assert row["check"]["difference"] < 1e-6
    assert row["check"]["source"] == "synthetic films"
    folder = tmp_path / "run/export/torch"
    assert sorted(file.name for file in folder.iterdir()) == ["export.json", "model.pt2"] == sorted(row["files"])
    run, facts = program.open_program(folder / "model.pt2")
    assert facts["labels"] == list(CLASSES)
    assert facts["sampling"]["views"] == 2
    film = moving_square("rising", 7)
    views = [film[view] for view in standalone.test_indices(len(film), 4, "segments", 4, 2)]
    wanted = recogniser(views=2).scores(film).numpy()
    np.testing.assert_allclose(standalone.scores(run, facts, views), wanted, atol=1e-6)
    before = (folder / "model.pt2").read_bytes()
    code, _, err = told(capsys, "export", tmp_path / "run", "--to", "torch")
    assert code == 2
    assert "exists already; nothing is written over" in err
    assert (folder / "model.pt2").read_bytes() == before


def test_what_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    opened = program.open_program

    def spoilt(path):
        run, facts = opened(path)
        return lambda frames: run(frames)[:, ::-1], facts

    monkeypatch.setattr(program, "open_program", spoilt)
    with pytest.raises(NotTheSame, match="probabilities differ by .* Nothing was written"):
        export_model(recogniser(), tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "precision", "rounded", "sentence"),
    [
        ({}, "full", False, ""),
        ({"difference": 2e-3}, "full", False, "probabilities differ by 2.0e-03; expected at most 1e-03"),
        ({"difference": 2e-3}, "half", False, ""),
        ({"difference": 2e-3}, "full", True, ""),
        ({"runtime": 2e-3}, "full", True, "same graph's in torch"),
        ({"together": 2e-3}, "full", False, "several videos at a time"),
        ({"difference": float("nan")}, "int8", False, "differ by nan"),
        ({"agreement": 0.25}, "int8", False, "in only 25% of 4 videos"),
    ],
)
def test_when_a_check_fails(change, precision, rounded, sentence):
    figures = {"videos": 4, "source": "films", "difference": 0, "agreement": 1.0, "runtime": 0, "together": 0}
    said = fault(Check(**{**figures, **change}), precision, rounded)
    assert sentence in said
    assert bool(said) == bool(sentence)


def test_the_runs_own_videos_are_compared_on(videos, tmp_path):
    source = read_source(videos)
    write_split(tmp_path / "split.csv", source)
    write_recipe(tmp_path / "recipe.json", Recipe(data=str(videos)))
    found = footage(tmp_path, Sampling(4, views=2), (32, 32), most=2)
    assert found.source == "validation videos of the run"
    assert [len(views) for views in found.views] == [2, 2]
    with open_item(source.val[0], Recipe().source) as video:
        wanted = video.read(standalone.test_indices(video.frame_count, 4, "segments", 4, 2)[0])
    np.testing.assert_array_equal(found.views[0][0], wanted)


def test_validation_videos_that_are_gone(videos, tmp_path):
    write_split(tmp_path / "split.csv", read_source(videos))
    write_recipe(tmp_path / "recipe.json", Recipe(data=str(tmp_path / "moved")))
    split = (tmp_path / "split.csv").read_text().replace(str(videos), str(tmp_path / "moved"))
    (tmp_path / "split.csv").write_text(split)
    found = footage(tmp_path, Sampling(4), (32, 32), most=3)
    assert found.source == "synthetic films"
    assert [views[0].shape for views in found.views] == [(4, 42, 32, 3), (4, 32, 42, 3), (4, 42, 32, 3)]


def test_mistakes(tmp_path, capsys, monkeypatch):
    recogniser().save(tmp_path)
    for options, sentence in (
        (["--half", "--int8"], "give one"),
        (["--to", "torch", "--int8"], "torch.export has no int8"),
        (["--out", tmp_path], "exists already"),
    ):
        code, _, err = told(capsys, "export", tmp_path, *options)
        assert code == 2
        assert sentence in err
    for library, target in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, library, None)
        code, _, err = told(capsys, "export", tmp_path, "--to", target)
        assert code == 2
        assert f"pip install 'muybridge[{target}]'" in err
    with pytest.raises(UnknownName, match="tensorrt"):
        export_model(recogniser(), tmp_path / "out", "tensorrt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors"]


def test_a_text_head_without_names(tmp_path, monkeypatch):
    head = type("Head", (), {"features": torch.zeros(3, 4)})()
    monkeypatch.setattr(base, "text_head", lambda method: head)
    with pytest.raises(BadInput, match="give them with labels"):
        export_model(recogniser(), tmp_path / "out", "torch")


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a program of torch.export"):
        program.open_program(tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("precision", ["full", "half", "int8"])
def test_onnx(tmp_path, precision, resize):
    made = export_model(recogniser("evl", views=2), tmp_path / "out", "onnx", precision, resize)
    assert made.check.agreement >= 0.8
    run, facts = standalone.open_model(tmp_path / "out/model.onnx")
    assert facts == made.told
    assert facts["precision"] == precision
    frames = np.zeros((5, 4, *((40, 57) if resize else (32, 32)), 3), np.uint8)
    assert run(frames).shape == (5, 3)


@pytest.mark.slow
def test_onnx_with_its_weights_beside_it(tmp_path, monkeypatch):
    from muybridge.export import onnx_file

    graph = write.Deployed(recogniser().method, recogniser().spec.transform).eval()
    traced = program.trace(graph, program.frames_like(4, (32, 32), False))
    onnx_file.write(traced, tmp_path / "model.onnx", {"labels": []}, largest=1000)
    assert (tmp_path / "model.onnx.data").stat().st_size > 1000
    run, facts = standalone.open_model(tmp_path / "model.onnx")
    assert facts == {"labels": []}
    assert run(np.zeros((2, 4, 32, 32, 3), np.uint8)).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["full", "half", "int8"])
def test_openvino(tmp_path, precision):
    pytest.importorskip("openvino", reason="pip install 'muybridge[openvino]'")
    pytest.importorskip("nncf", reason="pip install 'muybridge[openvino]'")
    made = export_model(recogniser("evl"), tmp_path / "out", "openvino", precision, precision == "full")
    assert made.check.agreement >= 0.8
    assert sorted(made.files) == ["export.json", "model.bin", "model.xml", "predict.py"]


@pytest.mark.slow
def test_the_program_in_an_environment_without_torch(tmp_path, capsys):
    """Five files of three sizes, by `muybridge predict` and by predict.py in a new environment."""
    recogniser("evl", views=2).save(tmp_path / "run")
    files = []
    for number, label in enumerate((*CLASSES, *CLASSES[:2])):
        film = np.repeat(np.repeat(moving_square(label, number), 1 + number % 2, axis=1), 1 + number % 3, axis=2)
        files.append(write_video(tmp_path / f"{number}.mp4", film) or tmp_path / f"{number}.mp4")
    assert told(capsys, "export", tmp_path / "run")[0] == 0
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    packages = ["onnxruntime", "av", "numpy"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    command = [python, tmp_path / "run/export/onnx/predict.py", "--json", "--top", "3", *files, tmp_path / "gone.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/gone.mp4: cannot be read")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["video"] for row in rows] == [str(file) for file in files]
    model = recogniser("evl", views=2)
    for row, file in zip(rows, files, strict=True):
        found = {answer["index"]: answer["score"] for answer in row["predictions"]}
        wanted = model.scores(file).tolist()
        assert [found[index] for index in range(3)] == pytest.approx(wanted, abs=1e-3)
