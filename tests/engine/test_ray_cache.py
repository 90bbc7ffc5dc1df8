"""Frozen features by workers of Ray: those of one process, also when a worker is killed."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from test_features import CPU, Said, halves, make

from muybridge.engine import features as features_module
from muybridge.engine.features import store_features
from muybridge.engine.ray_cache import _blocks, through_ray
from muybridge.engine.store import kept_features
from muybridge.errors import BadInput

MARK = "MUYBRIDGE_TEST_OF_RAY"


def test_blocks_are_whole_batches_and_enough_for_all():
    plan = [[2 * i, 2 * i + 1] for i in range(15)]
    for workers in (1, 2, 5):
        blocks = _blocks(plan, workers)
        assert [batch for block in blocks for batch in block] == plan
        assert len(blocks) >= min(3 * workers, len(plan))
    assert len(_blocks([list(range(1000))] * 3, 1)) == 3
    assert max(sum(map(len, block)) for block in _blocks([[i] for i in range(10_000)], 2)) == 256


@pytest.fixture(scope="module")
def ray_of_two():
    pytest.importorskip("ray", reason="pip install 'muybridge[ray]'")
    os.environ[MARK] = str(os.getpid())
    with through_ray(workers=2) as spread:
        yield spread
    del os.environ[MARK]


def workers():
    """Processes of Ray's that this test's Ray has started and that compute."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{MARK}={os.getpid()}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if ours and (folder / "cmdline").read_bytes().startswith(b"ray::Computing"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


class Killer(Said):
    """Kills a worker when the first block is done."""

    def __init__(self):
        super().__init__()
        self.killed = []

    def advance(self, amount, **figures):
        if not self.killed:
            self.killed.append(min(workers()))
            os.kill(self.killed[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="workers are found in /proc")
def test_two_workers_of_which_one_is_killed_compute_what_one_process_does(videos, tmp_path, ray_of_two):
    training, _ = halves(videos, batch_size=2)
    alone = store_features(make("evl"), training, CPU, tmp_path / "one", 2)
    killer = Killer()
    method = make("evl")
    stored = store_features(
        method, training, CPU, tmp_path / "ray", 2, progress=killer, title="training", spread=ray_of_two
    )
    assert killer.killed
    assert "computed by Ray, 2 workers with 1 CPU each" in killer.lines[0]
    assert ["training: 30 x" in line for line in killer.lines[1:]] == [True]
    index = json.loads((stored.store.folder / "index.json").read_text())
    rows = [row for shard in index["shards"] for row in shard["rows"]]
    assert sorted(rows) == list(range(30)), "nothing is lost or doubled"
    assert len({shard["file"].partition("-")[0] for shard in index["shards"]}) >= 2, "both have written"
    assert stored.store.labels == alone.store.labels
    for name in alone.store.about:
        assert torch.equal(stored.store.read(range(30), name), alone.store.read(range(30), name))


@pytest.mark.slow
def test_what_a_worker_finds_wrong_is_told_in_its_words(videos, tmp_path, ray_of_two, monkeypatch):
    training, _ = halves(videos, batch_size=2)
    bad = tmp_path / "kept"
    plan = features_module.plan_missing

    def gone(store, *rest):
        found = plan(store, *rest)
        (store.folder / "setting.json").unlink()  # as if it were on a disk that the workers do not see
        return found

    monkeypatch.setattr(features_module, "plan_missing", gone)
    monkeypatch.setattr(features_module, "see", lambda *_: None)
    with pytest.raises(BadInput, match="a disk that all of them see"):
        store_features(make("probe"), training, CPU, bad, spread=ray_of_two)
    assert not [kept for kept in kept_features(bad) if kept.done]
