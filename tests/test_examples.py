"""The scripts and notebooks of examples/ run, as they stand there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem != "ingredients")
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_they_are_all_listed():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    missing = [path.name for path in EXAMPLES.iterdir() if path.is_file() and f"../examples/{path.name}" not in page]
    assert not missing
    assert (len(SCRIPTS), len(NOTEBOOKS)) == (5, 2)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(script, tmp_path):
    if script.stem == "export_and_run":
        pytest.importorskip("onnxruntime", reason="pip install 'muybridge[onnx]'")
    command = [sys.executable, str(script), "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'muybridge[dev]'")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    assert all(cell["execution_count"] for cell in book.cells if cell["cell_type"] == "code")
