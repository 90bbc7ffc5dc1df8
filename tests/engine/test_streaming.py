"""Training out of archives that are read from beginning to end: the same samples, each once, and exact resumption."""

import shutil
import signal
import tarfile
from collections import Counter
from dataclasses import replace

import pytest
import torch
from together import backbone, recipe_of

from muybridge.engine.batches import VideoBatches
from muybridge.engine.features import video_halves
from muybridge.engine.interrupt import Interrupted
from muybridge.engine.last import load_last
from muybridge.engine.processes import Processes
from muybridge.engine.streaming import StreamBatches
from muybridge.engine.train import resume, train
from muybridge.errors import BadInput
from muybridge.recipes import check
from muybridge.structures import Sampling, SourceArgs, Transform
from muybridge.video import stream as stream_module
from muybridge.video.dataset import VideoDataset, read_source
from trainings import StopAfter

SHARDS = (4, 1, 7, 3)  # videos in each
STREAM = SourceArgs(stream=True, stream_buffer=4)


def plain_reader(stream, skip_meta, select_files):
    """What webdataset's reader of tar streams does, plainly."""
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isreg() and select_files(member.name):
                yield {"fname": member.name, "data": tar.extractfile(member).read()}


@pytest.fixture(autouse=True)
def _reader(request, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.node.get_closest_marker("slow"):
        pytest.importorskip("webdataset", reason="pip install 'muybridge[webdataset]'")
    else:
        monkeypatch.setattr(stream_module, "_webdataset", lambda: plain_reader)


@pytest.fixture(scope="session")
def shards(videos, tmp_path_factory):
    """The 15 and 9 videos in archives, the classes mixed."""
    folder = tmp_path_factory.mktemp("shards")

    def write(name, paths):
        with tarfile.open(folder / name, "w") as file:
            for number, path in enumerate(paths):
                file.add(path, f"{number:03}.mp4")
                (folder / "label").write_text(path.parent.name)
                file.add(folder / "label", f"{number:03}.cls")
        (folder / "label").unlink()

    training = sorted((videos / "train").rglob("*.mp4"), key=lambda path: path.name + path.parent.name)
    for number, size in enumerate(SHARDS):
        write(f"train-{number}.tar", [training.pop() for _ in range(size)])
    write("val-0.tar", sorted((videos / "val").rglob("*.mp4")))
    return folder


def dataset_of(shards, source=STREAM):
    transform = Transform(size=(32, 32), flip=0.5, swap_labels=((1, 2),))
    return VideoDataset(read_source(shards).train, Sampling(frames=4), transform, True, 5, source)


def streamed(shards, rank=0, of=1, workers=0, size=2, views=0):
    batches = StreamBatches(dataset_of(shards), size, 3, views, workers)
    batches.processes = Processes(rank, of)
    return batches


def assert_same(ours, theirs):
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert (ours.inputs is None) == (theirs.inputs is None)
    assert ours.inputs is None or torch.equal(ours.inputs, theirs.inputs)
    assert ours.errors == theirs.errors


@pytest.mark.parametrize("views", [0, 2])
def test_samples_are_those_that_are_read_one_by_one(shards, views):
    indexed = VideoBatches(dataset_of(shards), 1, 3, views)
    for epoch in (0, 3):
        key = (0, epoch % views) if views else (epoch, 0)
        for batch in streamed(shards, views=views).epoch(epoch):
            for row, index in enumerate(batch.indices.tolist()):
                (one,) = indexed.read([[(key[0], index, key[1])]])
                assert torch.equal(batch.inputs[row], one.inputs[0])
                assert batch.labels[row] == one.labels[0]


def test_two_processes_with_two_workers_read_every_video_once(shards):
    for epoch in range(2):
        shares = [list(streamed(shards, rank, 2, 2).epoch(epoch)) for rank in range(2)]
        seen = Counter(index for share in shares for batch in share for index in batch.indices.tolist())
        assert seen == dict.fromkeys(range(15), 1)
        assert [[len(batch.labels) for batch in share] for share in shares] == [[2, 2, 2, 1], [2, 2, 2, 2]]
        assert all(len(share) == len(streamed(shards, 0, 2)) for share in shares)


def test_more_workers_than_archives_and_a_share_without_a_video(shards):
    shares = [list(streamed(shards, rank, 2, 3, size=7).epoch(0)) for rank in range(2)]
    assert [[len(batch.labels) for batch in share] for share in shares] == [[7, 0], [7, 1]]
    assert shares[0][1].inputs is None
    assert sorted(index for share in shares for batch in share for index in batch.indices.tolist()) == list(range(15))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_goes_on_where_it_was(shards, workers):
    whole = list(streamed(shards, workers=workers).epoch(1))
    assert len(whole) == 8
    for start in (1, 4, 7, 8):
        rest = list(streamed(shards, workers=workers).epoch(1, start))
        assert len(rest) == 8 - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert_same(ours, theirs)


def test_no_more_is_read_than_the_buffer_and_what_comes_next(shards, monkeypatch):
    batches, read = streamed(shards), []
    plain = batches.archives.read

    def counted(indices, source):
        for index, file in plain(indices, source):
            read.append(index)
            yield index, file

    monkeypatch.setattr(batches.archives, "read", counted)
    for number, _ in enumerate(batches.epoch(0), 1):
        assert len(read) <= 2 * number + STREAM.stream_buffer


def test_unreadable_videos_are_told_once(shards, tmp_path):
    broken = tmp_path / "shards"
    shutil.copytree(shards, broken)
    dataset = dataset_of(broken)
    path = broken / "train-3.tar"
    path.write_bytes(path.read_bytes()[:2000])
    batches = StreamBatches(dataset, 2, 3)
    found = list(batches.epoch(0))
    errors = {index: sentence for batch in found for index, sentence in batch.errors.items()}
    assert len(errors) + sum(len(batch.labels) for batch in found) == 15
    assert all("train-3.tar/" in sentence for sentence in errors.values())
    assert len(errors) == 3


def weights(folder):
    state = load_last(folder)
    return {**state["tensors"], **state["average"]["tensors"]}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_ends_with_the_same_bits(shards, tmp_path, workers):
    recipe = replace(recipe_of(shards, "probe", accumulate=1, workers=workers, mixup=0.8), source=STREAM)
    train(recipe, tmp_path / "whole", backbone=backbone())
    with pytest.raises(Interrupted, match="epoch 2 after 3 batches"):
        train(recipe, tmp_path / "cut", backbone=backbone(), progress=StopAfter(11, signal.SIGTERM))
    resume(tmp_path / "cut", backbone())
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = replace(recipe, source=SourceArgs())
    train(other, tmp_path / "indexed", backbone=backbone())
    theirs = weights(tmp_path / "indexed")
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs), "the order is another"


