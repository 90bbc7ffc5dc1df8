"""Every video of a collection gives one row, whatever stops the job between any two writes, whatever a file does."""

import csv
import json
import os
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from asked import CLASSES, recogniser
from muybridge.engine import collected
from muybridge.engine.answers import Question, read_ahead, read_apart, video_features
from muybridge.engine.collected import Collection, CollectionArgs
from muybridge.engine.collection import answers_to, in_this_process, predict_collection
from muybridge.engine.interrupt import Interrupted
from muybridge.errors import BadInput
from muybridge.methods import METHODS
from muybridge.structures import Item, SourceArgs
from muybridge.video.dataset import VideoDataset
from muybridge.video.inputs import find_videos

CPU = torch.device("cpu")
EIGHT = CollectionArgs(top=2, block=8)


@pytest.fixture(scope="module")
def model():
    return recogniser()


@pytest.fixture(scope="module")
def films(videos, tmp_path_factory):
    """The 24 videos, one broken file, and a list of these that names one more which is not there."""
    folder = tmp_path_factory.mktemp("films")
    shutil.copytree(videos, folder, dirs_exist_ok=True)
    (folder / "train/falling/2a.mp4").write_bytes(b"no video")
    paths = sorted(str(path) for path in folder.rglob("*.mp4"))
    (folder / "list.txt").write_text("\n".join([*paths, "gone.mp4"]))
    return folder


def rows_of(folder, name="predictions.csv"):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_each_as_predict_has_them(model, films, tmp_path):
    summary = predict_collection(model, [films / "list.txt"], tmp_path, EIGHT)
    rows = rows_of(tmp_path)
    assert [int(row["index"]) for row in rows] == list(range(26))
    assert [row["path"] for row in rows[:-1]] == sorted(str(path) for path in films.rglob("*.mp4"))
    failed = {os.path.basename(row["path"]): row["error"] for row in rows if row["error"]}
    assert failed == {"2a.mp4": "not a video file that FFmpeg can read", "gone.mp4": "no such file"}
    for row in rows:
        if not row["error"]:
            best = model.predict(row["path"], 2)
            assert [row["label_1"], row["label_2"]] == [one.label for one in best]
            assert [float(row["score_1"]), float(row["score_2"])] == pytest.approx(
                [one.score for one in best], abs=2e-6
            )
        else:
            assert not any(row[name] for name in ("label_1", "score_1", "label_2", "score_2"))
    assert {name: summary[name] for name in ("asked", "done", "unreadable")} == {
        "asked": 26,
        "done": 24,
        "unreadable": 2,
    }
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert not (tmp_path / "parts").exists()


class Crash(BaseException):
    """The process is ended."""


def test_nothing_is_lost_or_doubled_by_an_end_between_any_two_writes(model, films, tmp_path, monkeypatch):
    expected = tmp_path / "expected"
    predict_collection(model, [films / "list.txt"], expected, EIGHT)
    real, computed = os.replace, []

    def counting(question, blocks, progress):
        for number, answers in in_this_process(CPU)(question, blocks, progress):
            computed.append(number)
            yield number, answers

    # settings, 4 parts, the result, the summary: the job ends before and after each of them is moved into its place.
    for moves in range(7):
        for after in (False, True):
            out, left = tmp_path / f"{moves}-{after}", [moves]

            def replace(source, target, left=left, after=after):
                left[0] -= 1
                if left[0] == -1 and not after:
                    raise Crash
                real(source, target)
                if left[0] == -1:
                    raise Crash

            computed.clear()
            monkeypatch.setattr(os, "replace", replace)
            with pytest.raises(Crash):
                predict_collection(model, [films / "list.txt"], out, EIGHT, counting)
            monkeypatch.setattr(os, "replace", real)
            assert not list(out.rglob("*.partial"))
            predict_collection(model, [films / "list.txt"], out, EIGHT, counting)
            assert (out / "predictions.csv").read_bytes() == (expected / "predictions.csv").read_bytes()
            assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in expected.iterdir())
            # A part that was whole is not computed again.
            twice = [number for number in range(4) if computed.count(number) > 1]
            assert twice == ([moves - 1] if 1 <= moves <= 4 and not after else [])
            assert set(computed) == {0, 1, 2, 3}


