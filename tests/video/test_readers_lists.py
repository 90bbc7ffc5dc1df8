"""Lists of videos: csv, tsv, text and JSON, parts, folders of pictures, and which list is which half."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.structures import FrameFiles, Item, SourceArgs
from muybridge.video.readers.shelf import Shelf, frame_files
from muybridge.video.readers.tables import read_list, seconds
from muybridge.video.sources import Source, read_items, read_part, read_source, read_split, short_name, write_split


def make(root, *names, content=""):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def rows(path):
    return [row for _, row in read_list(path)]


# What a line may look like


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", 'path,label\n"a, b.mp4",jump high\nc d.avi,3\n'),
        ("l.csv", '"a, b.mp4",jump high\nc d.avi,3\n'),
        ("l.csv", "video_path;class\na, b.mp4;jump high\nc d.avi;3\n"),
        ("l.csv", "path\tlabel\na, b.mp4\tjump high\nc d.avi\t3\n"),
        ("l.tsv", "label\tfilename\tsize\njump high\ta, b.mp4\t3\n3\tc d.avi\t5\n"),
        ("l.txt", "a, b.mp4 jump high\nc d.avi 3\n"),
        ("l.txt", "path label\na, b.mp4\tjump high\n\nc d.avi   3\n"),
        ("l.txt", "a, b.mp4\tjump high\r\nc d.avi\t3\r\n"),
        ("l.json", '[{"path": "a, b.mp4", "label": "jump high"}, {"filename": "c d.avi", "label": 3}]'),
        ("l.json", '[["a, b.mp4", "jump high"], ["c d.avi", 3]]'),
        ("l.json", '{"a, b.mp4": "jump high", "c d.avi": 3}'),
        ("l.json", '{"database": {"a, b.mp4": {"annotations": {"label": "jump high"}}, "c d.avi": {"label": [3]}}}'),
        ("l.jsonl", '{"path": "a, b.mp4", "label": "jump high"}\n\n{"video": "c d.avi", "class": 3}\n'),
        ("l.jsonl", '\ufeff["a, b.mp4", "jump high"]\n["c d.avi", "3"]\n'),
    ],
)
def test_the_same_in_every_notation(name, content, tmp_path):
    make(tmp_path, name, content=content)
    told = [{key: row[key] for key in ("path", "label")} for row in rows(tmp_path / name)]
    assert told == [{"path": "a, b.mp4", "label": "jump high"}, {"path": "c d.avi", "label": "3"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", "path,label,start,end\na.mp4,run,1.5,00:01:02.250\n"),
        ("l.csv", "a.mp4,run,1.5,1:02.250\n"),
        ("l.csv", "end_time,path,start_time,label\n62.25,a.mp4,1.5,run\n"),
        ("l.tsv", "a.mp4\trun\t0:01.5\t62.25\n"),
        ("l.txt", "a.mp4 run 1.5 62.25\n"),
        ("l.txt", "a.mp4\trun\t1.5\t62.25\n"),
        ("l.json", '[{"path": "a.mp4", "label": "run", "start": 1.5, "end": "1:02.25"}]'),
        ("l.jsonl", '["a.mp4", "run", 1.5, 62.25]\n'),
    ],
)
def test_parts_of_videos(name, content, tmp_path):
    make(tmp_path, "a.mp4")
    make(tmp_path, name, content=content)
    (item,) = read_items(tmp_path / name, ["jump", "run"], "all")
    assert item == Item(str(tmp_path / "a.mp4"), 1, "a.mp4#1.5-62.25", 1.5, 62.25)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("12.5", 12.5), (".5", 0.5), ("1:02", 62), ("01:00:00.56", 3600.56), ("90:00", 5400)]
)
def test_times(text, value):
    assert seconds(text) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "nan", "1e3", "a", "1:-2"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is no time"):
        seconds(text)


WORD = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\x85\u2028\u2029"), min_size=1
).map(str.strip)
NAME = WORD.filter(bool)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    videos=st.lists(st.tuples(NAME, NAME), min_size=1, max_size=5),
    header=st.booleans(),
    delimiter=st.sampled_from(",\t"),
)
def test_whatever_is_written_comes_back(videos, header, delimiter, tmp_path):
    """Paths and labels with blanks, commas, quotes and any letters."""
    videos = [(f"v/{path}.mp4", f"l {label}") for path, label in videos]
    suffix = {",": "csv", "\t": "tsv"}[delimiter]
    with open(tmp_path / f"l.{suffix}", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("path", "label"), *videos] if header else videos)
    make(tmp_path, "l.json", content=json.dumps(videos))
    make(tmp_path, "l.txt", content="".join(f"{path}\t{label}\n" for path, label in videos))
    for name in (f"l.{suffix}", "l.json", "l.txt"):
        assert [(row["path"], row["label"]) for row in rows(tmp_path / name)] == videos, name


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(videos=st.lists(st.tuples(NAME, st.integers(0, 999)), min_size=1, max_size=5))
def test_text_with_blanks_in_paths(videos, tmp_path):
    videos = [(f"v/{path}.mp4", str(label)) for path, label in videos]
    make(tmp_path, "l.txt", content="".join(f"{path} {label}\n" for path, label in videos))
    assert [(row["path"], row["label"]) for row in rows(tmp_path / "l.txt")] == videos


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", "{", "train.json is not a JSON file"),
        ("train.json", "3", "holds one value; expected a list"),
        ("train.json", '[{"path": "a.mp4"}]', "entry 1 has the keys path; expected path and label"),
        ("train.json", '[{"path": "a.mp4", "label": [1, 2]}]', "entry 1 has 2 labels"),
        ("train.json", "[1]", "entry 1 is 1; expected an object"),
        ("train.jsonl", '["a.mp4", 1]\n{', "train.jsonl:2 is not JSON"),
        ("train.csv", 'path,label\n"a.mp4,1\n', "train.csv, before line 3, is not csv: unexpected end of data"),
        ("train.csv", "path,label,start,end\na.mp4,1,5,soon\n", "train.csv:2 cannot be understood: 'soon' is no time"),
        ("train.csv", "path,label,start,end\na.mp4,1,5,4\n", "train.csv:2 begins at 5 and ends at 4"),
        ("train.tsv", "path\tlabel\na.mp4\n", "train.tsv:2 is 'a.mp4'; expected a path, a tab and a label"),
    ],
)
def test_lists_that_cannot_be_read(name, content, message, tmp_path):
    make(tmp_path, "a.mp4")
    make(tmp_path, name, content=content)
    with pytest.raises(BadInput, match=message):
        read_source(tmp_path)


# Which list is which half


def test_one_list_and_what_lies_beside_it(tmp_path):
    make(tmp_path, *(f"{i}.mp4" for i in range(6)))
    make(tmp_path, "k400_train_list.txt", content="0.mp4 1\n1.mp4 0\n")
    make(tmp_path, "k400_val_list.txt", content="2.mp4 1\n")
    make(tmp_path, "other_train_list.txt", content="3.mp4 1\n")
    source = read_source(tmp_path / "k400_train_list.txt")
    assert [item.name for item in source.train + source.val] == ["0.mp4", "1.mp4", "2.mp4"]
    # Its name tells whose indices these are.
    assert source.labels[:2] == ("abseiling", "air drumming")
    assert source.how.endswith("k400_val_list.txt; class names of kinetics400")
    assert read_source(tmp_path / "k400_val_list.txt") == source
    with pytest.raises(BadInput, match=r"several lists of its half train: k400_train_list.txt, other_train_list.txt"):
        read_source(tmp_path)


def test_one_list_alone(tmp_path):
    make(tmp_path, *(f"{i}.mp4" for i in range(10)))
    make(tmp_path, "mine.csv", content="".join(f"{i}.mp4,{'run' if i % 2 else 'jump'}\n" for i in range(10)))
    source = read_source(tmp_path / "mine.csv")
    assert (len(source.train), len(source.val), source.labels) == (8, 2, ("jump", "run"))
    with pytest.raises(BadInput, match="holds no class folders"):
        read_source(tmp_path)


def test_one_list_with_both_halves(tmp_path):
    make(tmp_path, *(f"{i}.mp4" for i in range(3)))
    make(tmp_path, "mine.csv", content="path,label,split\n0.mp4,run,train\n1.mp4,jump,Training\n2.mp4,run,val\n")
    source = read_source(tmp_path / "mine.csv")
    assert ([item.name for item in source.train], [item.name for item in source.val]) == (["0.mp4", "1.mp4"], ["2.mp4"])
    make(tmp_path, "mine.csv", content="path,label,split\n0.mp4,run,train\n1.mp4,jump,held\n")
    with pytest.raises(BadInput, match=r"mine.csv:3 is of the split held; expected train or val"):
        read_source(tmp_path / "mine.csv")


def test_two_lists_of_one_half(tmp_path):
    make(tmp_path, "a.mp4")
    make(tmp_path, "train.csv", "train.txt", content="a.mp4,0\n")
    with pytest.raises(BadInput, match=r"several lists of its half train: train.csv, train.txt. .*--data .*train.csv"):
        read_source(tmp_path)


def test_lists_in_a_folder_of_their_own(tmp_path):
    make(tmp_path, "videos/a.mp4", "videos/b.mp4", "c.mp4")
    make(tmp_path, "annotations/train.csv", content="a.mp4,run\nb.mp4,jump\n")
    make(tmp_path, "annotations/val.csv", content="c.mp4,run\n")
    for data in (tmp_path, tmp_path / "annotations", tmp_path / "annotations/train.csv"):
        source = read_source(data)
        assert [item.path for item in source.train] == [str(tmp_path / "videos/a.mp4"), str(tmp_path / "videos/b.mp4")]


def test_videos_that_lie_elsewhere(tmp_path):
    make(tmp_path, "lists/train.csv", content="a.mp4,run\nsub/b.mp4,jump\n")
    make(tmp_path, "disk/a.mp4", "disk/sub/b.mp4", "a.mp4")
    make(tmp_path, "lists/val.csv", content="a.mp4,run\n")
    part = read_items(tmp_path / "lists", ["run"], args=SourceArgs(videos=str(tmp_path / "disk")))
    assert part[0].path == str(tmp_path / "disk/a.mp4")
    with pytest.raises(MissingFile, match="source.videos is the folder of the videos"):
        read_source(tmp_path / "lists", SourceArgs(videos=str(tmp_path / "none")))


def test_folds_of_lists(tmp_path):
    make(tmp_path, *(f"{i}.avi" for i in range(4)))
    for fold in (1, 2):
        make(tmp_path, f"ucf101_train_split_{fold}_videos.txt", content=f"{fold}.avi 0\n0.avi 1\n")
        make(tmp_path, f"ucf101_val_split_{fold}_videos.txt", content="3.avi 1\n")
    source = read_source(tmp_path, SourceArgs(fold=2))
    assert [item.name for item in source.train] == ["2.avi", "0.avi"]
    assert source.labels[:2] == ("ApplyEyeMakeup", "ApplyLipstick")
    with pytest.raises(UnknownName, match=r"Unknown fold '3'.*1, 2"):
        read_source(tmp_path, SourceArgs(fold=3))


def test_fold_or_label_where_there_is_none(tmp_path):
    make(tmp_path, "run/a.mp4", "jump/b.mp4")
    with pytest.raises(BadInput, match=r"fold is 2, but class folders have one split only"):
        read_source(tmp_path, SourceArgs(fold=2))
    with pytest.raises(BadInput, match=r"label is verb, which EPIC-KITCHENS alone has.*--labels"):
        read_source(tmp_path, SourceArgs(label="verb"))
    with pytest.raises(
        UnknownName, match=r"Unknown format 'fodlers'. Closest: folders. The formats are auto, kinetics,"
    ):
        read_source(tmp_path, SourceArgs(format="fodlers"))


# Class names beside the lists


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "id,name\n1,jump high\n0,run\n"),
        ("kinetics_400_labels.csv", "id,name\n0,run\n1,jump high\n"),
        ("labels.json", '{"run": "0", "\\"jump high\\"": 1}'),
        ("labels.json", '["run", "jump high"]'),
        ("label_map.txt", "run\njump high\n"),
        ("classInd.txt", "1 run\n2 jump high\n"),
    ],
)
def test_class_names_in_every_notation(name, content, tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.txt", content="a.mp4 1\nb.mp4 0\n")
    make(tmp_path, "val.txt", content="c.mp4 1\n")
    make(tmp_path, name, content=content)
    assert read_source(tmp_path).labels == ("run", "jump high")


def test_class_names_that_are_none(tmp_path):
    make(tmp_path, "a.mp4")
    make(tmp_path, "train.txt", content="a.mp4 1\n")
    make(tmp_path, "labels.csv", content="id,name\n1,jump\n2,run\n")
    with pytest.raises(BadInput, match="2 class names; expected each index from 0 to 1 once"):
        read_source(tmp_path)
    make(tmp_path, "label_map.txt", content="run\njump high\n")
    with pytest.raises(BadInput, match="several files of class names: label_map.txt, labels.csv"):
        read_source(tmp_path)


# Videos that are missing


def test_classes_do_not_depend_on_what_is_missing(tmp_path):
    make(tmp_path, "a.mp4", "c.mp4", "e.mp4")
    make(tmp_path, "train.csv", content="a.mp4,run\nb.mp4,climb\nc.mp4,jump\nd.mp4,climb\n")
    make(tmp_path, "val.csv", content="e.mp4,run\nf.mp4,run\n")
    source = read_source(tmp_path)
    assert source.labels == ("climb", "jump", "run")
    assert source.missing == {"train": ("b.mp4", "d.mp4"), "val": ("f.mp4",)}
    assert source.how.endswith("; 2 of 4 videos of train.csv are missing; 1 of 2 videos of val.csv are missing")
    part = read_part(tmp_path, source.labels)
    assert (part.missing, [item.name for item in part.items]) == (("f.mp4",), ["e.mp4"])
    (tmp_path / "e.mp4").unlink()
    with pytest.raises(MissingFile, match=r"Not one video of .*val.csv is there; .*e.mp4.*--videos DIR"):
        read_part(tmp_path, source.labels)
    assert len(read_items(tmp_path, source.labels, "train")) == 2


# Folders of pictures


def pictures(root, folder, pattern="img_{:05}.jpg", first=1, count=3):
    make(root, *(f"{folder}/{pattern.format(first + place)}" for place in range(count)))


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("img_{:05}.jpg", 1),
        ("image_{:05}.jpg", 1),
        ("{:05}.jpg", 1),
        ("{:06}.png", 0),
        ("frame_{:010}.jpg", 1),
        ("{}.jpg", 8),
        ("a{{b}}_1_{}.JPEG", 98),
        ("{:03}.webp", 998),
    ],
)
def test_how_pictures_are_called(pattern, first, tmp_path):
    pictures(tmp_path, "v", pattern, first, 4)
    make(tmp_path, *(f"v/flow_x_{i:05}.jpg" for i in range(9)), "v/notes.txt", "v/.hidden_1.jpg")
    found = frame_files(str(tmp_path / "v"), 12.0)
    assert (found.first, found.count, found.rate) == (first, 4, 12.0)
    for number in range(first, first + 4):
        assert (tmp_path / "v" / found.pattern.format(number)).exists()


def test_folder_without_pictures(tmp_path):
    make(tmp_path, "v/a.txt")
    assert frame_files(str(tmp_path / "v")) is None


def test_lists_of_folders_of_pictures(tmp_path):
    """MMAction2's: the folder, how many pictures, the class index."""
    for name in ("run/v 1", "run/v2", "jump/v3"):
        pictures(tmp_path, f"rawframes/{name}", count=5)
    make(tmp_path, "train_list_rawframes.txt", content="run/v 1 4 0\njump/v3 5 1\nrun/none 4 0\n")
    make(tmp_path, "val_list_rawframes.txt", content="run/v2 5 0\n")
    source = read_source(tmp_path, SourceArgs(videos=str(tmp_path / "rawframes")))
    assert source.train == (
        Item(str(tmp_path / "rawframes/run/v 1"), 0, "run/v 1", frames=FrameFiles("img_{:05}.jpg", 1, 4)),
        Item(str(tmp_path / "rawframes/jump/v3"), 1, "jump/v3", frames=FrameFiles("img_{:05}.jpg", 1, 5)),
    )
    assert source.missing == {"train": ("run/none",)}


