"""`muybridge evaluate` and `muybridge sweep` as a person meets them."""

import csv
import json

import pytest

from muybridge import cli
from muybridge.engine import sweeps
from muybridge.engine.train import train
from muybridge.structures import Recipe, Sampling, SourceArgs, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones


def recipe(data, **source):
    return Recipe(
        method="probe",
        options={"pool": "concat"},
        backbone="custom",
        data=str(data),
        source=SourceArgs(**source),
        sampling=Sampling(frames=2),
        transform=Transform(size=(32, 32), crop="center"),
        train=TrainArgs(epochs=8, lr=3e-3, workers=0, fixed_views=1, cache="memory", batch_size=4),
    )


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_evaluate") / "run"
    train(recipe(videos), folder, backbone=random_backbone(tiny_backbones()["dinov2"]))
    return folder


def answer(capsys, *arguments):
    """(exit code, stdout, stderr) of a command run in this process."""
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_and_the_folder(run, videos, tmp_path, capsys):
    command = ["evaluate", run, "--data", videos, "--workers", 0, "--views", "2x3", "--out", tmp_path / "out"]
    code, out, err = answer(capsys, *command)
    assert code == 0, err
    assert "95 % interval" in out
    assert "9 videos" in err
    assert str(tmp_path / "out") in out.replace("\n", "")
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"predictions.parquet"}
    assert names == {
        "settings.json",
        "evaluation.json",
        "predictions.csv",
        "scores.safetensors",
        "classes.csv",
        "confusion.csv",
    }
    again = answer(capsys, *command)
    assert (again[0], again[1]) == (0, out)
    shown = answer(capsys, "evaluate", tmp_path / "out", "--json")
    assert json.loads(shown[1]) == json.loads((tmp_path / "out/evaluation.json").read_text())
    code, _, err = answer(capsys, *command[:-4], "--views", "1x1", "--out", tmp_path / "out")
    assert code == 2
    assert "sampling.views was 2, now 1" in err


def test_of_many_classes_the_worst_and_the_best_are_shown(capsys):
    import torch

    from muybridge.cli.evaluating import BEST, WORST, _print
    from muybridge.engine.metrics import Evaluation

    labels = torch.arange(60).repeat_interleave(10)
    predicted = torch.where(torch.arange(600) % 10 < labels % 10, labels, (labels + 1) % 60)
    names = tuple(f"class [{i}]" for i in range(60))
    evaluation = Evaluation(torch.eye(60)[predicted], labels, torch.arange(600), ("gone.mp4: lost",) * 25, (), names)
    _print(evaluation)
    out = capsys.readouterr().out
    assert f"the {WORST} worst and the {BEST} best of 60 classes" in out
    assert out.count("class [") == WORST + BEST + 2 * 8
    assert "class [0]" in out, "a name in brackets is no markup"
    assert "class [59]" in out
    assert "5 more; evaluation.json of --out names all" in out
    assert max(map(len, out.splitlines())) <= 100


def test_order_as_table_and_json(run, videos, tmp_path, capsys):
    command = ["evaluate", run, "--data", videos, "--workers", 0, "--order", "--out", tmp_path / "out"]
    code, out, err = answer(capsys, *command, "--twins", "falling,rising")
    assert code == 0, err
    for word in ("reversed", "shuffled", "frozen", "within twins", "1 pair, given"):
        assert word in out
    summary = json.loads(answer(capsys, *command, "--json", "--twins", "falling,rising")[1])
    assert summary["twins"] == [["falling", "rising"]]
    assert summary["gap"]["reversed"] == pytest.approx(summary["top1"]["right"] - summary["top1"]["reversed"])
    assert summary == json.loads((tmp_path / "out/order.json").read_text())
    assert summary == json.loads(answer(capsys, "evaluate", tmp_path / "out", "--json")[1]), (
        "shown again, in all orders"
    )