def test_a_finished_collection_is_read(model, films, tmp_path):
    first = predict_collection(model, [films], tmp_path, EIGHT)

    def never(question, blocks, progress):
        raise AssertionError

    (tmp_path / "parts").mkdir()
    assert predict_collection(model, [films], tmp_path, EIGHT, never) == first
    assert not (tmp_path / "parts").exists()


def test_blocks_in_any_order_and_twice(model, films, tmp_path):
    def backwards(question, blocks, progress):
        done = list(in_this_process(CPU)(question, blocks, progress))
        yield from [*reversed(done), done[1]]

    predict_collection(model, [films], tmp_path / "a", EIGHT)
    predict_collection(model, [films], tmp_path / "b", EIGHT, backwards)
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()


def test_a_block_that_an_engine_forgets_is_told(model, films, tmp_path):
    def lazy(question, blocks, progress):
        yield from list(in_this_process(CPU)(question, blocks, progress))[1:]

    with pytest.raises(BadInput, match="1 of 4 blocks were not computed"):
        predict_collection(model, [films], tmp_path, EIGHT, lazy)
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize("harm", ["", "index,path\n", "cut", "swapped"])
def test_a_damaged_part_is_computed_again(model, films, tmp_path, harm):
    predict_collection(model, [films], tmp_path / "a", EIGHT)

    def stopped(question, blocks, progress):
        yield from list(in_this_process(CPU)(question, blocks, progress))[:3]
        raise KeyboardInterrupt

    out = tmp_path / "b"
    with pytest.raises(Interrupted, match="3 of 4 blocks are kept"):
        predict_collection(model, [films], out, EIGHT, stopped)
    part = out / "parts/0000/0000001.csv"
    text = part.read_text()
    lines = text.splitlines(keepends=True)
    part.write_text(
        {"cut": text[:-60], "swapped": "".join([*lines[:2], lines[3], lines[2], *lines[4:]])}.get(harm, harm)
    )
    predict_collection(model, [films], out, EIGHT)
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "a/predictions.csv").read_bytes()


def test_another_question_does_not_go_on(model, films, tmp_path):
    predict_collection(model, [films], tmp_path / "out", EIGHT)
    for args, inputs, other, what in [
        (CollectionArgs(top=3, block=8), [films], model, "columns"),
        (CollectionArgs(top=2, block=4), [films], model, "block"),
        (EIGHT, [films / "list.txt"], model, "videos"),
        (EIGHT, [films], recogniser(seed=1), "model"),
        (CollectionArgs(top=2, block=8, source=SourceArgs(seconds=5)), [films], model, "source.seconds"),
    ]:
        with pytest.raises(BadInput, match=f"{what} was .* give another --out"):
            predict_collection(other, inputs, tmp_path / "out", args)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text").write_text("mine")
    with pytest.raises(BadInput, match="nothing is written over"):
        predict_collection(model, [films], tmp_path / "mine", EIGHT)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["text"]
    with pytest.raises(BadInput, match="is a file"):
        predict_collection(model, [films], tmp_path / "mine/text", EIGHT)


def test_two_processes_do_not_write_into_one_folder(model, films, tmp_path):
    items = find_videos([films])
    with (
        Collection(tmp_path, items, ("label_1",), EIGHT).alone(),
        pytest.raises(BadInput, match="Another process writes"),
    ):
        predict_collection(model, [films], tmp_path, EIGHT)
    predict_collection(model, [films], tmp_path, EIGHT)


def test_names_that_are_no_text_and_parts_of_videos_have_columns(model, films, tmp_path):
    odd = os.fsencode(tmp_path) + b'/\xff,\n".mp4'
    shutil.copy(films / "val/rising/0.mp4", odd)
    (tmp_path / "parts.csv").write_text(f"path,start,end\n{films}/val/rising/0.mp4,0.2,0.7\n")
    out = tmp_path / "out"
    predict_collection(model, [os.fsdecode(odd), tmp_path / "parts.csv"], out, CollectionArgs(block=1))
    whole, part = rows_of(out)
    assert whole["path"] == f'{tmp_path}/\\udcff,\n".mp4'
    assert not whole["error"]
    assert (part["start"], part["end"], part["error"]) == ("0.200000", "0.700000", "")


