"""`muybridge report`: the page is whole, tells the figures of the files, and no name becomes a tag."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from muybridge import cli
from muybridge.engine.metrics import Evaluation
from muybridge.engine.predictions import SCORES, write_predictions, write_tables
from muybridge.engine.train import train
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.recipes import write_recipe
from muybridge.report.charts import FEW_CLASSES, confusion_matrix, line_chart, short, ticks
from muybridge.report.facts import Answer, read_run
from muybridge.report.markup import Markup, join, table, tag
from muybridge.report.page import write_report
from muybridge.report.results import confusion_counts
from muybridge.report.settings import changed, value_text
from muybridge.report.thumbnails import best_and_worst, link_to
from muybridge.structures import Item, Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones
from muybridge.video.labels import write_labels

WICKED = "<script>alert('x')</script>\"&amp;"
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """The tags of a page; every one that opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    """The parsed page, after what holds for every page: no script, nothing from elsewhere."""
    text = Path(page).read_text(encoding="utf-8")
    reader = Reader(text)
    for name, attributes in reader.tags:
        assert name not in ("script", "link", "iframe", "object")
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/", "./")), value
    assert "http" not in re.sub(r"https://arxiv\.org/\S+", "", text.partition("</style>")[0].replace("http-equiv", ""))
    return reader


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    recipe = Recipe(
        method="probe",
        options={"pool": "concat"},
        backbone="custom",
        data=str(videos),
        sampling=Sampling(frames=2),
        transform=Transform(size=(32, 32), crop="center"),
        train=TrainArgs(epochs=3, lr=3e-3, workers=0, fixed_views=1, cache="memory", batch_size=4),
    )
    train(recipe, folder, backbone=random_backbone(tiny_backbones()["dinov2"]))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def evaluation_folder(folder, classes, videos=600, seed=0):
    """An evaluation as its files are, of random answers."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(classes), (videos,), generator=generator)
    scores = (torch.rand(videos, len(classes), generator=generator) + 0.5 * torch.eye(len(classes))[labels]).softmax(1)
    names = tuple(f"val/{i}.mp4" for i in range(videos))
    evaluation = Evaluation(scores, labels, torch.arange(videos), (), names, tuple(classes))
    folder.mkdir(parents=True)
    write_predictions(folder, evaluation, parquet=False)
    write_tables(folder, evaluation)
    (folder / "evaluation.json").write_text(json.dumps(evaluation.summary()))
    return evaluation


def test_a_run_as_a_page(run, videos, capsys):
    assert cli.run(["report", str(run)]) == 0
    page = run / "report.html"
    assert str(page) in capsys.readouterr().out
    reader = read(page)
    words = " ".join(reader.words)
    figures = json.loads((run / "evaluation.json").read_text())
    assert f"{figures['top1']:.1%}" in words
    for part in ("Training", "Results", "Classes", "Confusion", "Settings", "Environment"):
        assert part in words
    assert "probe.pool" in words
    assert "concat" in words
    # A strip for each video shown, which is a picture, and leads to its file.
    pictures = [a["src"] for name, a in reader.tags if name == "img"]
    # What is fetched only when it is seen is missing on paper.
    assert not [a for _, a in reader.tags if "loading" in a]
    assert 1 <= len(pictures) <= 18
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert first.height == 96
    links = [a["href"] for name, a in reader.tags if name == "a"]
    assert links
    assert all((run / link).resolve().is_relative_to(videos) and (run / link).is_file() for link in links)
    # Of our pages the earlier one is replaced; nothing else is.
    assert cli.run(["report", str(run), "--thumbnails", "0"]) == 0
    assert not [name for name, _ in read(page).tags if name == "img"]
    page.write_text("mine")
    assert cli.run(["report", str(run)]) == 2
    assert "nothing is written over" in capsys.readouterr().err
    assert page.read_text() == "mine"


def test_a_run_that_is_not_finished(run):
    for name in ("evaluation.json", "predictions.csv", "model.safetensors"):
        (run / name).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()[:2]
    broken = json.loads(lines[1]) | {"loss": float("nan"), "videos_per_second": float("inf")}
    (run / "metrics.jsonl").write_text(f"{lines[0]}\n{json.dumps(broken)}\n")
    words = " ".join(read(write_report(run)).words)
    assert "The training is not finished: 2 of 3 epochs." in words
    assert "There is no evaluation yet" in words
    assert "muybridge evaluate" in words
    assert "nan" not in words
    assert read_run(run).lines[1]["loss"] is None


def test_a_run_before_its_first_epoch(run):
    for name in ("evaluation.json", "predictions.csv", "model.safetensors", "metrics.jsonl"):
        (run / name).unlink()
    assert "0 of 3 epochs" in " ".join(read(write_report(run)).words)


def test_order_diagnostics_of_an_evaluation_within_the_run(run, videos, capsys):
    command = ["evaluate", str(run), "--data", str(videos), "--workers", "0", "--order", "--twins", "rising,falling"]
    assert cli.run([*command, "--out", str(run / "evaluation")]) == 0
    words = " ".join(read(write_report(run)).words)
    assert "Order of the frames" in words
    order = json.loads((run / "evaluation/order.json").read_text())
    for name in ("reversed", "shuffled", "frozen"):
        assert f"{order['gap'][name] * 100:+.1f}" in words
    assert "falling / rising" in words or "rising / falling" in words
    # A second one: the latest is shown, the other is named; one can be asked for.
    assert cli.run([*command[:-3], "--views", "2x1", "--out", str(run / "more")]) == 0
    words = " ".join(read(write_report(run)).words)
    assert "the latest is shown, more; others: evaluation" in words
    assert "Order of the frames" in " ".join(read(write_report(run, evaluation=run / "evaluation")).words)
    # The folder of an evaluation by itself.
    alone = read(write_report(run / "evaluation"))
    assert "Settings" not in " ".join(alone.words)
    assert [name for name, _ in alone.tags if name == "img"], "it tells where its videos are"


def test_an_evaluation_of_another_model_is_refused(run, videos, tmp_path, trained):
    out = tmp_path / "evaluation"
    assert cli.run(["evaluate", str(run), "--data", str(videos), "--workers", "0", "--out", str(out)]) == 0
    assert read_run(run, out).result.folder == out
    settings = json.loads((out / "settings.json").read_text())
    settings["settings"]["model"] = "0" * 64
    (out / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="its weights differ"):
        read_run(run, out)
    settings["settings"]["probe.pool"] = "mean"
    (out / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="method or classes differ"):
        read_run(run, out)


@pytest.mark.parametrize("count", [2, 400])
def test_few_and_many_classes(count, tmp_path):
    classes = [WICKED, *(f"class {i} \ud800 of a long name that goes on" for i in range(1, count))]
    classes = [name.replace("\ud800", "") for name in classes]
    evaluation = evaluation_folder(tmp_path / "run", classes)
    (tmp_path / "run/metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0, "lr": 0.1}\n')
    write_recipe(tmp_path / "run/recipe.json", Recipe(method="probe", options={}, data=str(tmp_path / "gone")))
    write_labels(tmp_path / "run/labels.txt", classes)
    page = write_report(tmp_path / "run")
    assert page.stat().st_size < 700_000
    reader = read(page)
    words = " ".join(reader.words)
    assert f"{evaluation.top1:.1%}" in words
    assert WICKED in words, "it is told, as a text"
    assert "The videos are not shown" in words
    assert ("The 20 worst of" in words) == (count == 400)
    pair = evaluation.confused_pairs(1)[0]
    row = re.search(r"Most confused.*?<tbody><tr><td>(.*?)</td><td>(.*?)</td>", page.read_text(), re.DOTALL)
    assert tuple(map(unescape, row.groups())) == (pair.label, pair.predicted)


def test_every_kind_of_damage_is_a_sentence(run, tmp_path, capsys):
    figures = '"videos": 3, "top1": 1, "top5": 1, "mean_class": 1'
    cases = [
        ("metrics.jsonl", "{", CheckpointError),
        ("evaluation.json", '{"videos": 3}', CheckpointError),
        ("evaluation.json", f'{{{figures}, "classes": {{"a": {{"videos": 3}}}}}}', CheckpointError),
        ("evaluation.json", f'{{{figures}, "mean_class": NaN, "classes": {{}}}}', CheckpointError),
        ("evaluation.json", f'{{{figures}, "classes": {{}}, "unreadable": null}}', CheckpointError),
        ("order.json", "{}", CheckpointError),
        ("order.json", '{"top1": {"right": 1}, "classes": [{"class": "a"}]}', CheckpointError),
        ("predictions.csv", "name,label\na,b\n", CheckpointError),
        ("recipe.json", "[", BadInput),
    ]
    for name, text, kind in cases:
        kept = (run / name).read_text() if (run / name).exists() else None
        (run / name).write_text(text)
        with pytest.raises(kind, match=name):
            write_report(run)
        (run / name).unlink()
        if kept is not None:
            (run / name).write_text(kept)
    with pytest.raises(MissingFile, match="neither recipe.json nor evaluation.json"):
        write_report(tmp_path)
    with pytest.raises(MissingFile, match="There is nothing"):
        write_report(tmp_path / "gone")
    with pytest.raises(BadInput, match="is a folder"):
        write_report(run, out=tmp_path)
    assert cli.run(["report", str(run / "recipe.json")]) == 2
    assert "expected a run folder" in capsys.readouterr().err


def test_no_home_folder_is_told(run, monkeypatch, videos):
    monkeypatch.setenv("HOME", str(videos.parent))
    text = write_report(run).read_text()
    assert str(videos.parent) not in text
    assert f"~/{videos.name}" in text


def test_markup():
    assert tag("p", WICKED, title=WICKED).count("<") == 2
    assert tag("p", Markup("<b>x</b>"), None, 3, class_="a", data_x=None) == '<p class="a"><b>x</b>3</p>'
    assert join("<", Markup("<br>")) == "&lt;<br>"
    cells = table(["a", "b"], [["x", 1]], numbers=1)
    assert '<td>x</td><td class="n">1</td>' in cells


def test_ticks_are_round_and_hold_the_data():
    for low, high in ((0, 1), (0, 0.37), (3, 3), (-2, 5), (1e-5, 3e-4), (0, 18100)):
        marks = ticks(low, high)
        assert marks[0] <= low
        assert marks[-1] >= high - 1e-12
        assert 2 <= len(marks) <= 8


def test_lines_are_where_the_values_are():
    chart = line_chart("x", {"a": [(1, 0.0), (2, 0.5), (3, 1.0), (4, float("nan"))]}, bounds=(0, 1))
    (path,) = re.findall(r'points="([^"]+)"', chart)
    xy = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert len(xy) == 3
    assert xy[1] == pytest.approx(((xy[0][0] + xy[2][0]) / 2, (xy[0][1] + xy[2][1]) / 2), abs=0.1)
    assert xy[2][1] < xy[0][1], "up is more"
    assert line_chart("x", {"a": []}) == ""
    Reader(line_chart("x", {WICKED: [(1, 2.0)]}))


def test_the_matrix_has_a_cell_for_each_pair():
    counts = np.array([[3, 1], [0, 4]])
    drawn = confusion_matrix(counts, ["a", WICKED])
    Reader(drawn)
    assert drawn.count("<rect") == 4
    assert ">1</text>" in re.sub("<title>.*?</title>", "", drawn)
    many = FEW_CLASSES + 1
    counts = np.zeros((many, many), int)
    counts[2, 5] = 1
    drawn = confusion_matrix(counts, [str(i) for i in range(many)])
    data = re.search(r"base64,([^\"]+)", drawn)[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    scale = len(picture) // many
    seen = picture[scale // 2 :: scale, scale // 2 :: scale, 3]
    assert (seen > 0).sum() == 1
    assert seen[2, 5] > 0


def test_the_counts_are_those_of_the_evaluation(tmp_path):
    classes = [f"c{i}" for i in range(7)]
    evaluation = evaluation_folder(tmp_path / "e", classes, 100)
    counts = confusion_counts(read_run(tmp_path / "e").result, classes)
    assert np.array_equal(counts, evaluation.confusion.numpy())
    assert SCORES not in {path.name for path in (tmp_path / "e").iterdir()}
    assert confusion_counts(read_run(tmp_path / "e").result, ["other"]) is None


def test_best_and_worst():
    def answer(name, label, predicted, score):
        return Answer(name, label, predicted, score, label == predicted, True)

    answers = [answer(f"{i}", "a", "a", 0.9 - i / 100) for i in range(5)] + [answer("b", "b", "b", 0.3)]
    answers += [answer("w1", "a", "b", 0.2), answer("w2", "b", "a", 0.8)]
    right, wrong = best_and_worst(answers, 3)
    assert [one.name for one in right] == ["0", "b", "1"], "each class once before one comes twice"
    assert [one.name for one in wrong] == ["w2", "w1"]


def test_links(tmp_path):
    page = tmp_path / "x/page.html"
    item = Item(str(tmp_path / "javascript:alert(1) #?.mp4"), 0, "v")
    assert link_to(item, page) == "./../javascript%3Aalert%281%29%20%23%3F.mp4"
    assert link_to(replace(item, start=1.5, end=3.0), page).endswith("#t=1.5,3")
    assert link_to(replace(item, stored=(0, 9)), page) == ""
    assert link_to(replace(item, path="https://host/a.mp4"), page) == ""


def test_settings_that_differ():
    recipe = Recipe(method="evl", options={"layers": 2, "dropout": 0.5}, train=TrainArgs(lr=1e-3))
    assert {name: value for name, (value, _) in changed(recipe).items()} == {"evl.layers": 2, "train.lr": 1e-3}


def test_texts():
    assert short("moving something from left to right", 18) == "moving…t to right"
    assert len(short("x" * 99, 18)) == 18
    assert [value_text(v) for v in (None, True, 1e-3, 2e4, (1, 2), "", [])] == [
        "-",
        "yes",
        "0.001",
        "20000",
        "1, 2",
        "-",
        "-",
    ]