def test_names_of_classes_stay_legible_on_80_columns(capsys, monkeypatch):
    import torch

    from muybridge.cli.evaluating import _print
    from muybridge.engine.metrics import Evaluation
    from muybridge.engine.order import OrderDiagnostics

    monkeypatch.setenv("COLUMNS", "80")
    names = ("moving something towards the camera", "moving something away from the camera")
    labels = torch.arange(2).repeat_interleave(4)
    right, turned = (
        Evaluation(torch.eye(2)[found], labels, torch.arange(8), classes=names) for found in (labels, 1 - labels)
    )
    _print(OrderDiagnostics(right, turned, turned, turned, ((0, 1),), True))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if "100.0%" in line and "moving" in line)
    first, last = row.strip("│ ").split("│")[0], row.strip("│ ").split("│")[-1]
    assert first.strip() == last.strip() == "moving something"


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory, videos):
    """Segments as those of EPIC-KITCHENS-100 are written, of the squares' films: 2 verbs, 2 nouns."""
    root = tmp_path_factory.mktemp("epic")
    (root / "P01/videos").mkdir(parents=True)
    for kind, words in (("verb", ("fall", "rise")), ("noun", ("ball", "box"))):
        lines = [f'{i},{word},"[]"' for i, word in enumerate(words)]
        (root / f"EPIC_100_{kind}_classes.csv").write_text("\n".join(["id,key,instances", *lines]) + "\n")
    for half, source in (("train", "train"), ("validation", "val")):
        rows = []
        for verb, label in enumerate(("falling", "rising")):
            for film in sorted((videos / source / label).iterdir()):
                number = 100 * (half == "validation") + 10 * verb + int(film.stem)
                (root / f"P01/videos/P01_{number:03}.mp4").symlink_to(film)
                row = {
                    "narration_id": f"P01_{number:03}_0",
                    "participant_id": "P01",
                    "video_id": f"P01_{number:03}",
                    "start_timestamp": "00:00:00.00",
                    "stop_timestamp": "00:00:00.90",
                    "verb_class": verb,
                    "noun_class": int(film.stem) % 2,
                }
                rows.append(row)
        with (root / f"EPIC_100_{half}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def test_actions(kitchens, tmp_path, capsys):
    runs = []
    for kind in ("verb", "noun"):
        runs.append(tmp_path / kind)
        train(recipe(kitchens, label=kind), runs[-1], backbone=random_backbone(tiny_backbones()["dinov2"]))
    out = tmp_path / "actions"
    command = ["evaluate", runs[0], "--noun-run", runs[1], "--data", kitchens, "--workers", 0, "--out", out]
    code, table, err = answer(capsys, *command)
    assert code == 0, err
    assert [line.split()[1] for line in table.splitlines() if "%" in line] == ["verb", "noun", "action"]
    summary = json.loads((out / "actions.json").read_text())
    assert summary["videos"] == 6
    right = {}
    for kind in ("verb", "noun"):
        rows = list(csv.DictReader((out / kind / "predictions.csv").open()))
        right[kind] = {row["name"]: row["right"] == "1" for row in rows}
    assert set(right["verb"]) == {f"P01_{100 + 10 * verb + i}_0" for verb in range(2) for i in range(3)}
    both = [right["verb"][name] and right["noun"][name] for name in right["verb"]]
    assert summary["action"]["top1"] == pytest.approx(sum(both) / 6)
    code, joined, _ = answer(capsys, "evaluate", out / "verb", "--noun-run", out / "noun", "--json")
    assert code == 0
    assert json.loads(joined) == summary


def test_mistakes(run, videos, tmp_path, capsys):
    for arguments, sentence in [
        (["--order", "--zero-shot", "--data", videos], "--order and --zero-shot exclude each other"),
        (["--twins", "a,b", "--data", videos], "--twins is read with --order"),
        (["--folds", "1,2", "--data", videos], "read with --zero-shot only"),
        (["--zero-shot", "--folds", "1,x", "--data", videos], "expected different official splits"),
        (["--zero-shot", "--data", videos], "This probe has a linear head"),
        (["--order", "--twins", "rising,fallin", "--data", videos], "Did you mean falling"),
        (["--fold", "2", "--data", videos], "fold"),
        (["--order"], "Give the videos with --data"),
        (["--views", "3x1"], "--views is for videos that are evaluated now"),
        (["--out", tmp_path / "new"], "--out is for videos that are evaluated now"),
        (["--split", "all"], "--split is for videos that are evaluated now"),
        (["--data", videos, "--source.seconds", "-1"], "source.seconds is -1; expected at least 0"),
        (["--data", videos, "--source.second", "1"], "source.seconds"),
        (["--data", videos, "--source.fold", "2", "--fold", "1"], "--fold are both given"),
        ([], "the folder of a finished evaluation is shown"),
        (["--data", videos, "--out", run], "nothing is written over"),
        (["--data", videos, "--train.lr", "1"], "muybridge train"),
    ]:
        code, _, err = answer(capsys, "evaluate", run, *arguments, "--workers", 0)
        assert code == 2, arguments
        assert sentence in err, (arguments, err)
        assert len(err.strip().splitlines()) <= 3, err


def test_limits_of_a_file_can_be_given(run, videos, capsys):
    command = ["evaluate", run, "--data", videos, "--workers", 0, "--json"]
    assert answer(capsys, *command, "--source.megapixels", "10")[0] == 0
    code, _, err = answer(capsys, *command, "--source.megapixels", "0.0001")
    assert code == 2
    assert "--source.megapixels; 0: no limit" in err


def test_a_finished_evaluation_needs_no_model(run, videos, tmp_path, capsys):
    answer(capsys, "evaluate", run, "--data", videos, "--workers", 0, "--out", tmp_path / "out")
    code, out, _ = answer(capsys, "evaluate", tmp_path / "out")
    assert code == 0
    assert "top-1" in out


def test_sweep(videos, tmp_path, capsys, monkeypatch):
    import muybridge.backbones.weights as weights

    monkeypatch.setattr(weights, "load_backbone", lambda *_: (random_backbone(tiny_backbones()["dinov2"]), None))
    fields = ["--sampling.frames", 2, "--transform.size", "32", "--train.epochs", 1, "--train.workers", 0]
    command = ["sweep", "--data", videos, "--method", "probe", "--shots", "1,2", "--seeds", 2, *fields]
    command += ["--out", tmp_path / "sweep"]
    code, out, err = answer(capsys, *command)
    assert code == 0, err
    assert "±" in out
    monkeypatch.setattr(sweeps, "train", None)  # nothing is trained again
    summary = json.loads(answer(capsys, *command, "--json")[1])
    assert [row["shots"] for row in summary["shots"]] == [1, 2]
    assert len(summary["cells"]) == 4
    for arguments, sentence in [
        (["--shots", "1,x", "--data", videos], "expected numbers of videos a class"),
        (["--shots", "0", "--data", videos], "expected numbers of videos a class"),
        (["--data", videos, "--train.lrr", "1"], "train.lr"),
        (["--shots", "1"], "--data"),
    ]:
        code, _, err = answer(capsys, "sweep", *arguments)
        assert code == 2
        assert sentence in err


def test_sweep_help_lists_the_fields(capsys):
    code, out, _ = answer(capsys, "sweep", "--help")
    assert code == 0
    assert "--train.lr" in out