def test_folders_of_pictures_in_other_lists(tmp_path):
    pictures(tmp_path, "a", "{:04}.png", 0, 7)
    pictures(tmp_path, "b", "{:04}.png", 0, 3)
    make(tmp_path, "train.csv", content="path,label\na,run\nb,jump\n")
    make(tmp_path, "val.json", content='[{"frame_dir": "a", "total_frames": 6, "label": "run"}]')
    items = read_items(tmp_path, ["jump", "run"], "all")
    assert [item.frames for item in items] == [
        FrameFiles("{:04}.png", 0, 7),
        FrameFiles("{:04}.png", 0, 3),
        FrameFiles("{:04}.png", 0, 6),
    ]


# Where videos are looked for


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    make(tmp_path, *(f"train/{label}/{i}.mp4" for label in "ab" for i in range(50)))
    import os

    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    shelf = Shelf([tmp_path])
    found = [shelf.by_stem([str(i)], [f"train/{c}", f"val/{c}", "none"]) for c in "abc" for i in range(60)]
    found += [shelf.exact(f"train/a/{i}.mp4") for i in range(60)]
    assert sum(path is not None for path in found) == 150
    assert len(listed) == len(set(listed))
    assert not any("val" in path or "none" in path for path in listed)


# The split, written


def test_every_field_of_an_item_comes_back(tmp_path):
    data = tmp_path / "data"
    make(data, "a.mp4", "videos/b.mp4")
    plain = Item(str(data / "a.mp4"), 0, "a.mp4")
    items = (
        plain,
        Item(str(data / "videos/b.mp4"), 1, "b.mp4"),
        replace(plain, name="P01_1", start=0.1 + 0.2, end=1e-3 + 7),
        replace(plain, name="rest", start=2.5),
        Item(str(tmp_path / "else where/f"), 1, "f", frames=FrameFiles("img_{:05}.jpg", 1, 30, 29.97)),
        Item("https://host/a.tar?x=1,2", 0, 'a.tar/"1"', stored=(1536, 2**40)),
        Item(str(data / "s.tar"), 0, "s.tar/2", stored=(0, 1)),
    )
    source = Source(items[:4], items[4:], ("run", "jump, high"), "", data=str(data))
    write_split(tmp_path / "split.csv", source)
    back = read_split(tmp_path / "split.csv", data, source.labels)
    assert (back.train, back.val, back.labels) == (source.train, source.val, source.labels)
    text = (tmp_path / "split.csv").read_text()
    assert text.splitlines()[0] == "name,label,split,path,start,end,pattern,first,count,rate,offset,size"
    # What lies below the data folder follows it to another place.
    data.rename(tmp_path / "moved")
    moved = read_split(tmp_path / "split.csv", tmp_path / "moved", source.labels)
    assert moved.train[1].path == str(tmp_path / "moved/videos/b.mp4")
    make(tmp_path, "split.csv", content=text.replace("1536", "x"))
    with pytest.raises(BadInput, match=r"split.csv:7 cannot be understood"):
        read_split(tmp_path / "split.csv", data, source.labels)


def test_parts_of_one_video_stay_together(tmp_path):
    make(tmp_path, *(f"{i}.mp4" for i in range(8)))
    lines = [
        f"{i}.mp4,{label},{10 * part},{10 * part + 5}" for i in range(8) for part in range(5) for label in ("a", "b")
    ]
    make(tmp_path, "mine.csv", content="\n".join(["path,label,start,end", *lines]))
    source = read_source(tmp_path / "mine.csv")
    assert not {item.path for item in source.train} & {item.path for item in source.val}
    assert len({item.path for item in source.val}) == 2


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/x/films", "films"),
        ("/x/films/", "films"),
        ("/x/films/train.csv", "films"),
        ("/x/my films", "my_films"),
        ("https://host/k/train-{000..009}.tar?sign=a/b", "k"),
        ("/x/training", "training"),
    ],
)
def test_short_names(data, name):
    assert short_name(data) == name
