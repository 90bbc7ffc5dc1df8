"""`python -m muybridge.testing.parity`: everything that a case stores is compared, and whatever is not known fails."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from muybridge.testing import cases
from muybridge.testing.parity import main, run_case

FOLDER = Path(__file__).parents[1] / "parity"
BACKBONES = sorted(path for path in (FOLDER / "backbones").glob("*.json") if path.stem != "clip_tokenizer")


def changed(tmp_path, name, change):
    raw = json.loads((FOLDER / name).read_text())
    change(raw)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.stem)
def test_backbone_cases(path):
    lines = list(run_case(path))
    assert len(lines) == 1 + len(cases.load(path).outputs)
    assert not [str(line) for line in lines if not line.passed]


def test_the_command_itself():
    path = FOLDER / "evl" / "tiny_convonly.json"
    done = subprocess.run(
        [sys.executable, "-m", "muybridge.testing.parity", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "compared 47 of 47"
    assert all(line.endswith("PASS") or "PASS  (" in line for line in lines[:-1])
    assert lines[1].split()[:2] == ["evl/tiny_convonly", "logits"]


def test_a_wrong_value_fails(tmp_path, capsys):
    def change(raw):
        data = raw["outputs"]["logits"]["data"]
        data[0] += 1e-4 * max(map(abs, data))

    assert main([str(changed(tmp_path, "evl/tiny_convonly.json", change))]) == 1
    out = capsys.readouterr().out.splitlines()
    assert next(line for line in out if "FAIL" in line).split()[1] == "logits"
    assert out[-1] == "compared 47 of 47"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw["outputs"].update(surprise={"shape": [1], "data": [0.0]}), "unknown output"),
        (lambda raw: raw["grads"].update({"module.surprise": {"norm": 1.0, "head": [0.1]}}), "no such gradient"),
        (lambda raw: raw["state_dict"].update({"module.surprise": {"shape": [2]}}), "surprise"),
        (lambda raw: raw["inputs"].update(audio={"shape": [2]}), "unknown input"),
        (lambda raw: raw["config"].update(surprise=3), "surprise"),
        (lambda raw: raw["config"]["decoder"].update(num_heads=1), "logits"),
        (lambda raw: raw.update(mode="dream"), "mode is 'dream'"),
        (lambda raw: raw.update(loss="hinge"), "loss is 'hinge'"),
        (lambda raw: raw.update(video_layout="CTHW"), "video_layout is 'CTHW'"),
        (lambda raw: raw.update(method="tsm"), "no method 'tsm'"),
        (lambda raw: raw["outputs"]["logits"].update(shape=[5, 2]), "shape"),
        (lambda raw: raw["outputs"]["logits"]["data"].__setitem__(0, math.nan), "logits"),
        (lambda raw: raw["outputs"]["logits"]["data"].__setitem__(0, math.inf), "logits"),
        (lambda raw: next(iter(raw["grads"].values())).update(norm=math.nan), "not a number"),
        (lambda raw: next(iter(raw["grads"].values()))["head"].__setitem__(0, math.nan), "not a number"),
        (lambda raw: raw["config"]["backbone"].update(width=64), "image transformer's width is 32"),
        (lambda raw: raw.update(outputz={}), "unknown fields: outputz"),
        (lambda raw: raw.update(outputs=[1]), "AttributeError"),
        (lambda raw: raw.update(method="ila"), "the state dict is one of evl"),
        (lambda raw: raw.pop("state_dict"), "state_dict"),
    ],
)
def test_whatever_is_not_known_or_wrong_fails(tmp_path, capsys, change, sentence):
    assert main([str(changed(tmp_path, "evl/tiny_convonly.json", change))]) == 1
    assert any("FAIL" in line and sentence in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["config"].update(width=64),
        lambda raw: raw["config"].update(surprise=1),
        lambda raw: raw["config"].update(layer_scale=False),
        lambda raw: raw.update(mode="train"),
        lambda raw: raw.update(grads={"blocks.0": {"norm": 1.0, "head": [1.0]}}),
        lambda raw: raw["inputs"].update(audio={"shape": [2]}),
        lambda raw: raw["outputs"].update({"image/block7": {"shape": [1], "data": [0.0]}}),
    ],
)
def test_backbone_cases_that_say_what_is_not_so_fail(tmp_path, change):
    assert main([str(changed(tmp_path, "backbones/facebook_dinov2.json", change))]) == 1


def test_a_case_that_stores_nothing_is_a_failure(tmp_path, capsys):
    path = changed(tmp_path, "evl/tiny_convonly.json", lambda raw: raw.update(outputs={}, grads={}))
    assert main([str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "compared 1 of 1"


def test_texts_of_another_number_than_the_classes_fail(tmp_path):
    path = changed(tmp_path, "ila/tiny_k400.json", lambda raw: raw["config"].update(num_classes=6))
    assert any("5 texts for 6 classes" in str(line) for line in run_case(path))


def test_auxiliary_losses_count_in_evaluation_too(tmp_path):
    both = changed(tmp_path, "ila/tiny_k400.json", lambda raw: raw.update(loss="logsumexp+aux"))
    assert any(not line.passed and line.name.startswith("gradient") for line in run_case(both))


def test_nothing_compared_is_a_failure(tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    assert main([str(tmp_path / "broken.json"), str(tmp_path / "missing.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "compared 0 of 2"


def test_gradients_of_zero_pass_as_noise_and_only_those(tmp_path):
    lines = {line.name: line for line in run_case(FOLDER / "evl" / "tiny_convonly.json")}
    noise = [line for line in lines.values() if line.note == "zero in exact arithmetic"]
    assert noise
    assert all("k_proj.bias" in line.name for line in noise)

    def change(raw):
        key = next(key for key in raw["grads"] if "k_proj.bias" in key)
        raw["grads"][key]["norm"] = 1e-4 * max(stored["norm"] for stored in raw["grads"].values())

    wrong = [line for line in run_case(changed(tmp_path, "evl/tiny_convonly.json", change)) if not line.passed]
    assert len(wrong) == 1
    assert "k_proj.bias" in wrong[0].name


def test_views_and_other_orders_of_axes(tmp_path):
    def change(raw):
        # Two views of the same video: the logits twice, the view fastest.
        raw["video_layout"] = "BVCTHW"
        shape = raw["inputs"]["video"]["shape"]
        case = cases.load(FOLDER / "evl" / "tiny_convonly.json")
        video = np.repeat(case.inputs["video"][:, None], 2, axis=1)
        raw["inputs"]["video"] = {"value": video.tolist(), "dtype": "float32"}
        assert list(video.shape) == [shape[0], 2, *shape[1:]]
        logits = raw["outputs"]["logits"]
        rows = np.repeat(np.asarray(logits["data"]).reshape(logits["shape"]), 2, axis=0)
        raw["outputs"] = {"logits": {"shape": list(rows.shape), "data": rows.flatten().tolist()}}
        raw["grads"] = {}

    lines = list(run_case(changed(tmp_path, "evl/tiny_convonly.json", change)))
    assert [line.passed for line in lines] == [True, True]
