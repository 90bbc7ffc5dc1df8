"""Features on disk: what is whole is found again, what is torn is not, and two writers do no harm."""

import json
import os
import shutil
import time
from collections import namedtuple
from contextlib import suppress
from multiprocessing import get_context

import pytest
import torch

from muybridge.engine import store as store_module
from muybridge.engine.progress import Progress
from muybridge.engine.store import (
    FeatureStore,
    check_space,
    clear_features,
    feature_key,
    features_folder,
    kept_features,
)
from muybridge.errors import BadInput

SETTING = {"method": "x", "seed": 0, "precision": "half", "backbone": "b"}
Disk = namedtuple("Disk", "total used free")


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def values(rows):
    """A row's features follow from its number: {"a": [n, 2, 3] fp16, "b": [n] int64}."""
    numbers = torch.tensor(rows)
    return {"a": numbers.half()[:, None, None] + torch.arange(6).half().view(2, 3) / 8, "b": numbers}


def fill(root, count=10, rows=None, per_shard=4, progress=None):
    store = FeatureStore(root, SETTING, count)
    with store.writing(progress or Progress()):
        rows = store.missing if rows is None else rows
        for i in range(0, len(rows), per_shard):
            part = rows[i : i + per_shard]
            store.add(part, [row % 3 for row in part], values(part))
            store.flush()
    return store


def assert_holds(store, rows):
    torch.testing.assert_close(store.read(rows, "a"), values(rows)["a"], atol=0, rtol=0)
    torch.testing.assert_close(store.read(rows, "b"), values(rows)["b"], atol=0, rtol=0)
    assert [store.labels[row] for row in rows] == [row % 3 for row in rows]


def test_rows_come_back_in_any_order_and_precision(tmp_path):
    fill(tmp_path)
    store = FeatureStore(tmp_path, SETTING, 10)
    assert store.missing == []
    assert_holds(store, [7, 0, 9, 3, 3])
    single = store.read([9, 1], "a", torch.float32)
    assert single.dtype == torch.float32
    assert torch.equal(single, values([9, 1])["a"].float())


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_shards_are_mapped_and_not_loaded(tmp_path):
    store = FeatureStore(tmp_path, SETTING, 64)
    with store.writing(Progress()):
        store.add(range(64), [0] * 64, {"a": torch.ones(64, 1_000_000, dtype=torch.uint8)})
        store.flush()

    def memory():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    store = FeatureStore(tmp_path, SETTING, 64)
    before = memory()
    store.read([5, 60], "a")
    assert memory() - before < 20e6, "two of 64 rows of 1 MB were asked for"


def test_every_part_of_a_setting_counts_for_the_key():
    base = {**SETTING, "sampling": {"frames": 8, "views": [1, 2]}}
    others = [{**base, name: "other"} for name in base] + [{**base, "more": None}]
    others.append({**base, "sampling": {"frames": 8, "views": [2, 1]}})
    keys = {feature_key(setting) for setting in [base, *others]}
    assert len(keys) == len(others) + 1
    assert feature_key(dict(reversed(base.items()))) == feature_key(base)


@pytest.mark.parametrize("how", ["cut", "cut unseen", "flipped", "gone", "empty"])
def test_a_torn_shard_is_found_and_written_anew(tmp_path, how):
    store = fill(tmp_path)
    shard = store.folder / "00001.safetensors"
    whole, times = shard.read_bytes(), shard.stat()
    if how == "gone":
        shard.unlink()
    else:
        spoilt = bytearray(whole)
        spoilt[-3] ^= 1
        shard.write_bytes({"flipped": bytes(spoilt), "empty": b""}.get(how, whole[:-5]))
        os.utime(shard, ns=(1, times.st_mtime_ns if how == "cut unseen" else 1))
    store, said = FeatureStore(tmp_path, SETTING, 10), Said()
    assert store.missing == [4, 5, 6, 7]
    with pytest.raises(KeyError):
        store.read([4], "a")
    fill(tmp_path, progress=said)
    assert ["00001.safetensors is not whole" in line for line in said.lines] == [True]
    store = FeatureStore(tmp_path, SETTING, 10)
    assert store.missing == []
    assert_holds(store, list(range(10)))


def test_a_copied_folder_is_as_good(tmp_path):
    store = fill(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy)  # other times of modification
    copy = FeatureStore(tmp_path / "two", SETTING, 10)
    assert copy.folder.name == store.folder.name
    assert copy.missing == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_index_is_no_index(tmp_path, text):
    store = fill(tmp_path)
    (store.folder / "index.json").write_text(text)
    assert FeatureStore(tmp_path, SETTING, 10).missing == list(range(10))
    fill(tmp_path)
    assert_holds(FeatureStore(tmp_path, SETTING, 10), list(range(10)))


def test_what_was_written_is_kept_and_the_rest_is_missing(tmp_path):
    fill(tmp_path, rows=[3, 8, 1])
    store = FeatureStore(tmp_path, SETTING, 10)
    store.errors[0] = "zero is broken"
    assert store.missing == [2, 4, 5, 6, 7, 9]
    store.flush()
    assert FeatureStore(tmp_path, SETTING, 10).errors == {0: "zero is broken"}
    # Left over from a killed process: not in the index, so nobody's.
    stray, partial = store.folder / "00009.safetensors", store.folder / "00001.safetensors.partial"
    stray.write_bytes(b"half a shard")
    partial.write_bytes(b"less than that")
    fill(tmp_path)
    assert not stray.exists()
    assert not partial.exists()
    assert_holds(FeatureStore(tmp_path, SETTING, 10), list(range(1, 10)))


