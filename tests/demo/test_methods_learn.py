"""EVL, ILA, DiST and ZeroI2V learn the order of frames: a seed of `benchmarks/train_methods.py`, whose CSV has 3."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from muybridge.demo.films import write_films

FILE = Path(__file__).parents[2] / "benchmarks" / "train_methods.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("train_methods", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def films(bench, tmp_path_factory):
    return write_films(tmp_path_factory.mktemp("films") / "videos", bench.SIX, train=40, val=20, seed=0, workers=2)


@pytest.fixture(scope="module")
def probe(bench, films, tmp_path_factory):
    return bench.run("probe", 0, tmp_path_factory.mktemp("probe"), films, {})["within_twins"]


@pytest.fixture
def all_cores():
    threads = torch.get_num_threads()
    # Several processes of tests would get in each other's way: each keeps its share.
    torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 1))
    yield
    torch.set_num_threads(threads)


def test_six_classes_are_three_pairs_of_twins(bench):
    assert len(bench.SIX) == 6
    assert set(bench.SETTINGS) == {"probe", "evl", "ila", "dist", "zeroi2v", "full"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("method", ["evl", "ila", "dist", "zeroi2v"])
def test_it_knows_a_film_from_the_same_film_backwards(bench, films, probe, tmp_path, method):
    row = bench.run(method, 0, tmp_path, films, {})
    # 120 videos: a standard error of 3 points.
    assert row["within_twins"] >= 0.8, row
    assert row["within_twins"] >= probe + 0.25, row
