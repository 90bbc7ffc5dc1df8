"""Workers of Ray answer what one process answers, also when they are killed."""

import os
import sys
from importlib import util

import pytest
import torch

from asked import recogniser
from muybridge.engine import ray_jobs
from muybridge.engine.collected import CollectionArgs
from muybridge.engine.collection import in_this_process, predict_collection
from muybridge.engine.progress import Progress
from muybridge.engine.ray_jobs import Workers, start_ray, through_ray
from muybridge.errors import BadInput

ARGS = CollectionArgs(top=3, block=2, batch_size=2)
# What Python reads in every process that is started here: workers of Ray note what they read.
NOTED = """
import os, signal
if b"default_worker.py" in open("/proc/self/cmdline", "rb").read():
    from muybridge.video.dataset import VideoDataset
    real = VideoDataset.__getitem__
    def read(self, key):
        path = self.items[key if isinstance(key, int) else key[1]].path
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{os.getpid()} {path}\\n")
        %s
        return real(self, key)
    VideoDataset.__getitem__ = read
"""
# In the midst: other blocks are done, and this worker has begun with one. Only the first process can make the file.
ONCE = """if len(open(os.environ["NOTES"]).readlines()) >= 8:
            try:
                open(os.environ["NOTES"] + ".killed", "x").write(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass"""
DEADLY = "if path.endswith('val/falling/1.mp4'): os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A function that makes the workers do something before they read; returns the file in which they note what."""
    if util.find_spec("ray") is None:
        pytest.skip("pip install 'muybridge[ray]'")

    def begin(what):
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(NOTED % what)
        paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
        return tmp_path / "notes"

    return begin


@pytest.fixture(scope="module")
def model():
    return recogniser(views=4)


@pytest.fixture(scope="module")
def expected(model, videos, tmp_path_factory):
    """What one process writes."""
    folder = tmp_path_factory.mktemp("expected")
    predict_collection(model, [videos], folder, ARGS, in_this_process(torch.device("cpu")))
    return (folder / "predictions.csv").read_text().splitlines()


class Said(Progress):
    def __init__(self):
        self.lines, self.videos = [], 0

    def say(self, text):
        self.lines.append(text)

    def advance(self, amount, **figures):
        self.videos += amount


def same(line, other):
    """Whether two rows are equal, with scores that may differ by a millionth."""
    fields = list(zip(line.split(","), other.split(","), strict=False))
    return line.count(",") == other.count(",") and all(
        a == b or (is_number(a) and is_number(b) and abs(float(a) - float(b)) < 2e-6) for a, b in fields
    )


def is_number(text):
    return text.replace(".", "", 1).isdigit()


@pytest.mark.parametrize(
    ("nodes", "asked", "gpus", "fit"),
    [
        ([(2, 0.0)], 2, 0.0, Workers(2, 1)),
        ([(16, 0.0)], 0, 0.0, Workers(4, 4)),
        ([(2, 0.0)], 0, 0.0, Workers(1, 2)),
        ([(16, 2.0), (8, 2.0)], 0, 1.0, Workers(4, 4, 1.0)),
        ([(7, 0.0), (5, 0.0)], 3, 0.0, Workers(3, 3)),
        ([(8, 1.0)], 2, 0.5, Workers(2, 4, 0.5)),
    ],
)
def test_workers_fit_into_machines(nodes, asked, gpus, fit):
    assert ray_jobs._workers(nodes, asked, gpus) == fit


@pytest.mark.parametrize(("nodes", "asked", "gpus"), [([(2, 0.0)], 3, 0.0), ([(2, 0.0)], 0, 1.0), ([], 0, 0.0)])
def test_workers_that_do_not_fit_are_told(nodes, asked, gpus):
    with pytest.raises(BadInput, match="do not fit"):
        ray_jobs._workers(nodes, asked, gpus)


def test_ray_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(BadInput, match=r"pip install 'muybridge\[ray\]'"), start_ray():
        pass
    with pytest.raises(BadInput, match="workers is -1"), start_ray(workers=-1):
        pass


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(model, videos, expected, tmp_path, notes):
    noted, said = notes(ONCE), Said()
    summary = predict_collection(model, [videos], tmp_path / "out", ARGS, through_ray(workers=2), said)
    killed = int(noted.with_name("notes.killed").read_text())
    readers = {}
    for line in noted.read_text().splitlines():
        process, path = line.split(" ", 1)
        readers.setdefault(path, set()).add(int(process))
    # What it had in hand was read by another process again, and little else.
    again = [path for path, processes in readers.items() if len(processes) > 1]
    assert 1 <= len(again) <= 4
    assert all(killed in readers[path] for path in again)
    assert (summary["asked"], summary["done"], said.videos) == (24, 24, 24)
    rows = (tmp_path / "out/predictions.csv").read_text().splitlines()
    assert all(same(row, other) for row, other in zip(rows, expected, strict=True))


@pytest.mark.slow
def test_a_file_that_ends_every_worker_costs_its_own_row_only(model, videos, expected, tmp_path, notes):
    noted, said, out = notes(DEADLY), Said(), tmp_path / "out"
    summary = predict_collection(model, [videos], out, ARGS, through_ray(workers=2), said)
    assert (summary["asked"], summary["unreadable"]) == (24, 1)
    assert any("ended 3 workers" in line for line in said.lines)
    assert noted.read_text().count("val/falling/1.mp4") == 4  # by three workers, and by a process of its own
    for row, other in zip((out / "predictions.csv").read_text().splitlines(), expected, strict=True):
        assert same(row, other) or ("val/falling/1.mp4" in row and "SIGKILL" in row)


@pytest.mark.slow
def test_a_mistake_in_a_worker_is_its_sentence(videos, tmp_path):
    pytest.importorskip("ray", reason="pip install 'muybridge[ray]'")
    broken = recogniser()
    with torch.no_grad():
        broken.method.head.fc.bias.fill_(float("nan"))
    with pytest.raises(BadInput, match="is no number"):
        predict_collection(broken, [videos], tmp_path, ARGS, through_ray(workers=1))
    with pytest.raises(BadInput, match="Ray cannot be reached at"), start_ray("127.0.0.1:1"):
        pass
