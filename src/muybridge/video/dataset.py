"""Labelled videos as training samples: a sample depends on the seed and its key, and on nothing else.

Where the videos come from is told in `sources`, whose names can be imported from here as well.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from muybridge.errors import VideoError
from muybridge.structures import Item, Sampling, SourceArgs, Transform
from muybridge.video.opening import open_item
from muybridge.video.sampling import generator, test_indices, train_indices
from muybridge.video.sources import Source, read_items, read_source, read_split, split_rows, write_split
from muybridge.video.transforms import test_video, train_view

__all__ = [
    "Batch",
    "Sample",
    "Source",
    "VideoDataset",
    "collate",
    "read_items",
    "read_source",
    "read_split",
    "split_rows",
    "write_split",
]

Key = int | tuple[int, int] | tuple[int, int, int]


class Sample(TypedDict):
    """One video, or the sentence that says why it cannot be decoded.

    Attributes:
        index: its place in the data set.
        video: float32 [T, 3, h, w] in training; [crops * V, T, 3, h, w] otherwise, all temporal views of the first
            spatial crop first (the order of the published EVL).
        label: class index; of a mirrored video the one that `transform.swap_labels` exchanges it for.
        error: instead of `video` and `label`.
    """

    index: int
    video: NotRequired[Tensor]
    label: NotRequired[int]
    error: NotRequired[str]


class Batch(TypedDict):
    """Samples that could be decoded, stacked, and what became of the others.

    Attributes:
        video: as in `Sample`, batch first; None if no sample could be decoded.
        label: [B], class indices.
        index: [B], places in the data set.
        errors: place in the data set -> why it could not be decoded.
    """

    video: Tensor | None
    label: Tensor
    index: Tensor
    errors: dict[int, str]


class VideoDataset(Dataset[Sample]):
    """Videos that are decoded, sampled and transformed when they are asked for.

    A key is (epoch, index, view); the epoch and the view may be left out and are then 0. They decide the random draws
    of training and nothing else: another view is another look at the same video.

    Args:
        items: the videos.
        sampling: which frames and crops.
        transform: how they become tensors.
        training: one view with random draws, or all views at test time.
        seed: of all draws.
        source: how the files are read: decoder and limits.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sampling: Sampling,
        transform: Transform,
        training: bool,
        seed: int,
        source: SourceArgs | None = None,
    ) -> None:
        self.items = tuple(items)
        self.sampling = sampling
        self.transform = transform
        self.training = training
        self.seed = seed
        self.source = source or SourceArgs()
        self.swapped = {label: other for pair in transform.swap_labels for label, other in (pair, pair[::-1])}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample:
        if not isinstance(key, tuple):
            key = (0, operator.index(key))
        epoch, index, view = key if len(key) == 3 else (*key, 0)
        item = self.items[index]
        label = item.label
        try:
            if self.training:
                video, mirrored = self._train(item, epoch, index, view)
                label = self.swapped.get(label, label) if mirrored else label
            else:
                video = self._test(item)
        except VideoError as error:
            return {"error": str(error), "index": index}
        return {"video": video, "label": label, "index": index}

    def _train(self, item: Item, epoch: int, index: int, view: int) -> tuple[Tensor, bool]:
        rng = generator(self.seed, epoch, index, view)
        with open_item(item, self.source) as video:
            frames = video.read(train_indices(video.frame_count, self.sampling, rng))
        return train_view(frames, self.transform, rng)

    def _test(self, item: Item) -> Tensor:
        with open_item(item, self.source) as video:
            views = test_indices(video.frame_count, self.sampling)
            frames = video.read([index for view in views for index in view])
        single = self.sampling.views * self.sampling.crops == 1
        crops = test_video(frames, self.transform, self.sampling.crops, single)  # [crops, V * T, 3, h, w]
        return crops.reshape(-1, self.sampling.frames, *crops.shape[2:])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the samples that could be decoded and gather the errors of the others."""
    good = [sample for sample in samples if "video" in sample]
    return {
        "video": torch.stack([sample["video"] for sample in good]) if good else None,
        "label": torch.tensor([sample["label"] for sample in good], dtype=torch.long),
        "index": torch.tensor([sample["index"] for sample in good], dtype=torch.long),
        "errors": {sample["index"]: sample["error"] for sample in samples if "error" in sample},
    }
