"""Where the time of a training goes: each stage, the loader, the wait, and the cores that follow from them."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from muybridge.engine.batches import Batch
from muybridge.errors import BadInput
from muybridge.measure import pipeline
from muybridge.measure.pipeline import Costs, cores_needed, loader_rate, stages, stepper_for, training_rate
from muybridge.measure.workload import Workload
from muybridge.structures import Item, Sampling, Transform
from muybridge.video.dataset import VideoDataset, read_source

ROOT = Path(__file__).parents[2]
COSTS = Costs(0.03, 0.01, 0.001, 0.1, 0.15, 0.002)


@pytest.mark.parametrize(
    ("views", "seconds", "cores"), [(25, 0.04, 1), (26, 0.04, 2), (250, 0.04, 10), (8, 0.125, 1), (0.1, 0.01, 1)]
)
def test_cores_that_a_device_needs(views, seconds, cores):
    assert cores_needed(views, seconds) == cores


def test_sums_and_milliseconds():
    assert COSTS.worker == pytest.approx(0.04)
    assert COSTS.step == pytest.approx(0.25)
    assert COSTS.milliseconds()["decode"] == pytest.approx(30)
    assert list(COSTS.milliseconds())[:5] == list(pipeline.STAGES)


@pytest.fixture
def dataset(videos):
    return VideoDataset(read_source(videos).train, Sampling(2), Transform((28, 28)), True, 0)


@pytest.fixture(scope="module")
def stepper():
    return stepper_for(Workload("probe", backbone="dinov2_vits14", frames=2, image_size=(28, 28), classes=2).build())


def test_every_stage_is_timed(dataset, stepper, monkeypatch):
    read = dataset._read

    def slow(*arguments):
        time.sleep(0.03)
        return read(*arguments)

    monkeypatch.setattr(dataset, "_read", slow)
    costs = stages(dataset, stepper, batch=2, rounds=1)
    assert 0.03 < costs.decode < 0.2
    assert all(0 < seconds < 0.1 for name, seconds in vars(costs).items() if name not in ("decode", "backward"))
    assert costs.worker == costs.decode + costs.transform


def test_a_video_that_cannot_be_decoded_is_told(dataset, stepper, tmp_path):
    dataset.items = (Item(str(tmp_path / "none.mp4"), 0, "none.mp4"), *dataset.items)
    with pytest.raises(BadInput, match=r"cannot be timed.*none\.mp4"):
        stages(dataset, stepper, batch=2, rounds=1)


def batches_after(monkeypatch, seconds):
    """Every batch of two videos takes so long."""

    def read(dataset, batch, workers, count, device=None):
        for number in range(count):
            # Several workers have their batches ready at the same time.
            time.sleep(seconds if number % max(workers, 1) == 0 else 0)
            yield Batch(torch.zeros(2, 2, 3, 28, 28), torch.tensor([0, 5]), torch.arange(2), {})

    monkeypatch.setattr(pipeline, "_read", read)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_rate_of_the_loader(monkeypatch, workers):
    batches_after(monkeypatch, 0.05)
    expected = 2 * max(workers, 1) / 0.05
    # The last round of several workers may be cut off, at the most.
    assert expected * 0.6 < loader_rate(None, 2, workers, batches=9) < expected * 1.05


def test_share_of_the_time_that_is_waited(monkeypatch, stepper):
    batches_after(monkeypatch, 0.0)
    assert training_rate(None, stepper, 2, 0, steps=2)[1] < 0.1
    batches_after(monkeypatch, 0.3)
    begun = time.perf_counter()
    rate, share = training_rate(None, stepper, 2, 0, steps=2)
    # Two of three waits are counted.
    assert 0.6 / (time.perf_counter() - begun) < share < 1
    assert rate < 2 / 0.3


def test_real_workers(dataset, stepper):
    assert loader_rate(dataset, 2, 1, batches=3) > 0
    rate, share = training_rate(dataset, stepper, 2, 1, steps=1)
    assert rate > 0
    assert 0 <= share <= 1


@pytest.mark.slow
def test_the_script(tmp_path):
    out = tmp_path / "new" / "pipeline.csv"
    command = [
        sys.executable,
        "benchmarks/pipeline.py",
        "--tiny",
        "--rounds",
        "1",
        "--steps",
        "1",
        "--workers",
        "0",
        "1",
    ]
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True)
    rows = list(csv.DictReader(out.open()))
    told = {row["what"] for row in rows}
    assert told >= {
        "decode",
        "backward",
        "on device",
        "training, 1 workers, waits",
        "loader, 0 workers, transforms in the workers",
    }
    assert all(float(row["value"]) >= 0 and row["machine"] for row in rows)
