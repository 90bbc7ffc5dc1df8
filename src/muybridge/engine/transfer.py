"""Batches on their way from the loader to the device: what is still to be transformed there, and a batch ahead.

On a GPU the next batch is moved, and transformed if that was left to the device, on a stream of its own while the one
before is trained on. Only its frames as bytes cross the bus then.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from muybridge.video.dataset import Batch as Samples
from muybridge.video.dataset import VideoDataset


def finished(batches: Iterator[Samples], dataset: VideoDataset, device: torch.device | None) -> Iterator[Samples]:
    """Batches of the loader as a step reads them.

    Args:
        batches: of the loader; what they raise is raised when their batch is due.
        dataset: that they are of.
        device: where the step will be; None: that is not known, and batches stay where they are.
    """
    if device is None or device.type != "cuda":
        for batch in batches:
            yield dataset.finish(batch, device) if "frames" in batch else batch
        return
    yield from _ahead(batches, dataset, device)


def _ahead(batches: Iterator[Samples], dataset: VideoDataset, device: torch.device) -> Iterator[Samples]:
    stream = torch.cuda.Stream(device)
    before: tuple[Samples, torch.cuda.Event] | None = None
    error: Exception | None = None
    while error is None:
        coming = None
        try:
            batch = next(batches)
            with torch.cuda.stream(stream):
                coming = _moved(batch, dataset, device), stream.record_event()
        except Exception as found:  # StopIteration too: first comes what was there before
            error = found
        if before is not None:
            yield _received(*before, device)
        before = coming
    if not isinstance(error, StopIteration):
        raise error


def _moved(batch: Samples, dataset: VideoDataset, device: torch.device) -> Samples:
    if "frames" in batch:
        return dataset.finish(batch, device)
    if batch["video"] is not None:
        batch["video"] = batch["video"].to(device, non_blocking=True)
    return batch


def _received(batch: Samples, ready: torch.cuda.Event, device: torch.device) -> Samples:
    """A batch of the other stream, for use on the current one."""
    current = torch.cuda.current_stream(device)
    current.wait_event(ready)
    if batch["video"] is not None:
        batch["video"].record_stream(current)
    return batch
