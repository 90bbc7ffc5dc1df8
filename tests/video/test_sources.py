"""Data folders of every layout, the split, and what is said about folders that cannot be used."""

from pathlib import Path

import pytest

from muybridge.errors import BadInput, MissingFile, UnknownName
from muybridge.structures import SourceArgs
from muybridge.video.sources import read_items, read_source, read_split, split_rows, write_split


def make(root, *names, content=""):
    """Files below `root`; no test here looks into a video."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def names(items, label=None):
    return [item.name for item in items if label is None or item.label == label]


@pytest.fixture
def tree(tmp_path):
    """10 videos of `run`, 5 of `jump`, 2 of `sit`, 1 of `lie`."""
    for label, count in (("run", 10), ("jump", 5), ("sit", 2), ("lie", 1)):
        make(tmp_path, *(f"{label}/{label}_{i}.mp4" for i in range(count)))
    return tmp_path


# Folders


def test_two_folders(tmp_path):
    make(tmp_path, "train/run/b.mp4", "train/run/a.avi", "train/jump/c.webm", "val/run/d.mkv", "val/jump/e.gif")
    source = read_source(tmp_path)
    assert source.labels == ("jump", "run")
    assert [(item.name, item.label) for item in source.train] == [
        ("train/jump/c.webm", 0),
        ("train/run/a.avi", 1),
        ("train/run/b.mp4", 1),
    ]
    assert [(item.name, item.label) for item in source.val] == [("val/jump/e.gif", 0), ("val/run/d.mkv", 1)]
    assert source.train[0].path == str(tmp_path / "train/jump/c.webm")
    assert source.how == f"{tmp_path / 'train'} and {tmp_path / 'val'}"


@pytest.mark.parametrize(
    ("folders", "taken"),
    [(("val", "validation", "test"), "val"), (("validation", "test"), "validation"), (("test",), "test")],
)
def test_name_of_the_second_folder(folders, taken, tmp_path):
    make(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", *(f"{folder}/run/c.mp4" for folder in folders))
    assert names(read_source(tmp_path).val) == [f"{taken}/run/c.mp4"]


def test_second_half_need_not_have_all_classes(tmp_path):
    make(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "val/run/c.mp4")
    (tmp_path / "val/jump").mkdir()
    assert [item.label for item in read_source(tmp_path).val] == [1]


def test_only_videos_count(tmp_path):
    make(
        tmp_path, "run/A.MP4", "run/a.txt", "run/.hidden.mp4", "run/more/c.mp4", "run/b.mov", "jump/d.mp4", "jump/e.ts"
    )
    make(tmp_path, ".cache/x.mp4", "notes.md", "loose.mp4")
    source = read_source(tmp_path)
    assert source.labels == ("jump", "run")
    assert sorted(names(source.train + source.val)) == ["jump/d.mp4", "jump/e.ts", "run/A.MP4", "run/b.mov"]


def test_class_named_like_a_half(tmp_path):
    make(tmp_path, *(f"{label}/{i}.mp4" for label in ("train", "plane", "test") for i in range(2)))
    assert read_source(tmp_path).labels == ("plane", "test", "train")


# The default split


def test_part_of_each_class_is_set_aside(tree):
    source = read_source(tree)
    assert source.labels == ("jump", "lie", "run", "sit")
    halves = (source.train, source.val)
    counts = [[len(names(half, label)) for half in halves] for label in range(4)]
    assert counts == [[4, 1], [1, 0], [8, 2], [1, 1]]
    assert not set(names(source.train)) & set(names(source.val))
    assert source.how == f"20% of each class of {tree} set aside by the hash of the path"


def test_share_is_kept_to(tree):
    counts = {
        share: [len(names(read_source(tree, SourceArgs(val_share=share)).val, label)) for label in (0, 2, 3)]
        for share in (0.01, 0.5, 0.99)
    }
    assert counts == {0.01: [1, 1, 1], 0.5: [2, 5, 1], 0.99: [4, 9, 1]}


def test_default_split_is_the_same_everywhere(tree, monkeypatch):
    """Kept names: a change here moves videos from one half to the other."""
    source = read_source(tree)
    assert names(source.val) == ["jump/jump_4.mp4", "run/run_1.mp4", "run/run_2.mp4", "sit/sit_1.mp4"]
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listing(path), reverse=True))
    assert read_source(tree) == source


def test_default_split_does_not_depend_on_the_place(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    make(other, *names(read_source(tree).train), *names(read_source(tree).val))
    assert names(read_source(other).val) == names(read_source(tree).val)


def test_training_folder_without_a_second(tmp_path):
    make(tmp_path, *(f"train/{label}/{i}.mp4" for label in ("run", "jump") for i in range(5)))
    source = read_source(tmp_path)
    assert (len(source.train), len(source.val)) == (8, 2)


# Lists


def test_lists_of_indices(tmp_path):
    make(tmp_path, "a.mp4", "b c.mp4", "sub/d.mp4", "e.mp4")
    make(tmp_path, "train.txt", content="a.mp4 1\n\nb c.mp4   0\n./sub/d.mp4 2\n")
    make(tmp_path, "val.txt", content="e.mp4 2\n")
    source = read_source(tmp_path)
    assert source.labels == ("0", "1", "2")
    assert [(item.name, item.label) for item in source.train] == [("a.mp4", 1), ("b c.mp4", 0), ("sub/d.mp4", 2)]
    assert source.train[1].path == str(tmp_path / "b c.mp4")
    assert source.val[0].label == 2


@pytest.mark.parametrize("file", ["classes.txt", "labels.txt"])
def test_lists_of_indices_with_class_file(file, tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    make(tmp_path, "train.txt", content="a.mp4 2\nb.mp4 0\n")
    make(tmp_path, "val.txt", content="b.mp4.x 2\n")
    make(tmp_path, "b.mp4.x")
    make(tmp_path, file, content="walk\njump high\nrun\n")
    source = read_source(tmp_path)
    # The file may name more classes than the lists have videos of, in any order.
    assert source.labels == ("walk", "jump high", "run")
    assert [item.label for item in source.train] == [2, 0]


def test_lists_of_names(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.txt", content="a.mp4 run\nb.mp4\tjump high\n")
    make(tmp_path, "validation.txt", content="c.mp4\tjump high\n")
    source = read_source(tmp_path)
    assert source.labels == ("jump high", "run")
    assert [item.label for item in source.train] == [1, 0]
    assert [item.label for item in source.val] == [0]


@pytest.mark.parametrize(
    "content",
    [
        'a.mp4,run\n"b, c.mp4",jump high\n',
        'path,label\na.mp4,run\n"b, c.mp4",jump high\n',
        'label,Path,extra\nrun,a.mp4,5\njump high,"b, c.mp4",6\n',
        'a.mp4,run\r\n\r\n"b, c.mp4",jump high\r\n',
    ],
)
def test_csv(content, tmp_path):
    make(tmp_path, "a.mp4", "b, c.mp4", "d.mp4")
    make(tmp_path, "train.csv", content=content)
    make(tmp_path, "val.csv", content="d.mp4,run\n")
    source = read_source(tmp_path)
    assert [(item.name, source.labels[item.label]) for item in source.train] == [
        ("a.mp4", "run"),
        ("b, c.mp4", "jump high"),
    ]


def test_listed_videos_are_looked_for_in_videos_too(tmp_path):
    make(tmp_path, "videos/a.mp4", "b.mp4", "videos/b.mp4", "c.mp4")
    make(tmp_path, "train.txt", content=f"a.mp4 0\nb.mp4 1\nnone.mp4 1\n{tmp_path}/c.mp4 1\n")
    make(tmp_path, "val.txt", content="videos/b.mp4 0\n")
    source = read_source(tmp_path)
    wanted = ["videos/a.mp4", "b.mp4", "c.mp4"]
    # One that is missing does not stop the others: it is counted and told.
    assert [item.path for item in source.train] == [str(tmp_path / name) for name in wanted]
    assert source.missing == {"train": ("none.mp4",)}
    assert source.how.endswith("; 1 of 4 videos of train.txt are missing")


def test_list_without_a_second(tmp_path):
    make(tmp_path, *(f"{i}.mp4" for i in range(10)))
    make(tmp_path, "train.txt", content="".join(f"{i}.mp4 {i % 2}\n" for i in range(10)))
    source = read_source(tmp_path)
    assert (len(source.train), len(source.val)) == (8, 2)


# What cannot be used


def refuse(error, message, root, **options):
    with pytest.raises(error, match=message):
        read_source(root, SourceArgs(**options))


def test_no_folder(tmp_path):
    refuse(MissingFile, "There is no folder", tmp_path / "none")
    make(tmp_path, "video.mp4")
    refuse(BadInput, "is a file; expected a folder with class folders", tmp_path / "video.mp4")


def test_no_classes(tmp_path):
    refuse(BadInput, "holds no class folders; expected .*/<class>/<video>, or train.txt", tmp_path)
    make(tmp_path, "a.mp4")
    refuse(BadInput, "holds no class folders", tmp_path)


def test_empty_class(tmp_path):
    make(tmp_path, "run/a.mp4", "jump/b.txt")
    refuse(BadInput, "The class 'jump' has no video in", tmp_path)
    (tmp_path / "sit").mkdir()
    refuse(BadInput, r"The class 'jump' \(and 1 more\) has no video", tmp_path)


def test_index_without_video(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    make(tmp_path, "train.txt", content="a.mp4 0\nb.mp4 2\n")
    make(tmp_path, "val.txt", content="a.mp4 0\n")
    refuse(BadInput, "The class '1' has no video in .*train.txt", tmp_path)


def test_one_class(tmp_path):
    make(tmp_path, "train/run/a.mp4", "val/run/b.mp4")
    refuse(BadInput, "has one class only, 'run'", tmp_path)


def test_nothing_to_set_aside(tmp_path):
    make(tmp_path, "run/a.mp4", "jump/b.mp4")
    refuse(BadInput, "No class of .* has two videos", tmp_path)


def test_nothing_to_train_with(tmp_path):
    make(tmp_path, "val/run/a.mp4", "val/jump/b.mp4")
    refuse(BadInput, "has .*val but nothing to train with", tmp_path)


def test_second_half_without_videos(tmp_path):
    make(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "val/run/c.txt")
    refuse(BadInput, r"val holds no video; fill it, or remove it", tmp_path)


def test_class_that_is_only_in_the_second_half(tmp_path):
    make(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "val/runs/c.mp4")
    refuse(UnknownName, "Unknown class 'runs'. Did you mean run.*It stands in .*val.runs", tmp_path)


@pytest.mark.parametrize("line", ["a.mp4", "1"])
def test_line_without_a_label(line, tmp_path):
    make(tmp_path, "a.mp4")
    make(tmp_path, "train.txt", content=f"a.mp4 0\n\n{line}\n")
    refuse(BadInput, f"train.txt:3 is '{line}'; expected a path, a blank and a label", tmp_path)


@pytest.mark.parametrize("line", ["b.mp4", "b.mp4,", ",run"])
def test_row_without_a_label(line, tmp_path):
    make(tmp_path, "train.csv", content=f"path,label\na.mp4,run\n{line}\n")
    refuse(BadInput, f"train.csv:3 is '{line}'; expected path,label", tmp_path)


@pytest.mark.parametrize(("label", "top"), [("2", 1), ("-1", 1)])
def test_index_out_of_range(label, top, tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.txt", content="a.mp4 0\nb.mp4 1\n")
    make(tmp_path, "val.txt", content=f"c.mp4 {label}\n")
    refuse(BadInput, f"val.txt:1 has the label {label}; expected 0 to {top}", tmp_path)
    make(tmp_path, "train.txt", content=f"a.mp4 0\nb.mp4 {label}\n")
    make(tmp_path, "labels.txt", content="run\njump\n")
    refuse(BadInput, f"train.txt:2 has the label {label}; expected 0 to {top}", tmp_path)


def test_name_that_the_class_file_does_not_have(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    make(tmp_path, "train.txt", content="a.mp4 run\nb.mp4 jmp\n")
    make(tmp_path, "classes.txt", content="run\njump\n")
    refuse(UnknownName, r"Unknown class 'jmp'. Did you mean jump.*train.txt:2", tmp_path)


def test_video_in_both_halves(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    make(tmp_path, "train.txt", content="a.mp4 0\nb.mp4 1\n")
    make(tmp_path, "val.txt", content=f"c.mp4 0\n{tmp_path}/b.mp4 1\n")
    refuse(BadInput, r"1 videos are in .*train.txt and in .*val.txt \(first: .*b.mp4\)", tmp_path)


def test_list_of_videos_that_are_elsewhere(tmp_path):
    make(tmp_path, "train.txt", content="a.mp4 0\nb.mp4 1\n")
    refuse(MissingFile, "Not one video of .*train.txt is there; the first should be .*a.mp4", tmp_path)


def test_empty_or_unreadable_list(tmp_path):
    make(tmp_path, "train.txt", content="\n\n")
    refuse(BadInput, "train.txt names no video", tmp_path)
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.mp4 1\n")
    refuse(BadInput, "train.txt is not a text file in UTF-8", tmp_path)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_share_that_is_none(share, tree):
    refuse(BadInput, f"val_share is {share}", tree, val_share=share)


# Evaluation


def test_classes_are_matched_by_name(tmp_path):
    make(tmp_path, "train/run/a.mp4", "val/run/b.mp4", "val/jump/c.mp4")
    labels = ["sit", "run", "jump"]
    assert [(item.name, item.label) for item in read_items(tmp_path, labels)] == [
        ("val/jump/c.mp4", 2),
        ("val/run/b.mp4", 1),
    ]
    assert names(read_items(tmp_path, labels, "train")) == ["train/run/a.mp4"]
    assert len(read_items(tmp_path, labels, "all")) == 3


def test_parts_of_a_tree_are_those_of_training(tree):
    source = read_source(tree)
    assert read_items(tree, source.labels, "val") == source.val
    assert read_items(tree, source.labels, "train") == source.train
    assert sorted(names(read_items(tree, source.labels, "all"))) == sorted(names(source.train + source.val))


def test_tree_of_one_class(tmp_path):
    make(tmp_path, "run/a.mp4")
    assert [item.label for item in read_items(tmp_path, ("jump", "run"), "all")] == [1]


def test_list_indices_mean_the_class_file_or_the_model(tmp_path):
    make(tmp_path, "a.mp4", "b.mp4")
    make(tmp_path, "val.txt", content="a.mp4 0\nb.mp4 1\n")
    labels = ("run", "jump", "sit")
    assert [item.label for item in read_items(tmp_path, labels)] == [0, 1]
    make(tmp_path, "classes.txt", content="sit\nrun\n")
    assert [item.label for item in read_items(tmp_path, labels)] == [2, 0]


def test_evaluation_that_cannot_be(tmp_path):
    make(tmp_path, "val/runs/a.mp4", "val/jump/b.mp4")
    with pytest.raises(UnknownName, match="Unknown class 'runs'. Did you mean run"):
        read_items(tmp_path, ("run", "jump"))
    with pytest.raises(UnknownName, match="Unknown split 'test'"):
        read_items(tmp_path, ("runs", "jump"), "test")
    with pytest.raises(BadInput, match="expected the split val or all"):
        read_items(tmp_path, ("runs", "jump"), "train")
    with pytest.raises(MissingFile, match="There is no folder"):
        read_items(tmp_path / "none", ("runs", "jump"))
    (tmp_path / "val/jump/b.mp4").unlink()
    (tmp_path / "val/runs/a.mp4").unlink()
    with pytest.raises(BadInput, match="holds no video in its split val"):
        read_items(tmp_path, ("runs", "jump"))


# The split, written


def test_split_comes_back(tree):
    make(tree, 'run/with, comma "and" ünicode.mp4')
    source = read_source(tree)
    write_split(tree / "split.csv", source)
    back = read_split(tree / "split.csv", tree)
    assert (back.train, back.val, back.labels) == (source.train, source.val, source.labels)
    lines = (tree / "split.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "name,label,split"
    assert lines[1] == f"{source.train[0].name},{source.labels[source.train[0].label]},train"
    assert len(list(split_rows(source))) == len(lines) - 1 == 19


def test_split_of_lists_comes_back_with_the_classes_of_the_run(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    make(data, "videos/a.mp4", "videos/b.mp4", "c.mp4")
    make(data, "train.txt", content="a.mp4 2\nb.mp4 0\n")
    make(data, "val.txt", content=f"{data}/c.mp4 0\n")
    make(data, "classes.txt", content="walk\njump\nrun\n")
    source = read_source(data)
    make(run, "labels.txt", content="walk\njump\nrun\n")
    write_split(run / "split.csv", source)
    back = read_split(run / "split.csv", data)
    assert (back.train, back.val, back.labels) == (source.train, source.val, source.labels)
    assert read_split(run / "split.csv", data, ("run", "walk")).train[0].label == 0


def test_split_that_is_none(tmp_path):
    with pytest.raises(MissingFile):
        read_split(tmp_path / "split.csv", tmp_path)
    make(tmp_path, "split.csv", content="name,label,split\na.mp4,run,train\nb.mp4,run,dev\n")
    with pytest.raises(BadInput, match=r"split.csv:3 is 'b.mp4,run,dev'; expected name,label,split"):
        read_split(tmp_path / "split.csv", tmp_path)
    make(tmp_path, "split.csv", content="name,label,split\na.mp4,run,train\n")
    with pytest.raises(UnknownName, match=r"Unknown class 'run'.*split.csv:2"):
        read_split(tmp_path / "split.csv", tmp_path, ("jump", "sit"))
