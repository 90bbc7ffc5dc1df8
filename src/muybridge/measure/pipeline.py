"""From files to gradients: where the time of a training goes, and how many cores keep a device busy.

costs = stages(dataset, stepper, batch=8)          # seconds a video: decode, transform, collate, forward, backward
rate = loader_rate(dataset, 8, workers=4)          # videos a second that the real loader brings
cores_needed(250, costs.worker)                    # for a device that trains 250 videos a second
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice

import torch

from muybridge.engine.batches import Batch, Key, VideoBatches
from muybridge.engine.step import Stepper
from muybridge.errors import BadInput
from muybridge.measure.timing import interleaved
from muybridge.methods.base import Method
from muybridge.structures import TrainArgs
from muybridge.video import container
from muybridge.video.dataset import Sample, VideoDataset, collate

STAGES = {
    "decode": "open the file and decode the frames, one core",
    "transform": "resize, crop and change them, one core",
    "collate": "stack videos to a batch and move it to the device",
    "forward": "the method's forward pass in training",
    "backward": "its backward pass and the optimiser's step",
}
WORD = {"workers": "in the workers", "device": "on the device"}


@dataclass(frozen=True)
class Costs:
    """Seconds that one video takes, a view of T frames; `STAGES` says of what.

    Attributes:
        decode, transform, collate, forward, backward: see `STAGES`.
        on_device: moving its bytes and transforming them on the device, in place of `transform` and `collate`; on a CPU
            this is a core's work too.
    """

    decode: float
    transform: float
    collate: float
    forward: float
    backward: float
    on_device: float

    @property
    def worker(self) -> float:
        """Of one core that prepares videos."""
        return self.decode + self.transform

    @property
    def step(self) -> float:
        """Of the device that trains on them."""
        return self.forward + self.backward

    def milliseconds(self) -> dict[str, float]:
        """The same by name, for a table."""
        return {field.name: 1e3 * getattr(self, field.name) for field in fields(self)}


def cores_needed(views_per_second: float, seconds: float) -> int:
    """How many cores bring a device what it trains on.

    Args:
        views_per_second: what the device trains; `1 / costs.step` here.
        seconds: of one core for one view; `costs.worker`, or `costs.decode` if the device transforms.
    """
    # Rounded first, so that 8 videos of 1/8 s are one core's work and not two's.
    return max(math.ceil(round(views_per_second * seconds, 6)), 1)


def stepper_for(method: Method, precision: str = "auto") -> Stepper:
    """What trains a method, as `muybridge train` does; the method is moved to its device and changes."""
    method.train()
    args = TrainArgs(epochs=1, lr=1e-6, precision=precision)  # type: ignore[arg-type]
    return Stepper(method, args, method.classes, per_epoch=1)


def stages(dataset: VideoDataset, stepper: Stepper, batch: int = 2, rounds: int = 3) -> Costs:
    """Time each stage by itself, in turns; the quickest of the rounds counts.

    Args:
        dataset: of training; `batch` of its videos are read, spread over it.
        stepper: of `stepper_for`.
        batch: B; it and not a single video is what is timed.
        rounds: measurements of each.

    Raises:
        BadInput: one of these videos cannot be decoded.
    """
    device = stepper.device
    raw = copy.copy(dataset)
    raw.raw = True
    places = [number * len(dataset) // batch for number in range(batch)]

    def decode() -> list[Sample]:
        container._scanned.clear()  # files of a data set are not opened twice in a row
        samples = [raw[place] for place in places]
        for sample in samples:
            if "error" in sample:
                raise BadInput(f"The videos cannot be timed, as one cannot be decoded: {sample['error']}")
        return samples

    bytes_of = collate(decode())
    whole = raw.finish(copy.copy(bytes_of))
    assert whole["video"] is not None
    video, labels = whole["video"], whole["label"] % stepper.classes
    samples: list[Sample] = [
        {"video": one, "label": label, "index": 0} for one, label in zip(video, labels.tolist(), strict=True)
    ]
    there = Batch(video.to(device), labels, whole["index"], {})

    def transform() -> object:
        with _one_thread():
            return raw.finish(bytes_of)

    def forward() -> object:
        with stepper.accelerator.autocast():
            return stepper.step(there.inputs)

    def moved() -> object:
        stacked = collate(samples)["video"]
        assert stacked is not None
        return (stacked.pin_memory() if device.type == "cuda" else stacked).to(device, non_blocking=True)

    calls = {
        "decode": decode,
        "transform": transform,
        "collate": moved,
        "on_device": lambda: raw.finish(bytes_of, device),
        "forward": forward,
        "step": lambda: stepper.take(there, True, 1),
    }
    times = interleaved(calls, rounds, device=device)
    # The quickest round: other programs can only slow it down, and of few rounds the median is often slowed down too.
    seconds = {name: min(times.seconds[name]) / batch for name in calls}
    backward = max(seconds.pop("step") - seconds["forward"], 0.0)
    return Costs(**seconds, backward=backward)


def loader_rate(dataset: VideoDataset, batch: int, workers: int, batches: int = 12) -> float:
    """Videos a second that the training's loader brings when nothing else is done.

    Args:
        dataset: its videos are read in order, again from the first if they are few.
        batch: B.
        workers: processes; 0: the main one.
        batches: how many; at least 2 more than `workers`.
    """
    begun = []
    count = 0
    # The first batch of every worker, which are ready at about the same time, tells when it is under way.
    ahead = max(workers, 1)
    for number, read in enumerate(_read(dataset, batch, workers, max(batches, ahead + 2))):
        begun.append(time.perf_counter())
        count += len(read.labels) + len(read.errors) if number >= ahead else 0
    return count / (begun[-1] - begun[0])


def training_rate(
    dataset: VideoDataset, stepper: Stepper, batch: int, workers: int, steps: int = 4
) -> tuple[float, float]:
    """Videos a second that are trained on, from files, and the share of the time in which the step waits for them.

    Args:
        dataset: as `loader_rate`.
        stepper: of `stepper_for`.
        batch: B.
        workers: as `loader_rate`.
        steps: how many are timed, after one that is not.
    """
    waited, videos = 0.0, 0
    read = _read(dataset, batch, workers, steps + 1, stepper.device)
    for number in range(steps + 1):
        if number == 1:
            begun = time.perf_counter()
            waited, videos = 0.0, 0
        clock = time.perf_counter()
        found = next(read)
        waited += time.perf_counter() - clock
        videos += len(found.labels)
        stepper.take(replace(found, labels=found.labels % stepper.classes), True, 1)
    seconds = time.perf_counter() - begun
    read.close()
    return videos / seconds, waited / seconds


def _read(
    dataset: VideoDataset, batch: int, workers: int, count: int, device: torch.device | None = None
) -> Generator[Batch, None, None]:
    batches = VideoBatches(dataset, batch, seed=0, workers=workers)
    batches.device = device
    container._scanned.clear()
    keys: list[Key] = [(place // len(dataset), place % len(dataset), 0) for place in range(count * batch)]
    yield from islice(batches.read([keys[i : i + batch] for i in range(0, len(keys), batch)]), count)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within: torch computes on one core, as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