def test_a_file_that_ends_its_process_is_named_and_the_others_are_read(films, model, monkeypatch):
    items = find_videos([films])
    question = Question(model.method, model.spec, batch_size=4)
    expected = answers_to(question, items, CPU, lambda data, batches: read_apart(data, batches, 0))
    real = VideoDataset.__getitem__

    def deadly(self, key):
        if self.items[key[1]].path == items[9].path:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, key)

    monkeypatch.setattr(VideoDataset, "__getitem__", deadly)
    answers = answers_to(question, items, CPU, lambda data, batches: read_apart(data, batches, 2))
    assert "SIGKILL" in answers.pop(9)["error"]
    del expected[9]
    for one, other in zip(answers, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == (pytest.approx(other[name], abs=1e-6) if name.startswith("score") else other[name])


def test_threads_read_what_processes_read(films, model):
    items = find_videos([films])
    question = pickle.loads(pickle.dumps(Question(model.method, model.spec, batch_size=4)))
    with ThreadPoolExecutor(3) as pool:
        ahead = answers_to(question, items, CPU, lambda data, batches: read_ahead(data, batches, pool, 60))
    assert ahead == answers_to(question, items, CPU, lambda data, batches: read_apart(data, batches, 0))


def test_a_damaged_model_is_told(films):
    model = recogniser()
    with torch.no_grad():
        model.method.head.fc.bias.fill_(float("nan"))
    with pytest.raises(BadInput, match="is no number"):
        answers_to(Question(model.method, model.spec), find_videos([films]), CPU, lambda d, b: read_apart(d, b, 0))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_feature_is_what_the_head_reads(method):
    model = recogniser(method, views=2)
    video = torch.randn(3, 2, 4, 3, 32, 32)
    feature = video_features(model.method, video, CPU)
    assert feature.shape[0] == 3
    assert feature.shape == (3, feature.shape[1])
    with torch.no_grad():
        logits = model.method(video.flatten(0, 1)).logits.unflatten(0, (3, 2))
        one = video_features(model.method, video[:, :1], CPU)
        norm = getattr(model.method.head, "norm", torch.nn.Identity())
        linear = getattr(model.method.head, "fc", model.method.head)
        assert torch.allclose(linear(norm(one)), logits[:, 0], atol=1e-5)


def test_features_as_parquet(model, films, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'muybridge[parquet]'")
    args = CollectionArgs(features=True, format="parquet", block=8)
    predict_collection(model, [films / "list.txt"], tmp_path, args)
    table = parquet.read_table(tmp_path / "features.parquet")
    assert table.column_names == ["index", "path", "feature", "error"]
    rows = table.to_pylist()
    assert [row["index"] for row in rows] == list(range(26))
    assert [row["feature"] is None for row in rows] == [row["error"] is not None for row in rows]
    good = [row for row in rows if row["error"] is None]
    assert len({len(row["feature"]) for row in good}) == 1
    vectors = torch.tensor(np.array([row["feature"] for row in good], dtype=np.float32))
    with torch.no_grad():
        scores = model.method.head(vectors).softmax(-1)
    assert torch.allclose(scores, torch.stack([model.scores(row["path"]) for row in good]), atol=1e-5)
    again = CollectionArgs(format="parquet", block=8)
    predict_collection(model, [films / "list.txt"], tmp_path / "labels", again)
    (tmp_path / "csv").mkdir()
    predict_collection(model, [films / "list.txt"], tmp_path / "csv", CollectionArgs(block=8))
    for row, other in zip(
        parquet.read_table(tmp_path / "labels/predictions.parquet").to_pylist(), rows_of(tmp_path / "csv"), strict=True
    ):
        assert {name: "" if value is None else value for name, value in row.items() if "score" not in name} == {
            **{name: value for name, value in other.items() if "score" not in name},
            "index": int(other["index"]),
        }
        assert row["score_1"] is None or row["score_1"] == pytest.approx(float(other["score_1"]), abs=1e-6)


def test_parquet_without_pyarrow_is_told(model, films, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(collected, "import_module", missing)
    with pytest.raises(BadInput, match=r"muybridge\[parquet\]"):
        predict_collection(model, [films], tmp_path, CollectionArgs(format="parquet"))
    with pytest.raises(BadInput, match="Features are written as parquet"):
        CollectionArgs(features=True)
    assert len(CLASSES) == len(model.labels)
    assert Collection(tmp_path, (Item("/a", -1, "/a"),) * 9, ("label_1",), EIGHT).block(1).first == 8
