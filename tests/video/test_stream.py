"""Archives that are read from beginning to end: every video once, in an order that is known beforehand."""

import io
import tarfile
from itertools import chain, pairwise

import pytest
from test_shards import Server, archive, content, samples, server, video  # noqa: F401

from muybridge.engine.batches import epoch_batches
from muybridge.engine.processes import Processes
from muybridge.errors import BadInput, VideoError
from muybridge.structures import SourceArgs
from muybridge.video import ranges
from muybridge.video import stream as stream_module
from muybridge.video.ranges import RangeFile
from muybridge.video.sources import read_source
from muybridge.video.stream import Archives, Lane, lanes, share_sizes


def plain_reader(stream, skip_meta, select_files):
    """What webdataset's reader of tar streams does, plainly."""
    assert skip_meta is None
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isreg() and select_files(member.name):
                yield {"fname": member.name, "data": tar.extractfile(member).read()}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "PAUSE", 0.001)


@pytest.fixture(params=["plain", pytest.param("webdataset", marks=pytest.mark.slow)])
def reader(request, monkeypatch):
    """Both readers; the library's is an extra."""
    if request.param == "plain":
        monkeypatch.setattr(stream_module, "_webdataset", lambda: plain_reader)
    else:
        pytest.importorskip("webdataset", reason="pip install 'muybridge[webdataset]'")


SIZES = (7, 2, 11, 5)  # videos of each shard


@pytest.fixture
def shards(tmp_path):
    begin = 0
    for number, size in enumerate(SIZES):
        archive(tmp_path / f"train-{number}.tar", samples(range(begin, begin + size)))
        begin += size
    archive(tmp_path / "val-0.tar", samples(range(100, 104)))
    return tmp_path


def items_of(folder):
    return read_source(folder).train


