"""What an evaluation keeps: resumed, it computes what is missing and nothing else; another one is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from muybridge.engine import evaluate as evaluate_module
from muybridge.engine.evaluate import EvaluateArgs, evaluate_data
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.predictions import FILES, Rows, hash_of_items, is_evaluation, join_rows, read_evaluation
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput, CheckpointError, MissingFile
from muybridge.loading import load
from muybridge.structures import Item
from trainings import trained

PAIR = EvaluateArgs(batch_size=2)


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions") / "run"
    return trained(videos, folder, frames=2).folder


class Counting(Progress):
    """Counts videos, and does something after a number of them."""

    def __init__(self, after=-1, act=None):
        self.videos, self.after, self.act, self.said = 0, after, act, []

    def advance(self, amount, **figures):
        self.videos += amount
        if self.videos == self.after:
            self.act()

    def say(self, text):
        self.said.append(text)


def test_files_hold_what_the_result_does(run, videos, tmp_path):
    result = evaluate_data(load(run), videos, PAIR, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {"settings.json", *FILES} - {"order.json", "order.csv"}
    assert names == (expected if find_spec("pyarrow") else expected - {"predictions.parquet"})
    again = read_evaluation(tmp_path / "out")
    assert torch.equal(again.scores, result.scores)
    assert torch.equal(again.labels, result.labels)
    assert (again.names, again.classes, again.summary()) == (result.names, result.classes, result.summary())
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == result.summary()
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert [row["name"] for row in rows] == list(result.names)
    assert [int(row["right"]) for row in rows] == result.hits(1).int().tolist()
    table = list(csv.reader((tmp_path / "out/confusion.csv").open()))
    assert [[int(count) for count in row[1:]] for row in table[1:]] == result.confusion.tolist()
    assert [row["class"] for row in csv.DictReader((tmp_path / "out/classes.csv").open())] == list(result.classes)


@pytest.mark.skipif(not find_spec("pyarrow"), reason="pyarrow is not installed")
def test_parquet_holds_all_scores(run, videos, tmp_path):
    import pyarrow.parquet

    result = evaluate_data(load(run), videos, PAIR, tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out/predictions.parquet").to_pydict()
    assert table["name"] == list(result.names)
    torch.testing.assert_close(torch.tensor(table["scores"]), result.scores)


def test_without_pyarrow_the_rest_is_written(run, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    evaluate_data(load(run), videos, PAIR, tmp_path / "out")
    assert not (tmp_path / "out/predictions.parquet").exists()
    assert is_evaluation(tmp_path / "out")


def test_a_finished_evaluation_is_read_not_computed(run, videos, tmp_path):
    first = evaluate_data(load(run), videos, PAIR, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    counting = Counting()
    again = evaluate_data(load(run), videos, EvaluateArgs(batch_size=5), tmp_path / "out", counting)
    assert counting.videos == 0
    assert torch.equal(again.scores, first.scores)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on(run, videos, tmp_path, kind):
    whole = evaluate_data(load(run), videos, PAIR)
    stop = Counting(4, lambda: os.kill(os.getpid(), kind))
    with pytest.raises(Interrupted, match="the scores of 4 videos are kept in .*out. The same command goes on"):
        evaluate_data(load(run), videos, PAIR, tmp_path / "out", stop)
    assert not is_evaluation(tmp_path / "out")
    with pytest.raises(MissingFile, match="no finished evaluation"):
        read_evaluation(tmp_path / "out")
    rest = Counting()
    result = evaluate_data(load(run), videos, PAIR, tmp_path / "out", rest)
    assert rest.videos == 5
    assert rest.said[1:] == ["4 of 9 videos were evaluated before; 5 are left."]
    assert torch.equal(result.scores, whole.scores)
    assert not (tmp_path / "out/parts").exists()


def test_an_error_in_the_middle_loses_nothing(run, videos, tmp_path):
    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        evaluate_data(load(run), videos, PAIR, tmp_path / "out", Counting(6, fail))
    rest = Counting()
    evaluate_data(load(run), videos, PAIR, tmp_path / "out", rest)
    assert rest.videos == 3


KILLED = """
import os, signal, sys
from muybridge.engine import evaluate, predictions
from muybridge.engine.progress import Progress
from muybridge.loading import load
evaluate.SAVE_EVERY = 0
class Kill(Progress):
    videos = 0
    def advance(self, amount, **figures):
        self.videos += amount
        if self.videos == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "files":  # in the middle of writing the files of a finished evaluation
    predictions.write_predictions = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    sys.argv[4] = "-1"
