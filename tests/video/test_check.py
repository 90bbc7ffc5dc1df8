"""`check_source`: what is broken, odd or there twice is found, nothing else is, and a stopped check goes on."""

import csv
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from films import paint
from PIL import Image
from spoilt import film, overwrite, pictures, song

from muybridge.errors import BadInput
from muybridge.structures import FrameFiles, Item
from muybridge.video import check
from muybridge.video.check import check_source, write_list
from muybridge.video.sources import Source, read_part, read_source
from muybridge.video.supervise import Lost


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Class folders with 3 + 2 different films of each of two classes."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(5):
        for label, first in (("up", 0), ("down", 500)):
            half = "train" if number < 3 else "val"
            film(folder / half / label / f"{number}.mp4", pictures(first + 40 * number))
    return folder


@pytest.fixture
def films(good, tmp_path):
    """A copy of the good films, to be spoilt."""
    return shutil.copytree(good, tmp_path / "films")


class Watch:
    """Counts, and stops the check after some files."""

    def __init__(self, stop=None):
        self.totals, self.done, self.stop = [], 0, stop

    def start(self, title, total):
        self.totals.append(total)

    def advance(self, amount, **figures):
        self.done += amount
        if self.done == self.stop:
            raise KeyboardInterrupt

    def finish(self):
        self.totals.append("finished")


def looked_at(*arguments, **options):
    """The report, and how many files were read for it."""
    watch = Watch()
    report = check_source(*arguments, workers=0, watch=watch, **options)
    return report, watch.done


def what(report):
    """Name -> (kind, sentence) of every problem."""
    return {problem.name: (problem.kind, problem.what) for problem in report.problems}


def test_good_films_have_no_problem(good):
    report, done = looked_at(good)
    assert report.problems == ()
    assert report.duplicates == ()
    assert report.ok
    assert done == 10
    summary = report.summary()
    assert summary["good"] == summary["files"] == summary["videos"] == 10
    assert summary["frames"] == {"min": 24, "median": 24, "max": 24}
    assert summary["seconds"]["median"] == pytest.approx(2.0)
    assert (summary["containers"], summary["codecs"]) == ({"mp4": 10}, {"h264": 10})
    assert summary["sizes"] == {"64x48": 10}
    assert summary["classes"]["up"] == {"train": 3, "val": 2, "broken": 0}
    assert all(file.facts.decoded == 24 for file in report.files)


def test_broken_films_are_found(films):
    up = films / "train/up"
    (up / "empty.mp4").touch()
    (up / "garbage.mp4").write_bytes(os.urandom(5000))
    (up / "cut.mp4").write_bytes((up / "0.mp4").read_bytes()[:3000])
    song(up / "song.mp4")
    half = film(up / "half.mp4", pictures(300), container={"movflags": "faststart"})
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    overwrite(up / "1.mp4", 0.4)
    report, _ = looked_at(films)
    found = what(report)
    assert {name.rpartition("/")[2]: kind for name, (kind, _) in found.items()} == dict.fromkeys(
        ("empty.mp4", "garbage.mp4", "cut.mp4", "song.mp4", "half.mp4", "1.mp4"), "broken"
    )
    sentences = {name.rpartition("/")[2]: sentence for name, (_, sentence) in found.items()}
    assert "empty" in sentences["empty.mp4"]
    assert "not a video" in sentences["garbage.mp4"]
    assert "moov" in sentences["cut.mp4"]
    assert "streams: audio" in sentences["song.mp4"]
    assert "of 24 frames can be decoded" in sentences["half.mp4"]
    assert "of 24 frames can be decoded" in sentences["1.mp4"]
    assert not report.ok
    assert report.classes()["up"] == {"train": 8, "val": 2, "broken": 6}
    assert report.summary()["broken"] == 6


