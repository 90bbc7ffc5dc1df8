"""Files, folders, patterns, lists and archives become one sequence of videos, each once."""

import io
import os
import tarfile

import pytest

from muybridge.errors import BadInput, MissingFile
from muybridge.video.inputs import NO_LABEL, find_videos, key_of
from muybridge.video.shards import index_of, read_stored


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Files that are called as videos are, and one archive without labels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "films"
    for name in ("b.mp4", "a.MKV", "deep/c.webm", "deep/.hidden.mp4", ".git/d.mp4", "notes.doc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    with tarfile.open(root / "deep/part-000.tar", "w") as archive:
        for name in ("x/0001.mp4", "0.mp4", "0.json", "readme"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return root


def names(items, root):
    return [item.name.replace(f"{root}{os.sep}", "") for item in items]


def test_a_folder_gives_all_that_lies_below_it_sorted(films):
    items = find_videos([films])
    assert names(items, films) == ["a.MKV", "b.mp4", "deep/c.webm", "part-000.tar/x/0001", "part-000.tar/0"]
    assert all(os.path.isabs(item.path) and item.label == NO_LABEL for item in items)
    stored = next(item for item in items if item.name.endswith("x/0001"))
    assert read_stored(stored.path, *stored.stored) == b"x/0001.mp4"
    assert {key_of(item) for item in items} == {"", "x/0001", "0"}


def test_an_archive_that_needs_no_labels_here_still_needs_them_in_training(films):
    shard = films / "deep/part-000.tar"
    assert len(find_videos([shard])) == 2
    with pytest.raises(BadInput, match="has no label"):
        index_of(str(shard))
    assert len(find_videos([films / "deep/part-{000..000}.tar"])) == 2


def test_what_is_meant_twice_comes_once(films, monkeypatch):
    monkeypatch.chdir(films)
    assert names(find_videos(["b.mp4", films, "./b.mp4", "*.mp4"]), films)[0] == "b.mp4"
    assert len(find_videos(["b.mp4", films, "./b.mp4", "*.mp4"])) == 5


def test_patterns(films):
    assert names(find_videos([f"{films}/**/*.[mw]*"]), films) == ["b.mp4", "deep/c.webm"]
    with pytest.raises(BadInput, match="holds no video"):
        find_videos([f"{films}/*.avi"])


def test_a_link_to_the_folder_above_is_walked_once(films):
    (films / "deep/up").symlink_to(films)
    assert len(find_videos([films])) == 5


def test_lists_keep_their_order_and_what_is_not_there(films):
    (films / "list.txt").write_text("deep/c.webm\n\ngone.mp4\nb.mp4 3\nwith blank.mp4\ndeep/part-000.tar\n")
    assert names(find_videos([films / "list.txt"]), films)[:4] == ["deep/c.webm", "gone.mp4", "b.mp4", "with blank.mp4"]
    assert len(find_videos([films / "list.txt"])) == 6
    (films / "list.csv").write_text("label,video,start,end\n0,b.mp4,1.5,0:03\n1,b.mp4,,\n")
    part, whole = find_videos([films / "list.csv"])
    assert (part.start, part.end, whole.start, whole.end) == (1.5, 3.0, 0.0, None)
    assert part.name != whole.name
    assert part.path == whole.path == str(films / "b.mp4")
    (films / "bare.csv").write_text(f"a.MKV\n{films}/b.mp4\n")
    assert names(find_videos([films / "bare.csv"]), films) == ["a.MKV", "b.mp4"]


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        ("gone.mp4", MissingFile, "nothing at"),
        ("part-{000..001}.tar", MissingFile, "1 of 2 archives are not there"),
        ("https://host/film.mp4", BadInput, "no tar archive"),
        ("empty", BadInput, "holds no video"),
        ("", BadInput, "is empty"),
        ("times.csv", BadInput, "times.csv:2"),
        ("none.csv", BadInput, "expected a path"),
    ],
)
def test_what_cannot_be_meant_is_told(films, monkeypatch, given, kind, sentence):
    monkeypatch.chdir(films / "deep")
    (films / "deep/empty").mkdir()
    (films / "deep/times.csv").write_text("path,start\nc.webm,soon\n")
    (films / "deep/none.csv").write_text("path,label\n,3\n")
    with pytest.raises(kind, match=sentence):
        find_videos([given])
