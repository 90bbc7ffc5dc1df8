"""Every block of Python in README and docs runs, in a folder that holds what the pages talk of.

The blocks of a page run one after the other in one namespace. One that cannot run says why in a comment before it:
`<!-- no-run: needs a camera -->`.
"""

import re
from pathlib import Path

import pytest

import muybridge
from clips import moving_square, write_video
from muybridge.engine.order import order_diagnostics
from muybridge.export import export_model
from muybridge.structures import Recipe, Sampling, TrainArgs, Transform
from muybridge.testing.tiny import random_backbone, tiny_backbones

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"((?:<!--.*?-->\n)?)```python\n(.*?)```", re.DOTALL)
NO_RUN = re.compile(r"<!-- no-run: \S.* -->\n")
# Its whole method and its quotes have tests of their own.
ELSEWHERE = {"docs/add-a-method.md": "tests/methods/test_add_a_method.py"}
CLASSES = ("closing", "falling", "opening")


def blocks(text):
    """(whether it runs, code) of each block of Python in a page."""
    return [(not NO_RUN.fullmatch(before), code) for before, code in BLOCK.findall(text)]


def pages():
    """Pages with Python in them."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [str(file.relative_to(ROOT)) for file in files if "```python" in file.read_text(encoding="utf-8")]
    return [name for name in names if name not in ELSEWHERE]


def moving(label, seed, frames=12):
    film = moving_square("closing" if label == "opening" else label, seed, frames)
    return film[::-1] if label == "opening" else film


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages talk of: two runs under several names, a data set, videos, an evaluation, an exported model."""
    folder = tmp_path_factory.mktemp("pages")
    for part, count in (("train", 6), ("val", 4)):
        for label in CLASSES:
            for seed in range(count):
                write_video(folder / "DIR" / part / label / f"{seed}.mp4", moving(label, 100 * len(part) + seed))
    for name in ("video.mp4", "a.mp4", "b.mp4", "muybridge-demo/unseen.mp4"):
        write_video(folder / name, moving("opening", len(name)))
    write_video(folder / "match.mp4", moving_square("falling", 7, frames=180))
    for method, options in (("evl", {"layers": 2, "heads": 3}), ("probe", {})):
        recipe = Recipe(
            method=method,
            options=options,
            backbone="custom",
            data=str(folder / "DIR"),
            sampling=Sampling(frames=4),
            transform=Transform(size=(32, 32), crop="center"),
            train=TrainArgs(epochs=6, batch_size=8, lr=3e-3, workers=0),
        )
        muybridge.train(recipe, folder / "runs" / method, backbone=random_backbone(tiny_backbones()["dinov2"]))
    for name in ("RUN", "runs/x", "muybridge-demo/evl"):
        (folder / name).symlink_to(folder / "runs" / "evl")
    recogniser = muybridge.load(folder / "RUN", "cpu")
    order_diagnostics(recogniser, folder / "DIR", out=folder / "evaluations" / "order")
    export_model(recogniser, folder / "onnx", to="onnx")
    (folder / "model.onnx").symlink_to(folder / "onnx" / "model.onnx")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_the_code_of_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {"__name__": "page", "frames": moving("opening", 5)}
    for runs, code in blocks((ROOT / page).read_text(encoding="utf-8")):
        if runs:
            exec(compile(code, page, "exec"), namespace)


def test_a_block_that_does_not_run_says_why():
    marked = "<!-- no-run: needs a camera -->\n```python\na\n```\n"
    other = "<!-- else -->\n```python\nb\n```\n"
    without_reason = "<!-- no-run: -->\n```python\nc\n```\n"
    assert [runs for runs, _ in blocks(marked + other + without_reason)] == [False, True, True]


def test_most_blocks_run():
    found = [runs for page in pages() for runs, _ in blocks((ROOT / page).read_text(encoding="utf-8"))]
    assert sum(found) >= 13
    assert sum(found) >= len(found) / 2
