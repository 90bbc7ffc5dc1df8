"""Two processes with half of the batch each train what one process with the whole batch trains."""

import json
from itertools import chain

import pytest
from together import backbone, distance, recipe_of, same_course, together

from muybridge.engine.batches import batch_keys, batches_in_epoch, epoch_batches
from muybridge.engine.processes import Processes
from muybridge.engine.train import resume, train
from muybridge.errors import CheckpointError


@pytest.mark.parametrize(("count", "size", "of"), [(15, 2, 2), (16, 4, 2), (13, 3, 4), (3, 2, 4), (1, 1, 2)])
def test_shares_are_those_of_one_process_with_the_whole_batch(count, size, of):
    shares = [epoch_batches(count, size, 7, 3, Processes(rank, of)) for rank in range(of)]
    whole = epoch_batches(count, size * of, 7, 3)
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    assert all(len(share) == batches_in_epoch(count, size, 7, Processes(0, of)) for share in shares)
    sizes = [[len(part) for part in parts] for parts in zip(*shares, strict=True)]
    assert all(max(parts) <= size and max(parts) - min(parts) <= 1 for parts in sizes)
    keys = [batch_keys(count, size, 7, 3, 2, Processes(rank, of)) for rank in range(of)]
    assert [list(chain(*parts)) for parts in zip(*keys, strict=True)] == batch_keys(count, size * of, 7, 3, 2)
    dealt = [epoch_batches(count, size, None, 0, Processes(rank, of)) for rank in range(of)]
    assert sorted(chain(*chain(*dealt))) == list(range(count))
    assert all(batch in epoch_batches(count, size, None, 0) for part in dealt for batch in part)
    assert [len(part) for part in dealt] == [batches_in_epoch(count, size, None, Processes(r, of)) for r in range(of)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["evl", "zeroi2v", "probe"])
def test_two_processes_equal_one(videos, tmp_path, method):
    first, second = together(videos, tmp_path / "two", f'method="{method}"')
    # 15 videos: batches of 4, 4, 4 and 3, two a step.
    result = train(recipe_of(videos, method, batch_size=4), tmp_path / "one", backbone=backbone())
    assert distance(tmp_path / "two", tmp_path / "one") < 1e-5
    figures = json.loads(first.splitlines()[-1])
    assert figures == json.loads(second.splitlines()[-1])
    assert figures["top1"] == result.evaluation.top1
    assert figures["exchanged"] == 4 * result.trainable, "each step exchanges what is trained, once, and nothing else"
    said = [line for line in first.splitlines() if line.startswith("epoch ")]
    assert len(said) == 2
    assert not [line for line in second.splitlines() if line.startswith("epoch ")], "only the first process speaks"
    same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_share_without_a_video_takes_part(videos, tmp_path):
    # Batches of 7 in each process: 14 videos, and then 1, of which the first process gets nothing.
    assert [len(batch) for batch in epoch_batches(15, 7, 0, 0, Processes(0, 2))] == [7, 0]
    # Without clipping, which would hide a wrong weight of a share.
    together(videos, tmp_path / "two", "batch_size=7", "accumulate=1", "clip_grad=0.0")
    train(recipe_of(videos, batch_size=14, accumulate=1, clip_grad=0.0), tmp_path / "one", backbone=backbone())
    assert distance(tmp_path / "two", tmp_path / "one") < 1e-5


@pytest.mark.slow
def test_two_processes_resume(videos, tmp_path):
    arguments = ('method="ila"', "mixup=0.8", "workers=1")
    together(videos, tmp_path / "whole", *arguments)
    stopped = together(videos, tmp_path / "cut", *arguments, "stop=6", fails=True)
    assert "Go on with: muybridge train --resume" in stopped[0]
    together(videos, tmp_path / "cut", "resume")
    assert distance(tmp_path / "cut", tmp_path / "whole") == 0.0
    with pytest.raises(CheckpointError, match="trained by 2 processes, and 1 are running. Start 2"):
        resume(tmp_path / "cut", backbone())
