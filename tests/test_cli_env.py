"""`muybridge env`: everything a bug report needs, and nothing that tells who wrote it."""

import json

import pytest

import muybridge
from muybridge import cli
from muybridge.report import environment
from muybridge.report.environment import extras, without_home


def test_what_it_tells(capsys):
    assert cli.run(["env", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["muybridge"]["version"] == muybridge.__version__
    assert set(told) >= {"muybridge", "system", "torch", "ffmpeg", "libraries", "extras", "caches"}
    assert told["ffmpeg"]["libavcodec"].count(".") == 2
    assert "not installed" not in told["libraries"].values()
    assert cli.run(["env"]) == 0
    text = capsys.readouterr().out
    for group, facts in told.items():
        assert group in text.splitlines()
        assert all(str(value) in text for value in facts.values())


def test_nobody_is_named(monkeypatch, capsys, tmp_path):
    home = tmp_path / "somebody"
    (home / "cache").mkdir(parents=True)
    (home / "cache/x").write_bytes(bytes(2_000_000))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "https://somebody:secret@host")
    assert cli.run(["env"]) == 0
    out = capsys.readouterr().out
    assert "~/cache (2.0 MB)" in out
    assert "somebody" not in out
    assert "secret" not in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/me/x", "~/x"),
        ("/home/me", "~"),
        ("/home/meow/x", "/home/meow/x"),
        ("/home/me.old/x", "/home/me.old/x"),
        ("/mnt/home/me/x", "/mnt/home/me/x"),
        ("see /home/me/a b", "see ~/a b"),
        ("in '/home/me': no. /home/me.", "in '~': no. ~."),
        ("file:///home/me/x", "file://~/x"),
    ],
)
def test_home(text, told, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert without_home(text) == told


def test_extras(monkeypatch):
    lines = ["torch>=2", 'onnx>=1 ; extra == "demo"', "ray[data]>=2; extra == 'ray'", 'nope-1; extra == "two"']
    lines += ['torch; extra == "two"', 'pytest; extra == "dev"', 'muybridge[demo]; extra == "all"']
    monkeypatch.setattr(environment.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(environment, "version", lambda name: "1.0" if name in ("onnx", "torch") else "not installed")
    assert extras() == {"demo": "onnx 1.0", "ray": "not installed", "two": "lacks nope-1"}


def test_a_broken_library_is_told(monkeypatch):
    def broken():
        raise ImportError("libav.so is not there")

    monkeypatch.setattr(environment, "_ffmpeg", broken)
    assert environment.environment()["ffmpeg"] == {"error": "ImportError: libav.so is not there"}
