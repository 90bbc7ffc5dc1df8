"""What readers refuse, leave out and tell: labels that are none, videos listed twice, odd names, odd places."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from muybridge.errors import BadInput, VideoError
from muybridge.structures import SourceArgs
from muybridge.video.aside import set_aside
from muybridge.video.check import read_anyway
from muybridge.video.ranges import read_range
from muybridge.video.readers import plain
from muybridge.video.readers.class_files import names_in
from muybridge.video.sources import Item, read_source, read_split, write_split

EPIC = "narration_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,verb_class\n"


def make(root, *names, content=""):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def diving(label):
    return {"Diving48_V2_train.json": [{"vid_name": "a", "label": label}]}


def epic(label):
    return {"EPIC_100_train.csv": f"{EPIC}P01_01_0,P01_01,00:00:00,00:00:01,1,60,{label}\n"}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (diving("twist"), "entry 1 has the label 'twist'"),
        (diving(None), "entry 1 has the label 'None'"),
        (epic("open"), ":2 has the label 'open'"),
        (epic(""), ":2 has the label ''"),
        (epic("9" * 5000), ":2 has the label '999"),
        ({"train.json": [{"id": "a", "label_idx": "x"}]}, "entry 1 has the label 'x'"),
        (
            {"train.json": [{"id": "a", "template": "Up"}], "validation.json": [{"id": "b", "label_idx": 0}]},
            "train.json, entry 1 has the label 'Up'",
        ),
        ({"train.csv": "a.mp4,0\nb.mp4,2000000000\n"}, "train.csv:2 has the label '2000000000'"),
        ({"train.jsonl": '{"path": "a.mp4", "label": ' + "9" * 5000 + "}"}, "train.jsonl:1 is not JSON"),
    ],
)
def test_labels_that_are_no_class_indices(files, told, tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "P01_01.mp4")
    for name, content in files.items():
        make(tmp_path, name, content=content)
    args = SourceArgs(label="verb" if "EPIC" in next(iter(files)) else "")
    for read in (read_source, read_anyway):
        with pytest.raises(BadInput) as caught:
            read(tmp_path, args)
        assert told in str(caught.value)


def test_a_list_of_a_header_alone(tmp_path):
    make(tmp_path, "EPIC_100_train.csv", content=EPIC)
    with pytest.raises(BadInput, match="names no video"):
        read_source(tmp_path, SourceArgs(label="verb"))


def test_class_names_that_are_numbers_are_taken_for_indices(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    make(tmp_path, "train.csv", content="a.mp4,2019\nb.mp4,2020\n")
    with pytest.raises(BadInput, match=r"class '0' \(and 2018 more\) has no video .*Names must not be numbers"):
        read_source(tmp_path)


def test_indices_with_zeros_before_them(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.csv", content="a.mp4,01\nb.mp4,00\nc.mp4,01\n")
    source = read_source(tmp_path)
    assert source.labels == ("0", "1")
    assert sorted((item.name, item.label) for item in source.train + source.val) == [
        ("a.mp4", 1),
        ("b.mp4", 0),
        ("c.mp4", 1),
    ]


def test_a_class_name_that_stands_twice(tmp_path):
    make(tmp_path, "labels.json", content=["up", "down", "up"])
    with pytest.raises(BadInput, match=r"labels.json has the class name 'up' more than once"):
        names_in(tmp_path / "labels.json")


def test_the_label_set_that_is_told_is_the_one_that_is_meant(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    # 599 is beyond the classes of Kinetics-400, which the name of the list tells as well.
    make(
        tmp_path, "k400_k600_train.csv", content="".join(f"{v}.mp4,{n},{n},{n + 1}\n" for n in range(600) for v in "ab")
    )
    assert read_source(tmp_path / "k400_k600_train.csv").how.endswith("class names of kinetics600")


# Halves


def test_a_video_that_is_listed_twice_does_not_empty_its_class(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.csv", content="a.mp4,x\na.mp4,x\nb.mp4,y\nc.mp4,y\n")
    source = read_source(tmp_path)
    assert [item.name for item in source.train if item.label == 0] == ["a.mp4", "a.mp4"]
    assert {item.label for item in source.val} == {1}


def test_segments_with_names_of_their_own_stay_with_their_video(tmp_path):
    make(tmp_path, *(f"P01_{video:02}.mp4" for video in range(10)))
    rows = [f"P01_{n // 8:02}_{n},P01_{n // 8:02},00:00:{n % 8:02},00:00:{n % 8 + 1:02},1,60,0\n" for n in range(80)]
    rows += [row.replace(",0\n", ",1\n").replace("P01_0", "P02_0", 1) for row in rows]
    make(tmp_path, "EPIC_100_train.csv", content=EPIC + "".join(rows))
    source = read_source(tmp_path, SourceArgs(label="verb"))
    assert len(source.val) == 32
    assert not {item.path for item in source.train} & {item.path for item in source.val}


def test_what_is_set_aside_does_not_depend_on_the_suffix_of_a_segment():
    def half(suffix):
        items = [Item(f"/d/v{n // 3}{suffix}", 0, f"segment {n}", n % 3, n % 3 + 1) for n in range(60)]
        return [item.name for item in set_aside(tuple(items), 0.2)[1]]

    assert half(".MP4") == half(".avi") == half("")
    assert len(half("")) == 12


# Names and places


def test_names_that_are_no_text_come_back(tmp_path):
    make(tmp_path, *(f"data/{label}/{name}.mp4" for label in ("x", "y") for name in ("a", "b")))
    odd = tmp_path / "data/x/c\udcfe.mp4"
    odd.touch()
    source = read_source(tmp_path / "data")
    assert str(odd) in {item.path for item in source.train + source.val}
    write_split(tmp_path / "split.csv", source)
    again = read_split(tmp_path / "split.csv", tmp_path / "data")
    assert (again.train, again.val) == (source.train, source.val)


def test_what_is_no_video_in_class_folders_is_told(tmp_path):
    make(tmp_path, "x/a.mp4", "x/b.MP4", "y/a.mp4", "y/b.mp4", "x/.hidden", "a list.pdf")
    assert "no videos" not in read_source(tmp_path).how
    make(tmp_path, "x/deep/c.mp4", "y/c.mp4.part")
    source = read_source(tmp_path)
    assert source.how.endswith("; 2 files and folders in class folders are no videos (first: x/deep)")
    assert len(source.train + source.val) == 4
    make(tmp_path, "z/deep/d.mp4")
    assert read_anyway(tmp_path)[0].how.endswith("3 files and folders in class folders are no videos (first: x/deep)")


def test_a_video_behind_an_address_is_refused(tmp_path):
    make(tmp_path, "train.csv", content="https://host/a.mp4,x\nhttps://host/b.mp4,y\n")
    with pytest.raises(BadInput, match=r"train.csv:1 is https://host/a.mp4; a video by itself"):
        read_source(tmp_path)


def test_pictures_of_one_folder_tell_how_those_of_a_list_are_called(tmp_path, monkeypatch):
    make(tmp_path, *(f"{folder}/img_00001.jpg" for folder in "abcd"))
    make(tmp_path, "train.txt", content="a 1 0\nb 1 0\nc 1 1\nd 1 1\n")
    listed, look = [], plain.frame_files
    monkeypatch.setattr(plain, "frame_files", lambda folder: listed.append(folder) or look(folder))
    source = read_source(tmp_path)
    assert {item.frames.pattern for item in source.train + source.val} == {"img_{:05}.jpg"}
    assert listed == [str(tmp_path / "a")]


def test_what_cannot_be_read_gets_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="cannot be read: File name too long"):
        read_source("x" * 5000)
    make(tmp_path, "x/a.mp4", "y/a.mp4")

    def denied(_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr(plain.os, "scandir", denied)
    with pytest.raises(BadInput, match="x cannot be read: Permission denied"):
        read_source(tmp_path)


@pytest.mark.parametrize(("train", "val"), [("train", "valid"), ("Training", "Test"), ("train", "validate")])
def test_other_names_of_the_folders_of_halves(train, val, tmp_path):
    make(tmp_path, *(f"{half}/{label}/{name}.mp4" for half in (train, val) for label in "xy" for name in "ab"))
    source = read_source(tmp_path)
    assert source.how == f"{tmp_path / train} and {tmp_path / val}"
    assert (len(source.train), len(source.val)) == (4, 4)


@pytest.mark.parametrize("header", ["clip,action", "clip_name,class_number"])
def test_a_header_of_other_names_is_no_video(header, tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.csv", content=f"{header}\na.mp4,0\nb.mp4,1\nc.mp4,1\n")
    with pytest.raises(BadInput, match=r"train.csv:1 is a video 'clip.*call its columns path and label"):
        read_source(tmp_path)
    # A folder of pictures that is not there looks like that, but others are of its class.
    make(tmp_path, "train.csv", content="clip,1\na.mp4,0\nb.mp4,1\nc.mp4,1\n")
    assert read_source(tmp_path).missing == {"train": ("clip",)}


def test_listed_videos_that_were_converted(tmp_path):
    make(tmp_path, "v/a.mp4", "v/b.webm", "v/c.1.mkv")
    make(tmp_path, "train.csv", content="v/a.avi,x\nv/b.webm,x\nv/c.1.avi,y\nv/d.avi,y\n")
    source = read_source(tmp_path)
    assert sorted((item.name, item.path) for item in source.train + source.val) == [
        ("v/a.avi", str(tmp_path / "v/a.mp4")),
        ("v/b.webm", str(tmp_path / "v/b.webm")),
        ("v/c.1.avi", str(tmp_path / "v/c.1.mkv")),
    ]
    assert source.missing == {"train": ("v/d.avi",)}


@pytest.mark.parametrize("step", ["open", "read"])
def test_errors_of_other_libraries_get_a_sentence(step, monkeypatch):
    class Remote(io.BytesIO):
        def read(self, size):
            raise RuntimeError("no credentials")

    class Opening:
        def open(self):
            if step == "open":
                raise RuntimeError("no credentials")
            return Remote(b"12345")

    monkeypatch.setitem(sys.modules, "fsspec", SimpleNamespace(open=lambda path, mode: Opening()))
    with pytest.raises(VideoError, match="s3://bucket/a.tar: cannot be .*no credentials"):
        read_range("s3://bucket/a.tar", 0, 3)
