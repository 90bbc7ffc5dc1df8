"""docs/pictures.py: a terminal becomes a picture, and what the script makes is what the pages show."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

import muybridge

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_a_terminal_becomes_a_picture(script):
    written = "\x1b[36mcyan\x1b[0m a < b & c\n  99.5%  ██▌  opening\n"
    picture = script["terminal_svg"]([("muybridge x", written), ("muybridge y", "")], 40, "t-name")
    root = ElementTree.fromstring(picture)
    lines = {}
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        lines.setdefault(text.get("y"), []).append(text.text)
    joined = ["".join(parts).replace("\xa0", " ").rstrip() for parts in lines.values()]
    assert [line for line in joined if line] == [
        "$ muybridge x",
        "cyan a < b & c",
        "  99.5%  ██▌  opening",
        "$ muybridge y",
    ]
    assert "#56b6c2" in picture  # the theme's cyan
    assert re.findall(r"https?://[^\"')\s]+", picture) == ["http://www.w3.org/2000/svg"]


def test_a_command_is_run_on_a_terminal(script, tmp_path):
    assert script["output_of"](["--version"], tmp_path, 80).strip() == muybridge.__version__
    colourful = script["output_of"](["--help"], tmp_path, 70)
    plain = re.sub(r"\x1b\[[\d;]*m", "", colourful)
    assert plain != colourful
    assert max(map(len, plain.splitlines())) == 70


def test_a_command_that_fails_ends_the_script(script, tmp_path):
    with pytest.raises(SystemExit, match="muybridge report nothing failed: .*nothing"):
        script["output_of"](["report", "nothing"], tmp_path, 80)


def test_no_browser_is_told(script, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"There is no Chromium .*apt install chromium"), script["browser"](800):
        pass


def test_pictures_are_there_and_shown(script):
    there = {path.name for path in IMAGES.iterdir() if path.suffix in (".png", ".webp", ".svg")}
    speed = {"speed-inference.svg", "speed-training.svg"}  # benchmarks/draw.py
    assert set(script["PICTURES"]) == there - speed
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        Path(link).name for page in pages for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    assert there <= shown
    assert sum((IMAGES / name).stat().st_size for name in there) < 1.2e6
    for name in there:
        if name.endswith(".svg"):
            assert "/tmp" not in (IMAGES / name).read_text("utf-8")
