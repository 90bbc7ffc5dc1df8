"""`muybridge sweep --try` as a person meets it."""

import csv
import json

import pytest

from muybridge import cli
from muybridge.engine import sweeps
from muybridge.engine.store import kept_features
from muybridge.testing.tiny import random_backbone, tiny_backbones

FIELDS = ("--sampling.frames", "2", "--transform.size", "28", "--train.workers", "0", "--train.epochs", "1")


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """`load_backbone` gives a tiny one, whatever it is asked for; features lie aside."""
    from muybridge.backbones import weights as module

    info = module.backbone_info("dinov2_vits14")
    monkeypatch.setattr(module, "load_backbone", lambda *_: (random_backbone(tiny_backbones()["dinov2"]), info))
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path / "cache"))


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    answer = capsys.readouterr()
    return code, answer.out, answer.err


def swept(capsys, videos, *more):
    return told(capsys, "sweep", "--data", videos, "--method", "probe", *FIELDS, *more)


def test_a_grid_its_table_and_its_best_recipe(videos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep"
    arguments = ("--try", "train.lr=1e-3,1e-2", "--try", "probe.pool=mean,concat", "--out", out)
    code, shown, err = swept(capsys, videos, *arguments)
    assert code == 0, err
    assert "probe, 4 settings, 9 validation videos" in shown
    assert "optimistic" in shown
    assert f"--recipe {out / 'best.yaml'}" in shown.replace("\n", "")
    assert "All settings read the same frozen features" in err
    assert len(kept_features(tmp_path / "cache/features")) == 2
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [float(row["top1"]) for row in rows] == sorted((float(row["top1"]) for row in rows), reverse=True)

    monkeypatch.setattr(sweeps, "train", None)  # nothing is trained again
    code, shown, err = swept(capsys, videos, *arguments, "--json")
    assert code == 0, err
    summary = json.loads(shown)
    assert [len(one["trainings"]) for one in summary["settings"]] == [1] * 4
    assert summary["best"] == summary["settings"][0]["setting"]
    assert summary["settings"][0]["top1"]["mean"] == pytest.approx(float(rows[0]["top1"]), abs=1e-6)
    monkeypatch.undo()


def test_the_best_recipe_can_be_trained(videos, tmp_path, capsys):
    code, _, err = swept(capsys, videos, "--try", "train.lr=1e-3,1e-2", "--out", tmp_path / "sweep", "--json")
    assert code == 0, err
    code, out, err = told(
        capsys, "train", "--recipe", tmp_path / "sweep/best.yaml", "--out", tmp_path / "run", "--json"
    )
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").open()))
    assert json.loads(out)["top1"] == pytest.approx(float(rows[0]["top1"]), abs=1e-6)
    assert len(kept_features(tmp_path / "cache/features")) == 2, "it read what the sweep had computed"


def test_trials_seeds_and_no_cache(videos, tmp_path, capsys):
    code, out, err = swept(
        capsys, videos, "--try", "train.lr=1e-5..1e-2", "--trials", 2, "--seeds", 2, "--train.cache", "none",
        "--out", tmp_path / "sweep",
    )  # fmt: skip
    assert code == 0, err
    assert "±" in out
    assert "Every setting is trained from the videos." in err
    assert not (tmp_path / "cache/features").exists()
    recipes = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/*/recipe.json"))]
    assert [one["train"]["seed"] for one in recipes] == [0, 1, 0, 1]
    assert recipes[0]["train"]["draws_seed"] is None, "without a cache every seed has draws of its own"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--try", "train.lrr=1,2"), "Unknown field 'train.lrr'. Closest: train.lr"),
        (("--try", "train.lr"), "expected FIELD=VALUES"),
        (("--try", "data=a,b"), "compared on the same videos"),
        (("--try", "train.lr=1e-4..1e-2"), "--trials N"),
        (("--try", "train.lr=1,2", "--shots", "1"), "give one of them"),
        (("--trials", "3"), "give what to try with --try"),
        (("--halving", "2"), "give what to try with --try"),
        (("--try", "train.lr=1,-2"), "With train.lr -2: train.lr is -2; expected 0 to"),
        (("--try", "evl.dropout=0,0.5"), "evl.dropout"),
    ],
)
def test_mistakes_get_a_sentence(videos, tmp_path, capsys, arguments, sentence):
    code, out, err = swept(capsys, videos, "--out", tmp_path / "sweep", *arguments)
    assert code == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "sweep").exists()


def test_an_environment_that_is_no_torchruns_gets_a_sentence(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "many")
    for more in (("--try", "train.lr=1e-3"), ("--shots", "1")):
        code, _, err = swept(capsys, videos, "--out", tmp_path / "sweep", *more)
        assert (code, "WORLD_SIZE is 'many' in the environment" in err) == (2, True)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("RANK", "first")
    code, _, err = told(capsys, "train", "--data", videos, "--method", "probe", *FIELDS, "--out", tmp_path / "run")
    assert (code, "RANK is 'first' in the environment" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_help_tells_both_uses(capsys):
    code, out, _ = told(capsys, "sweep", "--help")
    assert code == 0
    for word in ("--try", "--trials", "--shots", "--halving", "--train.lr", "--train.draws_seed"):
        assert word in out
    assert "--empty" not in out