# Order


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("count", "size", "of"), [(25, 2, 2), (25, 4, 3), (24, 4, 2), (3, 2, 4), (1, 1, 2), (7, 9, 1)])
def test_every_video_once_and_as_many_batches_in_every_process(count, size, of, workers):
    row = list(range(100, 100 + count))
    every = [lanes(row, size, 3, 5, 4, workers, rank, of) for rank in range(of)]
    seen = [index for share in every for lane in share for batch in lane.batches for index in batch]
    assert sorted(seen) == row
    for rank, share in enumerate(every):
        sizes = [len(batch) for batch in epoch_batches(count, size, 3, 5, Processes(rank, of))]
        assert share_sizes(count, size, rank, of) == sizes, "as many as when they are read one by one"
        turns = [share[j % workers].batches[j // workers] for j in range(len(sizes))]
        assert [len(batch) for batch in turns] == sizes
        for lane in share:
            assert sorted(lane.reads) == sorted(chain(*lane.batches))
            assert not lane.reads or lane.reads == row[(at := row.index(lane.reads[0])) : at + len(lane.reads)]


def test_the_buffer_mixes_and_is_no_larger():
    row = list(range(200))
    (lane,) = lanes(row, 10, 0, 0, 16, 1)
    drawn = list(chain(*lane.batches))
    assert drawn != row
    assert all(index < place + 16 for place, index in enumerate(drawn)), "drawn before it is read"
    assert sum(abs(index - place) for place, index in enumerate(drawn)) / 200 > 8
    (same,) = lanes(row, 10, 0, 0, 16, 1)
    assert same == lane
    others = [lanes(row, 10, 1, 0, 16, 1), lanes(row, 10, 0, 1, 16, 1)]
    assert all(other[0].batches != lane.batches for other in others), "seed and epoch count"
    (plain,) = lanes(row, 10, 0, 0, 1, 1)
    assert list(chain(*plain.batches)) == row


def test_the_rest_of_a_lane_reads_what_is_left_only():
    (lane,) = lanes(list(range(30)), 4, 0, 0, 8, 1)
    for done in range(9):
        rest = lane.after(done)
        assert rest.batches == lane.batches[done:]
        assert rest.reads == sorted(chain(*rest.batches))
    assert lane.after(8) == Lane([], [])


def test_archives_come_in_another_order_each_epoch(shards, reader):
    archives = Archives(items_of(shards))
    rows = [archives.row(7, epoch) for epoch in range(6)]
    assert len(set(map(tuple, rows))) > 2
    assert archives.row(7, 0) == rows[0]
    assert rows[0] != archives.row(8, 0) or rows[1] != archives.row(8, 1)
    for row in rows:
        assert sorted(row) == list(range(sum(SIZES)))
        files = [archives.items[index].path for index in row]
        assert sum(a != b for a, b in pairwise(files)) == len(SIZES) - 1, "one after the other"


# Reading


def test_files_are_those_that_are_read_one_by_one(shards, reader):
    archives = Archives(items_of(shards))
    row = archives.row(0, 0)
    found = list(archives.read(row, SourceArgs()))
    assert [index for index, _ in found] == row
    assert all(data == content(archives.items[index]) for index, data in found)
    part = row[3:7] + row[12:13] + row[20:]  # from the midst of an archive, with gaps
    assert [(i, data == content(archives.items[i])) for i, data in archives.read(part, SourceArgs())] == [
        (i, True) for i in part
    ]


def test_odd_archives(tmp_path, reader):
    archive(tmp_path / "val.tar", samples([50, 51]))
    labels = [("a/1.cls", "0"), ("a/2.x.cls", "1"), ("1.json", '{"label": 1}')]
    films = [("./a/1.MP4", video(1)), ("a/2.x.mp4", video(2, 513)), ("1.mkv", video(3, 512)), ("1.jpg", b"no video")]
    long = "b" * 150
    more = [("__a__/5.cls", "1"), ("__a__/5.mp4", video(5, 2)), (f"{long}.cls", "0"), (f"{long}.mp4", video(4, 1))]
    archive(tmp_path / "train.tar", [*labels, *films, *more], tarfile.PAX_FORMAT)
    archives = Archives(items_of(tmp_path))
    found = dict(archives.read(archives.row(0, 0), SourceArgs()))
    assert sorted(len(data) for data in found.values()) == [1, 2, 512, 513, 3000]
    assert all(data == content(archives.items[index]) for index, data in found.items())
    last = archives.row(0, 0)[-1]
    assert dict(archives.read([last], SourceArgs())) == {last: video(4, 1)}


def test_a_part_that_is_set_aside_is_passed_over(tmp_path, reader):
    archive(tmp_path / "a.tar", samples(range(20)))
    source = read_source(tmp_path / "a.tar", SourceArgs(val_share=0.3))
    archives = Archives(source.train)
    assert 0 < len(source.train) < 20
    for index, data in archives.read(archives.row(0, 0), SourceArgs()):
        assert data == content(source.train[index])


def test_archives_behind_an_address_are_fetched_in_a_row(shards, server, reader, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stream_module, "AHEAD", 20_000)
    items = read_source(server.address("{train-{0..3},val-0}.tar")).train
    archives = Archives(items)
    server.requests.clear()
    row = archives.row(0, 0)
    server.spoil = ["", "hang up", "503", ""]
    assert all(data == content(items[index]) for index, data in archives.read(row, SourceArgs()))
    places = [list(map(int, asked.removeprefix("bytes=").split("-"))) for asked in server.requests]
    assert sum(last - first > 19_000 for first, last in places) > 3


def test_a_broken_archive_costs_its_own_videos(shards, server, reader):  # noqa: F811
    archives = Archives(items_of(shards))
    row = archives.row(0, 0)
    path = shards / "train-2.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:12_000])
    errors = {i: data for i, data in archives.read(row, SourceArgs()) if isinstance(data, VideoError)}
    assert 0 < len(errors) < SIZES[2]
    assert {archives.items[index].path for index in errors} == {str(path)}
    longer = [(f"{n:04}.mp4", video(n, 3001)) for n in range(9, 20)]
    for changed in (samples(range(200, 211)), longer):  # others of the same size, or of the same name
        archive(path, changed)
        errors = [data for _, data in archives.read(row, SourceArgs()) if isinstance(data, VideoError)]
        assert len(errors) == SIZES[2]
        assert "was changed after its headers were read" in errors[0].reason
    path.unlink()
    errors = [data for _, data in archives.read(row, SourceArgs()) if isinstance(data, VideoError)]
    assert len(errors) == SIZES[2]
    assert "No such file" in errors[0].reason


def test_a_file_that_is_too_large_is_not_read(shards, reader):
    archives = Archives(items_of(shards))
    found = dict(archives.read(archives.row(0, 0), SourceArgs(megabytes=0.002)))
    assert len(found) == sum(SIZES)
    assert all("more than 0.002 MB" in error.reason for error in found.values())


def test_what_cannot_be_streamed_gets_a_sentence(videos, shards, reader, monkeypatch):
    with pytest.raises(BadInput, match=r"reads tar archives .* leave it out"):
        Archives(items_of(videos))
    items = items_of(shards)
    with pytest.raises(BadInput, match="is there twice"):
        Archives([*items, items[3]])
    for pipe in ("pipe:cat {0..3}.tar", "pipe:/bin/true x.tar", "PIPE:ls"):
        with pytest.raises(BadInput, match="would run a command"):
            read_source(pipe)


def test_the_missing_library_is_named(shards, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webdataset.tariterators", None)
    with pytest.raises(BadInput, match=r"pip install 'muybridge\[webdataset\]'"):
        Archives(items_of(shards))


def test_a_stretch_of_an_address_ends_where_it_should(server, tmp_path):  # noqa: F811
    (tmp_path / "x").write_bytes(bytes(range(200)))
    stretch = RangeFile(server.address("x"), 150, 64)
    stretch.seek(100)
    assert io.BufferedReader(stretch).read() == bytes(range(100, 150))