def test_what_goes_with_a_stream_and_what_does_not(shards, videos, tmp_path):
    recipe = replace(recipe_of(shards, "probe"), source=STREAM)
    check(recipe)
    training, validation = video_halves(recipe, read_source(shards))
    assert type(training) is StreamBatches
    assert type(validation) is VideoBatches
    changed = replace(recipe.train, cache="disk", fixed_views=1)
    with pytest.raises(BadInput, match=r"leave --source.stream out"):
        check(replace(recipe, train=changed))
    with pytest.raises(BadInput, match=r"--train.class_weights balanced"):
        check(replace(recipe, train=replace(recipe.train, balanced_sampling=True)))
    with pytest.raises(BadInput, match="source.stream_buffer is 0"):
        check(replace(recipe, source=replace(STREAM, stream_buffer=0)))
    with pytest.raises(BadInput, match="leave it out for videos in files"):
        video_halves(recipe, read_source(videos))
    with pytest.raises(BadInput, match="leave it out for videos in files"):
        train(replace(recipe, data=str(videos)), tmp_path / "run", backbone=backbone())
    assert not (tmp_path / "run").exists(), "nothing was begun"


@pytest.mark.slow
def test_the_library_reads_what_we_do(shards):
    ours = list(streamed(shards, workers=2).epoch(0))
    assert sum(len(batch.labels) for batch in ours) == 15
    stream_module_reader = stream_module._webdataset
    try:
        stream_module._webdataset = lambda: plain_reader
        theirs = list(streamed(shards, workers=2).epoch(0))
    finally:
        stream_module._webdataset = stream_module_reader
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)
