"""What a model says of videos without labels: a row each, in one process, whatever becomes of single files.

A file that cannot be read gives a row with the reason. One that crashes the decoder, or never comes back from it, ends
only the process that was reading it (`read_apart`), and gives such a row too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from muybridge.engine.batches import Batch, Key, VideoBatches
from muybridge.engine.evaluate import view_scores
from muybridge.errors import BadInput, VideoError
from muybridge.methods.base import Method, check_named
from muybridge.structures import Item, ModelSpec, SourceArgs
from muybridge.video.dataset import Sample, VideoDataset, collate

Answer = dict[str, Any]
ERROR, FEATURE = "error", "feature"


@dataclass(frozen=True)
class Question:
    """What is asked of every video. It can be pickled: a worker on another machine needs nothing else.

    Attributes:
        method: the model, in evaluation mode.
        spec: its labels, sampling and transform.
        top: how many classes are told of a video.
        features: its feature is told in their place.
        batch_size: views that are computed at a time; all views of a video are, even if they are more.
        source: decoder and limits.
    """

    method: Method
    spec: ModelSpec
    top: int = 5
    features: bool = False
    batch_size: int = 8
    source: SourceArgs = field(default_factory=SourceArgs)

    def __post_init__(self) -> None:
        if self.top < 1 or self.batch_size < 1:
            raise BadInput(f"top is {self.top} and batch_size {self.batch_size}; expected at least 1.")
        if self.features:
            head_of(self.method)
            return
        check_named(self.method)

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of an answer: `feature`, or `label_1`, `score_1`, `label_2`, ..."""
        if self.features:
            return (FEATURE,)
        count = min(self.top, len(self.spec.labels))
        return tuple(f"{name}_{place}" for place in range(1, count + 1) for name in ("label", "score"))

    @property
    def videos(self) -> int:
        """How many videos make a batch."""
        return max(self.batch_size // (self.spec.sampling.views * self.spec.sampling.crops), 1)

    def dataset(self, items: Sequence[Item]) -> VideoDataset:
        """These videos as the model reads them."""
        return VideoDataset(items, self.spec.sampling, self.spec.transform, False, 0, self.source)

    def batches(self, positions: Sequence[int]) -> list[list[int]]:
        """Positions of videos in batches."""
        return [list(positions[i : i + self.videos]) for i in range(0, len(positions), self.videos)]

    def answer(self, batch: Batch, items: Sequence[Item], device: torch.device) -> dict[int, Answer]:
        """The answers to a batch, by the positions of its videos; of an unreadable one `{"error": why}`.

        Args:
            batch: video [B, V, T, 3, H, W].
            items: the videos that its positions count.
            device: where the method is.

        Raises:
            BadInput: the model's answers are not numbers.
        """
        answers: dict[int, Answer] = {i: {ERROR: reason_of(items[i], text)} for i, text in batch.errors.items()}
        if batch.inputs is None:
            return answers
        assert isinstance(batch.inputs, Tensor)
        tell = video_features if self.features else view_scores
        values = tell(self.method, batch.inputs, device)
        positions = batch.indices.tolist()
        broken = ~values.isfinite().all(dim=1)
        if broken.any():
            first = items[positions[int(broken.nonzero()[0])]].name
            raise BadInput(f"The model's answer to {first} is no number; its weights are damaged or of another model.")
        for position, row in zip(positions, values, strict=True):
            answers[position] = {FEATURE: row.numpy()} if self.features else self._best(row)
        return answers

    def _best(self, scores: Tensor) -> Answer:
        best = scores.topk(min(self.top, len(self.spec.labels)))
        told: Answer = {}
        for place, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), start=1):
            told |= {f"label_{place}": self.spec.labels[index], f"score_{place}": score}
        return told


@torch.inference_mode()
def video_features(method: Method, inputs: Tensor, device: torch.device) -> Tensor:
    """The vector of each video from which the model's head tells the classes, mean over the test views.

    Args:
        method: in evaluation mode.
        inputs: video [B, V, T, 3, H, W].
        device: where the method is.

    Returns:
        [B, D], fp32, on the CPU. D is the width of the backbone, of its projection for most models with a text head.

    Raises:
        BadInput: the method has no head.
    """
    read: list[Tensor] = []
    # Every method hands its head one vector a video; none has a name for it.
    handle = head_of(method).register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        video = inputs.to(device)
        method(video.flatten(0, 1))
    finally:
        handle.remove()
    return read[0].float().unflatten(0, video.shape[:2]).mean(dim=1).cpu()


def head_of(method: Method) -> nn.Module:
    """The part of a method that makes classes of a vector. Raises BadInput: it has none."""
    head = getattr(method, "head", None)
    if not isinstance(head, nn.Module):
        raise BadInput(f"{type(method).__name__} has no head, so it tells no feature of a video.")
    return head


def read_ahead(
    dataset: VideoDataset, batches: Sequence[Sequence[int]], pool: ThreadPoolExecutor, patience: float = 0.0
) -> Iterator[Batch]:
    """The batches of these positions, in order, decoded by threads of this process, one batch ahead.

    A file that crashes the decoder ends this process; so does one that is waited for longer than `patience` seconds,
    if that is not 0.
    """
    coming: list[list[Future[Sample]]] = []
    for number in range(len(batches) + 1):
        if number < len(batches):
            coming.append([pool.submit(dataset.__getitem__, position) for position in batches[number]])
        if number:
            samples = collate([_awaited(future, patience) for future in coming.pop(0)])
            yield Batch(samples["video"], samples["label"], samples["index"], samples["errors"])


def _awaited(future: Future[Sample], patience: float) -> Sample:
    if not patience or not hasattr(signal, "setitimer"):
        return future.result()
    # The system's clock ends the process, also within C code that does not come back.
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        return future.result()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def read_apart(dataset: VideoDataset, batches: Sequence[Sequence[int]], workers: int) -> Iterator[Batch]:
    """As `read_ahead`, decoded by processes; a file that ends one is an error of the file, and the others are read on.

    Args:
        dataset: the videos.
        batches: positions.
        workers: processes; 0: this one, which such a file ends.

    Raises:
        BadInput: a process ended while it was not reading.
    """
    waiting = [list(batch) for batch in batches]
    while waiting:
        keys: list[list[Key]] = [[(0, position, 0) for position in batch] for batch in waiting]
        try:
            for batch in VideoBatches(dataset, 1, workers=workers).read(keys):
                del waiting[0]
                yield batch
        except VideoError as error:
            position = _position(error, dataset.items, waiting)
            if position is None:
                raise
            waiting = [rest for batch in waiting if (rest := [place for place in batch if place != position])]
            nothing = torch.zeros(0, dtype=torch.long)
            yield Batch(None, nothing, nothing, {position: str(error)})


def _position(error: VideoError, items: Sequence[Item], waiting: Sequence[Sequence[int]]) -> int | None:
    """Which of the waiting videos the error is of."""
    for batch in waiting:
        for position in batch:
            item = items[position]
            if error.path in (item.path, f"{item.path} ({item.name})"):
                return position
    return None


def reason_of(item: Item, sentence: str) -> str:
    """Why a video cannot be read, without its name: that stands beside it."""
    for name in (f"{item.path} ({item.name})", item.path, item.name):
        if name and sentence.startswith(f"{name}: "):
            return sentence.removeprefix(f"{name}: ")
    return sentence.removeprefix("video: ")  # the bytes of a file