def test_shards_are_written_when_they_are_large_many_or_old(tmp_path, monkeypatch):
    def shards(**limits):
        folder = tmp_path / str(limits)
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(store_module, name, value)
            store = FeatureStore(folder, SETTING, 10)
            with store.writing(Progress()):
                for row in range(10):
                    store.add([row], [0], values([row]))
                store.flush()
        return len(list(store.folder.glob("*.safetensors")))

    assert shards() == 1
    assert shards(SHARD_ROWS=4) == 3
    assert shards(SHARD_BYTES=40) == 5  # a row has 20 bytes
    assert shards(SHARD_SECONDS=0.0) == 10


class Lines(Progress):
    def __init__(self, pipe):
        self.pipe = pipe

    def say(self, text):
        self.pipe.send(text)


def write_slowly(root, count, wait, pipe):
    store = FeatureStore(root, SETTING, count)
    with store.writing(Lines(pipe)):
        for row in store.missing:
            pipe.send(row)
            store.add([row], [row % 3], values([row]))
            store.flush()
            time.sleep(wait)
    pipe.close()


def writer(root, count, wait):
    """A process of its own that writes row after row, and the pipe by which it tells which."""
    context = get_context("fork")  # a new interpreter would need seconds for torch alone
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write_slowly, args=(root, count, wait, theirs))
    process.start()
    theirs.close()
    return process, ours


def rest(pipe):
    """All that a writer tells until it ends."""
    told = []
    with suppress(EOFError):
        while True:
            told.append(pipe.recv())
    return told


def test_a_killed_writer_is_gone_on_with(tmp_path):
    count = 40
    for kill in range(4):
        process, pipe = writer(tmp_path, count, 0.0)
        while pipe.recv() < 8 * (kill + 1):
            pass
        process.kill()
        process.join()
        store = FeatureStore(tmp_path, SETTING, count)
        assert count - 8 * (kill + 1) >= len(store.missing) > 0
        assert_holds(store, sorted(store.labels))
    fill(tmp_path, count)  # the lock went with its process
    assert_holds(FeatureStore(tmp_path, SETTING, count), list(range(count)))


def test_two_writers_at_once_write_every_row_once(tmp_path):
    count = 12
    (one, its), (two, others) = (writer(tmp_path, count, 0.02) for _ in range(2))
    told = rest(its) + rest(others)
    one.join()
    two.join()
    assert (one.exitcode, two.exitcode) == (0, 0)
    assert sorted(row for row in told if isinstance(row, int)) == list(range(count))
    assert_holds(FeatureStore(tmp_path, SETTING, count), list(range(count)))


def test_the_second_writer_says_that_it_waits(tmp_path):
    first, pipe = writer(tmp_path, 8, 0.1)
    assert pipe.recv() == 0
    said, begun = Said(), time.monotonic()
    store = fill(tmp_path, 8, progress=said)
    assert time.monotonic() - begun > 0.5
    assert "Another process computes these features" in said.lines[0]
    first.join()
    assert first.exitcode == 0
    assert_holds(store, list(range(8)))


def test_a_full_disk_keeps_what_is_whole(tmp_path, monkeypatch):
    fill(tmp_path, rows=[0, 1])

    def full(tensors, path):
        path.write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_file", full)
        with pytest.raises(BadInput, match=r"No space left on device.*--train\.cache_folder"):
            fill(tmp_path)
    store = FeatureStore(tmp_path, SETTING, 10)
    assert_holds(store, [0, 1])
    assert not list(store.folder.glob("*.partial"))


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: Disk(10, 5, 5_000_000_000))
    assert check_space(tmp_path / "not" / "there", 4e9) == 5e9
    with pytest.raises(BadInput, match=r"need 6\.0 GB and .* has 5\.0 GB left.*--train\.cache_folder"):
        check_space(tmp_path / "not" / "there", 6e9)
    assert not (tmp_path / "not").exists()


def test_a_place_that_is_no_folder_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"cannot be written to .*--train\.cache_folder"):
        fill(tmp_path / "file")


def test_list_and_clear_touch_features_only(tmp_path):
    store = fill(tmp_path)
    other = FeatureStore(tmp_path, {**SETTING, "seed": 1}, 4)
    with other.writing(Progress()):
        other.add([0], [0], values([0]))
        other.errors[2] = "broken"
        other.flush()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ("0" * 64)).mkdir()
    kept = {entry.key: entry for entry in kept_features(tmp_path)}
    assert set(kept) == {store.folder.name, other.folder.name}
    assert (kept[store.folder.name].done, kept[store.folder.name].rows) == (10, 10)
    assert (kept[other.folder.name].done, kept[other.folder.name].rows) == (2, 4)
    assert kept[other.folder.name].setting == {**SETTING, "seed": 1}
    removed, busy = clear_features(tmp_path, [other.folder.name])
    assert removed > 0
    assert busy == []
    assert FeatureStore(tmp_path, SETTING, 10).missing == []
    with store.writing(Progress()):
        assert clear_features(tmp_path)[1] == [store.folder.name]
    assert clear_features(tmp_path)[1] == []
    assert FeatureStore(tmp_path, SETTING, 10).missing == list(range(10))
    assert kept_features(tmp_path) == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_folder_is_ours_or_the_one_given(tmp_path, monkeypatch):
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path))
    assert features_folder() == tmp_path / "features"
    monkeypatch.chdir(tmp_path)
    assert features_folder("here") == tmp_path / "here"


def test_the_setting_lies_beside_the_features(tmp_path):
    store = fill(tmp_path)
    assert json.loads((store.folder / "setting.json").read_text()) == {**SETTING, "rows": 10}
