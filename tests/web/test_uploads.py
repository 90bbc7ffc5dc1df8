"""The private folder: nothing outside it, nothing left behind, nothing taken away from others."""

import os
import stat

from muybridge.web.files import Uploads


def put(uploads, name, content=b"x" * 10):
    """A file where Gradio puts one: in a folder of its own."""
    path = uploads.folder / name / "video.mp4"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_only_its_owner_can_look_into_it(tmp_path):
    uploads = Uploads(60, tmp_path)
    assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700
    assert uploads.folder.parent == tmp_path
    put(uploads, "a")
    uploads.close()
    assert not list(tmp_path.iterdir())


def test_what_is_outside_is_not_there(tmp_path):
    uploads = Uploads(60, tmp_path)
    inside = put(uploads, "a")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.symlink(secret, uploads.folder / "link.mp4")
    beside = tmp_path / (uploads.folder.name + "-more")
    beside.mkdir()
    (beside / "x").touch()
    assert uploads.has(inside)
    assert uploads.has(str(inside))
    for path in (
        secret,
        uploads.folder / "link.mp4",
        uploads.folder / ".." / "secret.txt",
        beside / "x",
        uploads.folder,
        uploads.folder / "gone.mp4",
        "/etc/passwd",
        "http://localhost/x",
        "a\0b",
        "x" * 5000,
    ):
        assert not uploads.has(path), path


def test_a_file_goes_when_no_page_shows_it(tmp_path):
    uploads = Uploads(60, tmp_path)
    first, second = put(uploads, "a"), put(uploads, "b")
    uploads.hold("one", first)
    uploads.hold("two", first)
    uploads.hold("one", first)
    uploads.hold("one", second)
    assert first.exists()  # another page shows it
    uploads.hold("two", None)
    assert not first.exists()
    assert not first.parent.exists()
    assert second.exists()
    uploads.hold("nobody", None)


def test_a_file_that_is_read_stays_until_then(tmp_path):
    uploads = Uploads(60, tmp_path)
    path = put(uploads, "a")
    uploads.hold("one", path)
    with uploads.reading(path):
        uploads.hold("one", None)
        assert path.exists()
    with uploads.reading(path, last=True), uploads.reading(path, last=True):
        pass
    assert not path.exists()
    path = put(uploads, "a")
    uploads.hold("page", path)
    with uploads.reading(path, last=True):
        pass
    assert path.exists()  # the page shows it


def test_what_is_old_goes_and_examples_stay(tmp_path):
    uploads = Uploads(60, tmp_path)
    example = put(uploads, "examples")
    uploads.last()
    old, new = put(uploads, "a"), put(uploads, "b", b"y" * 7)
    assert uploads.size() == 17
    for path in (example, old):
        os.utime(path, (1000, 1000))
    uploads.hold("one", old)
    uploads.sweep()
    assert example.exists()
    assert new.exists()
    assert not old.exists()
    assert uploads.size() == 7
    uploads.hold("one", example)
    uploads.hold("one", None)
    assert example.exists()
