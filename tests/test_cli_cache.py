"""`muybridge cache` and `train --cache`: computed once, listed, removed; mistakes get a sentence."""

import json

import pytest

from muybridge import cli
from muybridge.engine.batches import VideoBatches
from muybridge.engine.store import FeatureStore
from muybridge.testing.tiny import random_backbone, tiny_backbones

FIELDS = ("--sampling.frames", "4", "--transform.size", "32,32", "--train.workers", "0", "--train.batch_size", "5")


@pytest.fixture
def tiny(monkeypatch):
    """`load_backbone` gives a tiny one, whatever it is asked for."""
    from muybridge.backbones import weights as module

    info = module.backbone_info("dinov2_vits14")
    monkeypatch.setattr(module, "load_backbone", lambda *_: (random_backbone(tiny_backbones()["dinov2"]), info))


def told(capsys, *arguments):
    """Exit code, stdout and stderr of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    answer = capsys.readouterr()
    return code, answer.out, answer.err


def cached(capsys, videos, folder, *more):
    words = ("cache", "--data", videos, "--method", "probe", "--folder", folder, *FIELDS, *more)
    return told(capsys, *words)


def test_computed_once_listed_trained_on_and_removed(videos, tmp_path, capsys, tiny, monkeypatch):
    kept = tmp_path / "kept"
    code, out, err = cached(capsys, videos, kept, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["train"]["videos"], summary["train"]["views"], summary["val"]["videos"]) == (15, 1, 9)
    assert summary["train"]["unreadable"] == []
    assert "fixed draws" in err
    assert "training features: 15 x" in err

    monkeypatch.setattr(VideoBatches, "read", lambda *_: pytest.fail("a video was decoded"))
    code, out, err = cached(capsys, videos, kept)
    assert code == 0, err
    assert out.splitlines()[0].startswith("train: 15 videos x 1, ")
    run = tmp_path / "run"
    code, out, err = told(
        capsys, "train", "--data", videos, "--method", "probe", "--cache", "--train.cache_folder", kept, "--out", run,
        "--train.epochs", "2", *FIELDS,
    )  # fmt: skip
    assert code == 0, err
    assert "fixed draws" in err
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["train"]["cache"] == "disk"
    assert recipe["train"]["fixed_views"] == 1
    assert recipe["train"]["cache_folder"] == str(kept)

    code, out, _ = told(capsys, "cache", "--list", "--folder", kept, "--json")
    rows = json.loads(out)["features"]
    assert code == 0
    assert sorted((row["method"], row["of"], row["done"], row["rows"]) for row in rows) == [
        ("Probe", "training, seed 0", 15, 15),
        ("Probe", "validation", 9, 9),
    ]
    code, out, _ = told(capsys, "cache", "--list", "--folder", kept)
    assert all(row["key"][:12] in out for row in rows)
    first, second = (row["key"] for row in rows)
    code, out, err = told(capsys, "cache", "--clear", first[:8], "--folder", kept)
    assert (code, out.split(",")[0]) == (0, "1 removed")
    assert not (kept / first / "index.json").exists()
    assert (kept / second / "index.json").exists()
    code, _, err = told(capsys, "cache", "--clear", "no such key", "--folder", kept)
    assert code == 2
    assert second[:12] in err
    code, out, _ = told(capsys, "cache", "--clear", "all", "--folder", kept, "--json")
    assert json.loads(out)["removed"] == [second]
    code, out, _ = told(capsys, "cache", "--list", "--folder", kept)
    assert "0.00 GB" in out


def test_repeated_videos_of_small_classes_are_computed_ahead_too(videos, tmp_path, capsys, tiny, monkeypatch):
    kept = tmp_path / "kept"
    (tmp_path / "data").mkdir()
    for half, counts in (("train", {"rising": 5, "falling": 2}), ("val", {"rising": 3, "falling": 3})):
        rows = [f"{videos}/{half}/{label}/{i}.mp4,{label}" for label, count in counts.items() for i in range(count)]
        (tmp_path / "data" / f"{half}.csv").write_text("\n".join(["path,label", *rows]))
    balanced = ("--train.balanced_sampling", "true")
    code, out, err = cached(capsys, tmp_path / "data", kept, *balanced, "--json")
    assert code == 0, err
    assert (json.loads(out)["train"]["videos"], json.loads(out)["val"]["videos"]) == (10, 6)
    monkeypatch.setattr(VideoBatches, "read", lambda *_: pytest.fail("a video was decoded"))
    code, out, err = told(
        capsys, "train", "--data", tmp_path / "data", "--method", "probe", "--cache", "--train.cache_folder", kept,
        "--out", tmp_path / "run", "--train.epochs", "1", *FIELDS, *balanced,
    )  # fmt: skip
    assert code == 0, err


def test_views_are_kept_side_by_side(videos, tmp_path, capsys, tiny):
    code, out, err = cached(capsys, videos, tmp_path, "--views", "3", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["train"]["views"] == 3
    assert "fixed draws" not in err, "they were asked for"
    setting = json.loads((tmp_path / summary["train"]["key"] / "setting.json").read_text())
    assert (setting["views"], setting["rows"]) == (3, 45)


def test_the_folder_is_in_the_users_cache(videos, tmp_path, capsys, tiny, monkeypatch):
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path))
    words = ("cache", "--data", videos, "--method", "probe", *FIELDS)
    assert told(capsys, *words)[0] == 0
    assert len(list((tmp_path / "features").glob("*/index.json"))) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cache"], "Give the videos with --data"),
        (["cache", "--data", "DATA", "--method", "ila"], "nothing to cache"),
        (["cache", "--data", "DATA", "--method", "zeroi2v"], "gradients pass through"),
        (["cache", "--data", "DATA", "--train.mixup", "0.8"], "--train.mixup 0"),
        (["cache", "--data", "DATA", "--views", "2", "--train.fixed_views", "2"], "both given"),
        (["cache", "--data", "DATA", "--list"], "Give one of"),
        (["cache", "--list", "--clear", "all"], "Give one of"),
        (["cache", "--data", "/not/there"], "/not/there"),
        (["train", "--data", "DATA", "--method", "ila", "--cache"], "nothing to cache"),
        (["train", "--data", "DATA", "--cache", "--train.cache", "memory"], "both given"),
        (["train", "--data", "DATA", "--train.cache", "disc"], "disk"),
        (["train", "--data", "DATA", "--train.cache", "disk"], "--train.fixed_views 1"),
        (["train", "--resume", "DATA", "--cache"], "give it alone"),
        (["cache", "--data", "DATA", "--workers", "2"], "give --engine ray too"),
        (["cache", "--data", "DATA", "--source.stream", "true"], "leave --source.stream out"),
        (
            ["cache", "--data", "DATA", "--method", "probe", "--init.model", "runs/x"],
            "a training with --init and --cache",
        ),
        (["cache", "--data", "pipe:cat {0..9}.tar"], "would run a command"),
    ],
)
def test_mistakes_get_a_sentence_and_code_2(videos, capsys, words, sentence):
    code, _, err = told(capsys, *(videos if word == "DATA" else word for word in words))
    assert code == 2
    assert sentence in err
    assert len(err.splitlines()) <= 2


def test_a_folder_that_cannot_be_written_to_gets_a_sentence(videos, tmp_path, capsys, tiny):
    (tmp_path / "file").write_text("x")
    code, _, err = cached(capsys, videos, tmp_path / "file")
    assert code == 2
    assert "--train.cache_folder" in err


def test_help_tells_what_it_is_for(capsys):
    assert cli.run(["cache", "--help"]) == 0
    out = capsys.readouterr().out
    for name in ("--views", "--list", "--clear", "--train.cache_precision"):
        assert name in out


def test_a_store_without_a_whole_index_is_shown_as_begun(tmp_path, capsys):
    store = FeatureStore(tmp_path, {"method": "EVL", "backbone": "abc", "seed": 3, "precision": "half"}, 7)
    store.flush()
    code, out, _ = told(capsys, "cache", "--list", "--folder", tmp_path)
    assert code == 0
    assert "0 of 7" in out
