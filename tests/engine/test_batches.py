"""The order of samples: from seed and epoch only, the same with and without a cache, from any place on; workers die."""

import ctypes
import os
import signal
import time

import pytest
import torch

from muybridge.engine.batches import FeatureBatches, VideoBatches, batch_keys, epoch_order
from muybridge.errors import BadInput, VideoError
from muybridge.structures import Item, SourceArgs


def test_order_is_a_permutation_of_its_own_for_every_seed_and_epoch():
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    torch.manual_seed(3)
    assert tuple(epoch_order(50, 1, 1)) == orders[1, 1]


def test_fresh_draws_every_epoch_or_fixed_views():
    fresh = [key for batch in batch_keys(7, 3, seed=0, epoch=4) for key in batch]
    assert {(epoch, view) for epoch, _, view in fresh} == {(4, 0)}
    fixed = [key for batch in batch_keys(7, 3, seed=0, epoch=4, fixed_views=3) for key in batch]
    assert {(epoch, view) for epoch, _, view in fixed} == {(0, 1)}
    assert [index for _, index, _ in fresh] == [index for _, index, _ in fixed]
    assert [len(batch) for batch in batch_keys(7, 3, 0, 0)] == [3, 3, 1]


def test_feature_batches_have_the_same_order_and_leave_unreadable_videos_out():
    count, views = 7, 2
    features = {"x": torch.arange(count * views).float()[:, None]}
    labels = torch.arange(count) % 3
    batches = FeatureBatches(features, labels, {2: "two is broken"}, 3, seed=5, views=views)
    for epoch in range(3):
        seen = list(batches.epoch(epoch))
        indices = [i for batch in seen for i in batch.indices.tolist()]
        assert indices == [i for i in epoch_order(count, 5, epoch) if i != 2]
        values = [value for batch in seen for value in batch.inputs["x"][:, 0].tolist()]
        assert values == [i * views + epoch % views for i in indices]
        assert [error for batch in seen for error in batch.errors.items()] == [(2, "two is broken")]
        rest = list(batches.epoch(epoch, start=1))
        assert [batch.indices.tolist() for batch in rest] == [batch.indices.tolist() for batch in seen[1:]]


def test_a_batch_without_a_readable_video_has_no_inputs():
    batches = FeatureBatches({"x": torch.zeros(2, 1)}, torch.zeros(2, dtype=torch.long), {0: "a", 1: "b"}, 2)
    (batch,) = batches.epoch(0)
    assert batch.inputs is None
    assert len(batch.labels) == 0


class Deadly:
    """Stands in for a data set of videos: reading one of them ends the process, or never comes back."""

    def __init__(self, index, how):
        self.items = [Item(f"/videos/{i}.mp4", 0, f"{i}.mp4") for i in range(8)]
        self.source = SourceArgs()
        self.index, self.how = index, how

    def __len__(self):
        return len(self.items)

    def __getitem__(self, key):
        if key[1] == self.index:
            self.how()
        return {"index": key[1], "label": 0, "video": torch.zeros(1)}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    # Python does not answer to signals within this call of C.
    ctypes.PyDLL(None).sleep(1000)


def refuse():
    raise BadInput("no such decoder")


@pytest.mark.parametrize(
    ("how", "why"), [(kill, r"that was reading it died \(SIGKILL\)"), (hang, "did not come back within 1 s")]
)
def test_a_worker_that_dies_or_hangs_is_named_with_its_file(how, why):
    batches = VideoBatches(Deadly(5, how), 2, workers=1)
    batches._watched.limit = 1.0
    with pytest.raises(VideoError, match=why) as caught:
        list(batches.epoch(0))
    assert caught.value.path == "/videos/5.mp4"
    assert "muybridge data check" in caught.value.reason


def test_a_worker_that_dies_does_not_disturb_what_the_main_process_does():
    batches = VideoBatches(Deadly(7, kill), 2, workers=1)
    epoch = batches.epoch(0)
    next(epoch)
    # By then the worker is dead; torch alone would raise its error here.
    for _ in range(100):
        time.sleep(0.01)
    with pytest.raises(VideoError, match="7.mp4"):
        list(epoch)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_whole_data_set_keep_their_sentence(workers):
    with pytest.raises(BadInput) as caught:
        list(VideoBatches(Deadly(0, refuse), 2, workers=workers).epoch(0))
    assert str(caught.value) == "no such decoder"