evaluate.evaluate_data(load(sys.argv[1]), sys.argv[2], evaluate.EvaluateArgs(batch_size=2), sys.argv[3], Kill())
"""


@pytest.mark.parametrize(("when", "left"), [("4", 7), ("files", 0)])
def test_killed_it_goes_on(run, videos, tmp_path, when, left):
    command = [sys.executable, "-c", KILLED, str(run), str(videos), str(tmp_path / "out"), when]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    rest = Counting()
    result = evaluate_data(load(run), videos, PAIR, tmp_path / "out", rest)
    # Of the four videos two were kept; the kill came before the others were.
    assert rest.videos == left
    assert torch.equal(result.scores, evaluate_data(load(run), videos, PAIR).scores)


def test_parts_are_written_while_it_runs(run, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "SAVE_EVERY", 0.0)
    parts = tmp_path / "out/parts"
    seen = []

    class Look(Progress):
        def advance(self, amount, **figures):
            seen.append(len(list(parts.glob("*.safetensors"))) if parts.exists() else 0)

    evaluate_data(load(run), videos, PAIR, tmp_path / "out", Look())
    assert seen == [0, 1, 2, 3, 4]


def test_another_setting_is_refused_and_named(run, videos, tmp_path):
    out = tmp_path / "out"
    evaluate_data(load(run), videos, PAIR, out)
    before = (out / "evaluation.json").read_bytes()
    with pytest.raises(BadInput, match="another setting: sampling.views was 1, now 2.*give another --out"):
        evaluate_data(load(run), videos, EvaluateArgs(views="2x1"), out)
    with pytest.raises(BadInput, match="videos was .*, now"):
        evaluate_data(load(run), videos, EvaluateArgs(split="train"), out)
    other = load(run)
    next(p for p in other.trained.parameters() if p.requires_grad).data.add_(0.1)
    with pytest.raises(BadInput, match="model was .*, now"):
        evaluate_data(other, videos, PAIR, out)
    slow = replace(PAIR, source=replace(PAIR.source, decoder="torchcodec"))
    with pytest.raises(BadInput, match='source.decoder was "pyav", now "torchcodec"'):
        evaluate_data(load(run), videos, slow, out)
    assert (out / "evaluation.json").read_bytes() == before


def test_the_same_videos_elsewhere_are_the_same(run, videos, tmp_path):
    evaluate_data(load(run), videos, PAIR, tmp_path / "out")
    (tmp_path / "moved").symlink_to(videos)
    counting = Counting()
    evaluate_data(load(run), tmp_path / "moved", PAIR, tmp_path / "out", counting)
    assert counting.videos == 0


def test_nothing_of_others_is_written_over(run, videos, tmp_path):
    with pytest.raises(BadInput, match="evaluation.json is there already and of no evaluation that can go on"):
        evaluate_data(load(run), videos, PAIR, run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="is a file; expected a folder"):
        evaluate_data(load(run), videos, PAIR, tmp_path / "file")
    with pytest.raises(BadInput, match="settings.json cannot be written: Not a directory"):
        evaluate_data(load(run), videos, PAIR, tmp_path / "file" / "below")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(BadInput, match="not the settings of an evaluation"):
        evaluate_data(load(run), videos, PAIR, tmp_path)


def test_a_name_that_cannot_be_written_is_told_before_anything_is_computed():
    with pytest.raises(BadInput, match=r"'val/caf\\udce9.mp4' is not UTF-8"):
        hash_of_items([Item("/x", 0, "val/fine.mp4"), Item("/y", 0, os.fsdecode(b"val/caf\xe9.mp4"))])


def test_a_damaged_part_is_named(run, videos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate_data(load(run), videos, PAIR, out, Counting(4, lambda: signal.raise_signal(signal.SIGINT)))
    (part,) = (out / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"000000000.safetensors is damaged .* remove it"):
        evaluate_data(load(run), videos, PAIR, out)


def test_scores_that_were_removed_are_computed_again(run, videos, tmp_path):
    first = evaluate_data(load(run), videos, PAIR, tmp_path)
    (tmp_path / "scores.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="remove it, and its videos are evaluated again"):
        evaluate_data(load(run), videos, PAIR, tmp_path)
    (tmp_path / "scores.safetensors").unlink()
    again = Counting()
    result = evaluate_data(load(run), videos, PAIR, tmp_path, again)
    assert again.videos == 9
    assert torch.equal(result.scores, first.scores)
    assert torch.equal(read_evaluation(tmp_path).scores, first.scores)


def test_rows_are_joined_in_order_and_once():
    one = Rows(torch.tensor([4, 1]), {"right": torch.tensor([[4.0], [1.0]])}, {2: "broken"})
    two = Rows(torch.tensor([0, 4]), {"right": torch.tensor([[0.0], [9.0]])}, {3: "too"})
    joined = join_rows([one, join_rows([]), two])
    assert joined.indices.tolist() == [0, 1, 4]
    assert joined.scores["right"].flatten().tolist() == [0, 1, 4]
    assert joined.known == {0, 1, 2, 3, 4}
