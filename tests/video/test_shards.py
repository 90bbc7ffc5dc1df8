"""WebDataset shards: what is in an archive, on this machine and behind an address, and archives that cannot be read."""

import gzip
import io
import json
import os
import random
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from muybridge.errors import BadInput, MissingFile, VideoError
from muybridge.structures import SourceArgs
from muybridge.video import ranges, shards
from muybridge.video.ranges import RangeFile, read_range, state_of
from muybridge.video.shards import expand, index_of, read_stored
from muybridge.video.sources import read_items, read_source, read_split, write_split


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "PAUSE", 0.001)
    return tmp_path / "cache/muybridge/shards"


def video(seed, size=3000):
    """Bytes; no test here decodes them."""
    return random.Random(seed).randbytes(size)


def archive(path, members, form=tarfile.GNU_FORMAT, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=form) as file:
        for name, content in members:
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def samples(numbers, label="{}", suffix="cls"):
    """A video and its label for each number."""
    return [m for n in numbers for m in ((f"{n:04}.mp4", video(n)), (f"{n:04}.{suffix}", label.format(n % 2)))]


def content(item):
    return read_stored(item.path, *item.stored)


class Server(ThreadingHTTPServer):
    """Serves a folder. `requests` are the ranges asked for; `spoil` says what to do wrong."""

    def __init__(self, folder):
        self.folder, self.requests, self.spoil, self.tag = folder, [], [], "1"
        super().__init__(("127.0.0.1", 0), Handler)

    def address(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.server.folder / self.path.lstrip("/").partition("?")[0]
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        spoil = self.server.spoil.pop(0) if self.server.spoil else ""
        if spoil == "hang up":
            self.connection.close()
            return
        if spoil.isdecimal():
            self.send_error(int(spoil))
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if spoil == "whole file" or asked is None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        if first >= len(data):
            self.send_error(416)
            return
        part = data[first : last + 1]
        if spoil == "other place":
            first += 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        if self.server.tag:
            self.send_header("ETag", f'"{self.server.tag}"')
        self.end_headers()
        self.wfile.write(part[:-1] if spoil == "short" else part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# Patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("t-{000..002}.tar", ["t-000.tar", "t-001.tar", "t-002.tar"]),
        ("t-{8..11}", ["t-8", "t-9", "t-10", "t-11"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{train-{00..01},val-{0..0}}.tar", ["train-00.tar", "train-01.tar", "val-0.tar"]),
        ("x{3..2}", []),
    ],
)
def test_patterns(pattern, names):
    assert expand(pattern) == names


def test_patterns_that_mean_nothing_or_too_much(tmp_path):
    with pytest.raises(BadInput, match="means no archive"):
        read_source(tmp_path / "train-{9..0}.tar")
    with pytest.raises(BadInput, match="more than 1,000,000 archives"):
        expand("t-{0..999999999999}.tar")


def test_pattern_that_is_not_closed():
    with pytest.raises(BadInput, match="a brace that is not closed"):
        expand("t-{000..002.tar")


# What is in an archive


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_videos_are_found_by_their_place(form, tmp_path):
    long = "folder/" + "n" * 90 + ("é" * 60 if form != tarfile.USTAR_FORMAT else "")
    members = [
        ("a.mp4", video(1)),
        ("a.cls", "1\n"),
        ("a.jpg", b"picture"),
        (f"{long}.json", json.dumps({"label": 0, "extra": [1]})),
        (f"./{long}.WEBM", video(2, 513)),
        ("b.seg.avi", video(3, 0)),
        ("b.txt", "2"),
        ("readme.txt", "not of a sample"),
    ]
    shard = archive(tmp_path / "s.tar", members, form)
    found = index_of(str(shard))
    assert [(sample.key, sample.label) for sample in found] == [("a", "1"), (long, "0"), ("b", "2")]
    stored = [read_stored(str(shard), sample.offset, sample.size) for sample in found]
    assert stored == [video(1), video(2, 513), b""]


def test_index_is_remembered_until_the_archive_changes(tmp_path, cache, monkeypatch):
    shard = archive(tmp_path / "s.tar", samples(range(3)))
    first = index_of(str(shard))
    assert len(list(cache.iterdir())) == 1
    reading = []
    real = shards._read
    monkeypatch.setattr(shards, "_read", lambda *args: reading.append(args) or real(*args))
    monkeypatch.chdir(tmp_path)
    assert index_of("s.tar") == first
    assert not reading
    archive(shard, samples(range(4)))
    os.utime(shard, ns=(0, 1))
    assert len(index_of(str(shard))) == 4
    next(cache.iterdir()).write_text("{")
    assert len(index_of(str(shard))) == 4
    assert len(reading) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    assert len(index_of(str(shard))) == 4


def test_folder_of_shards(tmp_path):
    root = tmp_path / "shards"
    archive(root / "train-000.tar", samples(range(4), "{}"))
    archive(root / "train-001.tar", samples(range(4, 6), "{}"))
    archive(root / "val-000.tar", samples(range(8, 10), "{}"))
    source = read_source(root)
    assert [item.name for item in source.val] == ["val-000.tar/0008", "val-000.tar/0009"]
    assert [item.label for item in source.train] == [0, 1, 0, 1, 0, 1]
    assert [content(item) for item in source.train] == [video(n) for n in range(6)]
    assert source.labels == ("0", "1")
    (root / "classes.txt").write_text("run\njump\n")
    source = read_source(root)
    assert source.labels == ("run", "jump")
    write_split(tmp_path / "split.csv", source)
    back = read_split(tmp_path / "split.csv", root, source.labels)
    assert (back.train, back.val) == (source.train, source.val)
    assert read_source(f"{root}/{{train-{{000..001}},val-000}}.tar").train == source.train
    assert read_items(root / "val-000.tar", ["jump", "run"])[0].label == 1


@pytest.mark.parametrize("form", ["", "{train,val}/{000..001}.tar"])
def test_folders_of_shards(form, tmp_path):
    for place, name in enumerate(["train/000.tar", "train/001.tar", "val/000.tar", "val/001.tar"]):
        archive(tmp_path / name, samples(range(2 * place, 2 * place + 2)))
    source = read_source(tmp_path / form)
    names = [f"train/{shard}" for shard in ("000.tar/0000", "000.tar/0001", "001.tar/0002", "001.tar/0003")]
    assert [item.name for item in source.train] == names
    assert [content(item) for item in source.val] == [video(number) for number in range(4, 8)]


def test_archives_beside_class_folders_are_what_these_were_unpacked_from(tmp_path):
    for name in ("train/a.tar", "val/a.tar"):
        archive(tmp_path / name, samples(range(2)))
    for name in ("train/up/1.mp4", "train/down/1.mp4", "val/up/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert read_source(tmp_path).labels == ("down", "up")


def test_archives_alone_in_a_folder_need_no_format(tmp_path):
    archive(tmp_path / "shards/000.tar", samples(range(8)))
    source = read_source(tmp_path / "shards")
    assert (len(source.train), len(source.val)) == (6, 2)


def test_an_archive_is_read_anew_if_its_server_does_not_tell_its_state(server, tmp_path):
    archive(tmp_path / "a.tar", samples(range(4)))
    server.tag = ""
    index_of(server.address("a.tar"))
    asked = len(server.requests)
    archive(tmp_path / "a.tar", reversed(samples(range(4))))
    assert [stored.key for stored in index_of(server.address("a.tar"))] == ["0003", "0002", "0001", "0000"]
    assert len(server.requests) > asked + 1


def test_shards_without_a_second_half(tmp_path):
    archive(tmp_path / "s-0.tar", samples(range(10), "class {}", "txt"))
    source = read_source(f"{tmp_path}/s-{{0..0}}.tar")
    assert (len(source.train), len(source.val), source.labels) == (8, 2, ("class 0", "class 1"))
    assert read_source(tmp_path, SourceArgs(format="shards")).train == source.train


# Behind an address


def test_shards_behind_an_address(server, tmp_path):
    for name in ("train-0", "train-1", "val-0"):
        archive(tmp_path / f"{name}.tar", samples(range(6)))
    pattern = server.address("{train-{0..1},val-0}.tar?sign=x")
    source = read_source(pattern)
    assert [item.name for item in source.train[5:7]] == ["train-0.tar/0005", "train-1.tar/0000"]
    assert [content(item) for item in source.val] == [video(n) for n in range(6)]
    # Archives are not fetched for what they hold: state and headers, a few requests each.
    write_split(tmp_path / "split.csv", source)
    assert read_split(tmp_path / "split.csv", pattern).train == source.train
    server.requests.clear()
    assert read_source(pattern) == source
    assert server.requests == ["bytes=0-0"] * 3
    server.tag = "2"
    server.requests.clear()
    read_source(pattern)
    assert len(server.requests) > 3


@pytest.mark.parametrize("spoil", [["503"], ["hang up", "500"], ["short", "hang up"], ["429"]])
def test_a_server_that_fails_for_a_moment(spoil, server, tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    server.spoil = list(spoil)
    assert read_stored(server.address("a"), 10, 5) == bytes(range(10, 15))


@pytest.mark.parametrize(
    ("name", "spoil", "message", "asked"),
    [
        ("a", ["whole file"], "its server sends whole files only", 1),
        ("a", ["503", "503", "503"], "its server answered 503", 3),
        ("a", ["hang up", "hang up", "hang up"], "cannot be reached", 3),
        ("a", ["other place"], "expected bytes 10-14", 1),
        ("a", ["404"], "its server answered 404", 1),
        ("a", ["416"], "is shorter than expected: has it changed", 1),
        ("none", [], "its server answered 404", 1),
    ],
)
def test_a_server_that_cannot_be_used(name, spoil, message, asked, server, tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    server.spoil = list(spoil)
    with pytest.raises(VideoError, match=message):
        read_stored(server.address(name), 10, 5)
    assert len(server.requests) == asked


def test_nothing_listens(server):
    with pytest.raises(VideoError, match="cannot be reached"):
        read_stored("http://127.0.0.1:9/a.tar", 0, 5)
    with pytest.raises(MissingFile, match=r"The shard .*none.tar: its server answered 404"):
        read_source(server.address("none.tar"))


def test_other_addresses_are_read_by_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://shards/s.tar", "wb") as file:
        file.write(archive(tmp_path / "s.tar", samples(range(4))).read_bytes())
    source = read_source("memory://shards/s.tar")
    items = sorted(source.train + source.val, key=lambda item: item.name)
    assert [content(item) for item in items] == [video(n) for n in range(4)]
    with pytest.raises(MissingFile, match="The shard memory://shards/none.tar: cannot be read"):
        read_source("memory://shards/none.tar")


def test_remote_file_reads_as_the_file_does(server, tmp_path):
    data = video(0, 5000)
    (tmp_path / "a").write_bytes(data)
    assert state_of(server.address("a")) == {"size": 5000, "changed": '"1"'}
    remote, local, draws = RangeFile(server.address("a"), 5000, ahead=700), io.BytesIO(data), random.Random(1)
    for _ in range(60):
        place, size = draws.randrange(5200), draws.choice([0, 1, 300, 900, -1])
        remote.seek(place)
        local.seek(place)
        assert remote.read(size) == local.read(size)
        assert remote.tell() == local.tell() or place > 5000


# Archives that cannot be read


def test_stored_files_that_are_not_there(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    with pytest.raises(VideoError, match="ends after 100 bytes; expected 110 or more"):
        read_stored(str(tmp_path / "a"), 90, 20)
    with pytest.raises(VideoError, match="cannot be read: No such file"):
        read_range(str(tmp_path / "none"), 0, 1)
    with pytest.raises(VideoError, match="cannot read -1 bytes"):
        read_range(str(tmp_path / "a"), 0, -1)
    with pytest.raises(VideoError, match="nothing://x: cannot be opened"):
        read_range("nothing://x", 0, 1)


def test_every_archive_that_is_cut_off_is_refused(tmp_path):
    whole = archive(tmp_path / "s.tar", samples(range(2))).read_bytes()
    end = max(sample.offset + sample.size for sample in index_of(str(tmp_path / "s.tar")))
    for size in {0, 1, 511, 512, 513, 600, 3583, 3584, 4000, end - 1, end, end + 511, *range(700, end, 1217)}:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"cut.tar .*(cut off|holds no video)"):
            index_of(str(tmp_path / "cut.tar"))


def test_a_damaged_header_does_not_end_an_archive(tmp_path):
    shard = archive(tmp_path / "s.tar", samples(range(3)))
    data = bytearray(shard.read_bytes())
    offset = index_of(str(shard))[1].offset - 512
    data[offset : offset + 4] = b"\xff\xfe\xfd\xfc"
    (tmp_path / "d.tar").write_bytes(data)
    with pytest.raises(BadInput, match=r"d.tar is cut off or damaged"):
        index_of(str(tmp_path / "d.tar"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", "run")], "holds no video"),
        ([("a.mp4", b"1")], r"a.mp4 has no label; expected a member of the same name"),
        ([("a.mp4", b"1"), ("a.json", "{")], "The label of .*a.mp4 is not JSON"),
        ([("a.mp4", b"1"), ("a.json", '{"x": 1}')], "a.mp4 has no label"),
        ([("a.1.mp4", b"1"), ("a.2.mp4", b"2"), ("a.cls", "1")], "two videos of the sample a: a.1.mp4 and a.2.mp4"),
    ],
)
def test_archives_without_samples(members, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        index_of(str(archive(tmp_path / "s.tar", members)))


def test_archives_that_are_compressed(tmp_path):
    plain = archive(tmp_path / "s.tar", samples(range(2)))
    packed = tmp_path / "train-0.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(BadInput, match=r"is compressed with gzip, so no video in it can be read by itself; unpack it"):
        read_source(packed)
    (tmp_path / "garbage.tar").write_bytes(video(1, 10_000))
    with pytest.raises(BadInput, match=r"garbage.tar is not a tar archive"):
        read_source(tmp_path / "garbage.tar")


def test_shards_that_are_missing_or_of_no_half(tmp_path):
    archive(tmp_path / "train-0.tar", samples(range(2)))
    with pytest.raises(MissingFile, match=r"2 of the 3 shards of .* are not there; first: .*train-1.tar"):
        read_source(f"{tmp_path}/train-{{0..2}}.tar")
    archive(tmp_path / "more.tar", samples(range(2)))
    with pytest.raises(BadInput, match=r"more.tar is called neither train nor val"):
        read_source(tmp_path)
    with pytest.raises(BadInput, match=r"means tar archives; source.format is list"):
        read_source(tmp_path / "more.tar", SourceArgs(format="list"))
