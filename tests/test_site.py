"""The site is built without a broken link, and what it generates is there (pip install 'muybridge[docs]')."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from muybridge import cli
from muybridge.methods import METHODS
from muybridge.structures import TrainArgs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for library in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(library, reason="pip install 'muybridge[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_reached(site):
    front = (site / "index.html").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    missing = [str(page) for page in pages if page.name != "index.html" and f'href="{page.as_posix()}"' not in front]
    assert not missing


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)', page.read_text(encoding="utf-8"))
        assert not fetched, page


@pytest.mark.slow
def test_the_reference_is_that_of_the_program(site):
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    commands = [name for name in cli.app if not name.startswith("-")]
    assert len(commands) > 10
    for name in commands:
        assert f'id="muybridge-{name}"' in page
    assert "mkdocs" not in page.partition("<article")[2].partition("</article")[0]
    fields = (site / "reference" / "fields.html").read_text(encoding="utf-8")
    for name in TrainArgs.__dataclass_fields__:
        assert f"--train.{name}<" in fields
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("loading.load", "recogniser.Recogniser.predict", "engine.train.train"):
        assert f'id="muybridge.{name}"' in python


@pytest.mark.slow
def test_equations_are_drawn_and_code_is_led_to(site):
    for method in METHODS:
        page = (site / "methods" / f"{method}.html").read_text(encoding="utf-8")
        assert "<math" in page
        assert "\\mathrm" not in page
        assert f'href="../source/src/muybridge/methods/{method}.py.html"' in page
        assert (site / "source" / "src" / "muybridge" / "methods" / f"{method}.py.html").is_file()


def test_pictures_are_those_of_the_script(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "draw_methods.py"))
    script["Picture"].save.__globals__["OUT"] = tmp_path
    for method in METHODS:
        script[method]()
        kept = (ROOT / "docs" / "images" / "methods" / f"{method}.svg").read_text(encoding="utf-8")
        assert (tmp_path / f"{method}.svg").read_text(encoding="utf-8") == kept