def test_odd_films_are_suspicious(films):
    up = films / "train/up"
    still = pictures(7, 1) * 24
    film(up / "one.mp4", pictures(400, 1))
    film(up / "black.mp4", [picture * 0 for picture in still])
    film(up / "still.mp4", still)
    film(up / "strip.mp4", pictures(410, 24, 48, 400))
    film(up / "fast.mp4", pictures(420, 240), rate=300)
    film(up / "long.mp4", pictures(430, 600))
    film(up / "varying.mkv", pictures(440), times=[0, 20, 100, 120, 300] + [400 + 83 * t for t in range(19)])
    film(up / "interlaced.mp4", pictures(450), **{"x264-params": "interlaced=1"})
    film(up / "cut.mkv", pictures(460, 60))
    (up / "cut.mkv").write_bytes((up / "cut.mkv").read_bytes()[: (up / "cut.mkv").stat().st_size // 2])
    report, _ = looked_at(films)
    assert report.ok
    expected = {
        "one.mp4": "one frame only",
        "black.mp4": "every frame is black",
        "still.mp4": "all frames are the same",
        "strip.mp4": "pictures of 400x48",
        "fast.mp4": "300 frames a second",
        "long.mp4": "50.0 s long, where 2.0 s is usual",
        "varying.mkv": "variable frame rate",
        "interlaced.mp4": "interlaced",
    }
    found = {name.rpartition("/")[2]: sentence for name, (_, sentence) in what(report).items()}
    assert found.pop("cut.mkv").startswith("perhaps cut off: ")
    assert found == expected
    assert {kind for kind, _ in what(report).values()} == {"suspicious"}


def test_duplicates_are_found_by_content_and_only_large_alikes_are_compared(films, monkeypatch):
    shutil.copy(films / "train/up/0.mp4", films / "val/up/copy.mp4")
    shutil.copy(films / "train/up/1.mp4", films / "train/down/wrong.mp4")
    # As large as another, with another content.
    odd = bytearray((films / "train/down/2.mp4").read_bytes())
    odd[-1] ^= 1
    (films / "val/down/alike.mp4").write_bytes(odd)
    hashed = []
    digest = check.digest
    monkeypatch.setattr(check, "digest", lambda item, beat: hashed.append(item.name) or digest(item, beat))
    report, _ = looked_at(films)
    groups = {frozenset(item.name for _, item in group.items): group for group in report.duplicates}
    assert set(groups) == {
        frozenset({"train/up/0.mp4", "val/up/copy.mp4"}),
        frozenset({"train/up/1.mp4", "train/down/wrong.mp4"}),
    }
    across = groups[frozenset({"train/up/0.mp4", "val/up/copy.mp4"})]
    assert (across.halves, across.labels) == (("train", "val"), ("up",))
    assert groups[frozenset({"train/up/1.mp4", "train/down/wrong.mp4"})].labels == ("down", "up")
    sizes = [path.stat().st_size for path in films.rglob("*.mp4")]
    assert len(hashed) == sum(sizes.count(size) > 1 for size in sizes)
    kept = films.parent / "kept"
    assert write_list(report, kept) == (4, 6)
    names = {half: [os.path.relpath(item.path, films) for item in items] for half, items in halves(kept).items()}
    assert "val/up/copy.mp4" in names["val"]
    assert not {"train/up/0.mp4", "train/up/1.mp4", "train/down/wrong.mp4"} & set(names["train"])


def halves(folder):
    source = read_source(folder)
    return {"train": source.train, "val": source.val}


def test_the_list_of_good_films_is_a_data_set(films):
    (films / "train/up/0.mp4").write_bytes(b"nothing")
    report, _ = looked_at(films)
    # Class names that are numbers must not be taken for indices.
    report = replace(report, labels=("7", "5"))
    assert write_list(report, films.parent / "good list") == (5, 4)
    source = read_source(films.parent / "good list")
    assert source.labels == ("7", "5")
    before = read_source(films)
    wanted = [(item.path, item.label) for item in before.train if not item.path.endswith("up/0.mp4")]
    assert [(item.path, item.label) for item in source.train] == wanted
    with pytest.raises(BadInput, match="exists already"):
        write_list(report, films.parent / "good list")


def test_a_check_goes_on_and_reads_again_what_changed(films):
    out = films.parent / "out"
    for stop, cut in ((3, -20), (4, None)):
        watch = Watch(stop)
        with pytest.raises(KeyboardInterrupt, match=f"Stopped after {stop} of .* goes on"):
            check_source(films, out=out, workers=0, watch=watch)
        assert watch.totals[-1] == "finished"
        # Killed in the middle of a row, or of the digest at its end.
        row = (out / "check.csv").read_text().splitlines()[-1]
        with open(out / "check.csv", "a") as file:
            file.write(row[:cut] if cut else f"{row}ab12")
    report, done = looked_at(films, out=out)
    assert done == 3
    assert (report.ok, len(report.files)) == (True, 10)
    assert {len(file.facts.sha256) for file in report.files} <= {0, 64}
    assert looked_at(films, out=out) == (report, 0)
    overwrite(films / "train/up/1.mp4", 0.4)
    report, done = looked_at(films, out=out)
    assert (done, report.ok) == (1, False)
    # What is broken is tried again.
    assert looked_at(films, out=out)[1] == 1
    rows = list(csv.DictReader((out / "check.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [file.name for file in report.files]
    assert {row["name"]: row["status"] for row in rows}["train/up/1.mp4"] == "broken"
    assert not [path for path in out.iterdir() if path.name != "check.csv"]


def test_quick_opens_and_the_thorough_check_then_reads_all(films):
    overwrite(films / "train/up/1.mp4", 0.4)
    out = films.parent / "out"
    report, done = looked_at(films, out=out, quick=True)
    assert (report.ok, done) == (True, 10)
    assert {file.facts.decoded for file in report.files} == {0}
    report, done = looked_at(films, out=out)
    assert (report.ok, done) == (False, 10)
    assert looked_at(films, out=out, quick=True)[1] == 1


def test_nothing_of_others_is_written_over(good, films, tmp_path):
    out = tmp_path / "out"
    looked_at(good, out=out)
    before = (out / "check.csv").read_bytes()
    with pytest.raises(BadInput, match="check of other videos"):
        looked_at(films, out=out)
    assert (out / "check.csv").read_bytes() == before
    (out / "check.csv").write_text("path,label\na,b\n")
    with pytest.raises(BadInput, match="not the table of a check"):
        looked_at(films, out=out)
    assert (out / "check.csv").read_text() == "path,label\na,b\n"


def test_segments_of_one_file_are_read_once_and_must_lie_within(good, tmp_path, monkeypatch):
    path = str(good / "train/up/0.mp4")
    parts = [Item(path, 0, "a", 0.0, 1.0), Item(path, 1, "b", 1.0, 1.5), Item(path, 1, "c", 2.5, 3.0)]
    again = Item(path, 0, "d", 1.0, 1.5)
    source = Source((parts[0], parts[1], again), (parts[2],), ("up", "down"), "by hand")
    monkeypatch.setattr(check, "read_source", lambda data, args: source)
    report, done = looked_at("data")
    assert done == 1
    assert what(report) == {"c": ("broken", "begins at 2.5 s, but 0.mp4 is 2.0 s long")}
    assert [tuple(item.name for _, item in group.items) for group in report.duplicates] == [("b", "d")]
    assert report.duplicates[0].labels == ("down", "up")
    assert write_list(report, tmp_path / "list") == (1, 0)
    assert (tmp_path / "list/train.csv").read_text() == f"path,name,label,start,end\n{path},a,0,0.0,1.0\n"
    assert read_part(tmp_path / "list", ("up", "down"), "all").items == (parts[0],)


def test_videos_within_an_archive(good, tmp_path, monkeypatch):
    videos = [(good / name).read_bytes() for name in ("train/up/0.mp4", "train/up/1.mp4", "train/up/0.mp4")]
    videos.append(videos[0][:3000])
    (tmp_path / "a.tar").write_bytes(b"".join(videos))
    ends = np.cumsum([len(video) for video in videos]).tolist()
    items = [
        Item(str(tmp_path / "a.tar"), place % 2, f"a.tar/{place}.mp4", stored=(end - len(video), len(video)))
        for place, (end, video) in enumerate(zip(ends, videos, strict=True))
    ]
    source = Source(tuple(items[:2]), tuple(items[2:]), ("up", "down"), "")
    monkeypatch.setattr(check, "read_source", lambda data, args: source)
    report, done = looked_at("data", out=tmp_path / "out")
    assert done == 4 + 2
    assert [(file.facts.codec, file.facts.decoded) for file in report.files[:3]] == [("h264", 24)] * 3
    assert {name: kind for name, (kind, _) in what(report).items()} == {"a.tar/3.mp4": "broken"}
    assert [group.halves for group in report.duplicates] == [("train", "val")]
    assert looked_at("data", out=tmp_path / "out") == (report, 1)
    assert write_list(report, tmp_path / "list") == (1, 1)
    assert halves(tmp_path / "list") == {"train": (items[1],), "val": (items[2],)}


def test_folders_of_pictures(tmp_path, monkeypatch):
    items = []
    for name, first in (("a", 0), ("same", 0), ("gap", 50), ("still", 90)):
        (tmp_path / name).mkdir()
        for place in range(6):
            picture = paint(first if name == "still" else first + place)
            Image.fromarray(picture).save(tmp_path / name / f"img_{place + 1:05}.jpg")
        items.append(Item(str(tmp_path / name), 0, name, frames=FrameFiles("img_{:05}.jpg", 1, 6)))
    (tmp_path / "gap/img_00004.jpg").unlink()
    source = Source(tuple(items), (), ("up",), "")
    monkeypatch.setattr(check, "read_source", lambda data, args: source)
    report, _ = looked_at("data")
    found = what(report)
    assert found.keys() == {"gap", "still"}
    assert found["still"] == ("suspicious", "all frames are the same")
    assert found["gap"][0] == "broken"
    assert "img_00004.jpg" in found["gap"][1]
    assert next(file for file in report.files if file.name == "gap").facts.decoded == 3
    assert write_list(report, tmp_path / "list") == (2, 0)
    assert read_part(tmp_path / "list/train.csv", ("up",), "all").items == (items[0], items[3])
    assert [tuple(item.name for _, item in group.items) for group in report.duplicates] == [("a", "same")]
    assert report.summary()["codecs"] == {"jpg": 3}


def test_few_and_unbalanced_classes_are_remarked(good, monkeypatch):
    path = str(good / "train/up/0.mp4")
    counts = {"many": 300, "usual": 20, "common": 21, "few": 3, "none": 0, "rare": 1}
    labels = tuple(counts)
    train = tuple(
        Item(path, labels.index(label), f"{label} {n}", n / 1000, 2.0) for label in labels for n in range(counts[label])
    )
    val = tuple(Item(path, index, label, 0.5, 2.0) for index, label in enumerate(labels) if label != "common")
    monkeypatch.setattr(check, "read_source", lambda data, args: Source(train, val, labels, ""))
    assert looked_at("data")[0].remarks() == {
        "many": "26 times more than usual",
        "common": "nothing to validate with",
        "few": "few to train with",
        "none": "nothing to train with",
        "rare": "12 times fewer than usual",
    }


def test_what_cannot_be_trained_with_is_checked_all_the_same(good, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()

    def checked(**rows):
        for file in lists.iterdir():
            file.unlink()
        for half, lines in rows.items():
            (lists / f"{half}.csv").write_text("path,label\n" + "".join(f"{good}/{line}\n" for line in lines))
        report, _ = looked_at(lists)
        return report, {half: [item.name for at, item in everything(report) if at == half] for half in ("train", "val")}

    up, down = [f"train/up/{n}.mp4,up" for n in range(3)], [f"train/down/{n}.mp4,down" for n in range(3)]
    report, names = checked(train=up)
    assert "one class only" in report.why
    assert (report.ok, report.problems, len(names["train"]), names["val"]) == (False, (), 3, [])
    report, names = checked(train=up + down, val=[up[0], "train/up/0.mp4,side", "gone.mp4,up"])
    assert "Unknown class 'side'" in report.why
    assert report.labels == ("down", "side", "up")
    assert [len(names["train"]), len(names["val"])] == [6, 2]
    assert [(group.halves, group.labels) for group in report.duplicates] == [(("train", "val"), ("side", "up"))]
    assert what(report)[f"{good}/gone.mp4"] == ("missing", "not found")
    report, names = checked(val=up + down)
    assert "nothing to train with" in report.why
    assert len(names["val"]) == 6
    report, names = checked(train=[row.replace(",up", ",0").replace(",down", ",2") for row in up + down])
    assert "'1' has no video" in report.why
    assert report.classes()["2"]["train"] == 3


def everything(report):
    return [at for file in report.files for at in file.items]


def test_an_empty_class_folder_is_told(films):
    (films / "train/sideways").mkdir()
    report, _ = looked_at(films)
    assert "'sideways' has no video" in report.why
    assert report.classes()["sideways"] == {"train": 0, "val": 0, "broken": 0}
    assert report.remarks()["sideways"] == "nothing to train with"


def test_files_that_are_not_there_are_missing(films, monkeypatch):
    source = read_source(films)
    (films / "train/up/0.mp4").unlink()
    monkeypatch.setattr(check, "read_source", lambda data, args: source)
    report, _ = looked_at(films)
    assert what(report) == {"train/up/0.mp4": ("missing", "no such file")}
    assert (report.ok, report.summary()["missing"]) == (False, 1)


def test_names_that_are_no_text(films):
    name = os.fsdecode(b'caf\xe9, "new\nline".mp4')
    shutil.move(films / "train/up/0.mp4", films / "train/up" / name)
    out = films.parent / "out"
    assert looked_at(films, out=out)[0].ok
    assert looked_at(films, out=out)[1] == 0


def test_in_processes_as_in_this_one(films):
    overwrite(films / "train/up/1.mp4", 0.4)
    shutil.copy(films / "train/up/0.mp4", films / "val/up/copy.mp4")
    assert check_source(films, workers=2) == check_source(films, workers=0)


def test_a_lost_process_is_a_broken_file(films, monkeypatch):
    def losing(function, tasks, workers, limit):
        for place, task in enumerate(tasks):
            yield place, Lost("the process died") if place == 2 else function(task, lambda: None)

    monkeypatch.setattr(check, "supervised", losing)
    report, _ = looked_at(films)
    assert [problem.what for problem in report.problems] == ["the process died"]
