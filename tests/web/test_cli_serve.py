"""`muybridge serve`: what it refuses before anything is loaded."""

import socket

import pytest

from asked import recogniser
from muybridge import cli
from muybridge.errors import BadInput, MissingFile
from muybridge.web import serve
from muybridge.web.serve import find_examples, licence_line, put_examples, serving


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--top", "0"], "--top is 0; expected 1 to 50."),
        (["--window", "0"], "--window is 0; expected more than 0."),
        (["--max-upload", "0"], "upload is 0; expected a number above 0."),
        (["--max-requests", "0"], "requests is 0; expected at least 1."),
        (["--source.fold", "2"], "--source.fold is not for a page"),
        (["--source.seconds", "-1"], "source.seconds"),
        ([], "There is nothing at"),
    ],
)
def test_refused(options, sentence, installed, capsys, tmp_path):
    assert cli.run(["serve", str(tmp_path / "none"), *options]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_without_gradio_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert cli.run(["serve", str(tmp_path)]) == 2
    assert "pip install 'muybridge[web]'" in capsys.readouterr().err


def test_a_port_that_is_taken_and_a_host_that_is_not(installed):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(BadInput, match=f"127.0.0.1:{port} cannot be used .*--port"),
            serving(recogniser(), port=port),
        ):
            pass
    with pytest.raises(BadInput, match="no host nowhere.invalid"), serving(recogniser(), host="nowhere.invalid"):
        pass
    with pytest.raises(BadInput, match="expected 0 to 65535"), serving(recogniser(), port=70000):
        pass


def test_examples(tmp_path, installed):
    with pytest.raises(MissingFile, match="no folder"):
        find_examples(tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingFile, match="holds no video"), serving(recogniser(), examples=tmp_path):
        pass
    for number in range(14):
        (tmp_path / f"{number:02d}.MP4").write_bytes(b"x")
    found = find_examples(tmp_path)
    assert [path.name for path in found] == [f"{number:02d}.MP4" for number in range(12)]
    put = put_examples(tmp_path / "copies", found[:2], recogniser())
    assert [(path.name, name) for path, name in put] == [("00.MP4", "00"), ("01.MP4", "01")]
    assert put[0][0].read_bytes() == b"x"
    films = put_examples(tmp_path / "films", None, recogniser())
    assert len(films) == 4
    assert all(path.stat().st_size > 1000 for path, _ in films)


def test_whose_weights_these_are():
    spec = recogniser().spec
    assert licence_line(spec, "") == "Licences: image transformer custom: unknown; trained weights: not stated."
    assert licence_line(spec, "CC-BY-4.0").endswith("trained weights: CC-BY-4.0.")
