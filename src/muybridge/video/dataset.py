"""Labelled videos as training samples: a sample depends on the seed and its key, and on nothing else.

Where the videos come from is told in `sources`, whose names can be imported from here as well.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
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
        frames: instead of `video`, where the transform is left to the reader: uint8 [n, H, W, 3], as decoded.
        draws: beside `frames`: where the draws of the transform come from; None: it has none.
    """

    index: int
    video: NotRequired[Tensor]
    label: NotRequired[int]
    error: NotRequired[str]
    frames: NotRequired[Tensor]
    draws: NotRequired[np.random.Generator | None]


class Batch(TypedDict):
    """Samples that could be decoded, stacked, and what became of the others.

    Attributes:
        video: as in `Sample`, batch first; None if no sample could be decoded, or `frames` are there instead.
        label: [B], class indices.
        index: [B], places in the data set.
        errors: place in the data set -> why it could not be decoded.
        frames: of B samples that are still to be transformed.
        draws: likewise.
    """

    video: Tensor | None
    label: Tensor
    index: Tensor
    errors: dict[int, str]
    frames: NotRequired[list[Tensor]]
    draws: NotRequired[list[np.random.Generator | None]]


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
        raw: samples have `frames` in place of `video`; `finish` makes the same of them, on whatever device.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sampling: Sampling,
        transform: Transform,
        training: bool,
        seed: int,
        source: SourceArgs | None = None,
        raw: bool = False,
    ) -> None:
        self.items = tuple(items)
        self.sampling = sampling
        self.transform = transform
        self.training = training
        self.seed = seed
        self.source = source or SourceArgs()
        self.raw = raw
        self.swapped = {label: other for pair in transform.swap_labels for label, other in (pair, pair[::-1])}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample:
        return self.sample(key)

    def sample(self, key: Key, file: bytes | VideoError | None = None) -> Sample:
        """The sample of a key.

        Args:
            key: as above.
            file: the bytes of the video's file if they have been read before, or why they could not be.
        """
        if not isinstance(key, tuple):
            key = (0, operator.index(key))
        epoch, index, view = key if len(key) == 3 else (*key, 0)
        item = self.items[index]
        try:
            if isinstance(file, VideoError):
                raise file
            frames, draws = self._read(item, (epoch, index, view), file)
        except VideoError as error:
            return {"error": str(error), "index": index}
        if self.raw:
            return {"frames": torch.from_numpy(frames), "draws": draws, "label": item.label, "index": index}
        video, label = self._transformed(frames, draws, item.label)
        return {"video": video, "label": label, "index": index}

    def finish(self, batch: Batch, device: torch.device | None = None) -> Batch:
        """What a batch of raw samples is when its frames are transformed; another batch is returned as it is.

        The draws are those that the samples have when they are not raw. On a CPU so is every bit; on a GPU, fractions
        are within rounding, and bytes that are resized within one grey level.

        Args:
            batch: of `collate`.
            device: where the frames are transformed and the video is to be; None: where the frames are.
        """
        if "frames" not in batch:
            return batch
        done = [
            # Fast: bytes are moved, a quarter of the fractions that are made of them.
            self._transformed(frames if device is None else frames.to(device, non_blocking=True), draws, label)
            for frames, draws, label in zip(batch["frames"], batch["draws"], batch["label"].tolist(), strict=True)
        ]
        return {
            "video": torch.stack([video for video, _ in done]),
            "label": torch.tensor([label for _, label in done], dtype=torch.long),
            "index": batch["index"],
            "errors": batch["errors"],
        }

    def _read(
        self, item: Item, place: tuple[int, int, int], file: bytes | None
    ) -> tuple[np.ndarray, np.random.Generator | None]:
        """The frames of a sample, uint8 [n, H, W, 3], and where the draws of its transform come from."""
        with open_item(item, self.source, file) as video:
            if self.training:
                draws = generator(self.seed, *place)
                return video.read(train_indices(video.frame_count, self.sampling, draws)), draws
            views = test_indices(video.frame_count, self.sampling)
            return video.read([index for view in views for index in view]), None

    def _transformed(
        self, frames: np.ndarray | Tensor, draws: np.random.Generator | None, label: int
    ) -> tuple[Tensor, int]:
        """The video of a sample, as `Sample` has it, and its label."""
        if draws is not None:
            video, mirrored = train_view(frames, self.transform, draws)
            return video, self.swapped.get(label, label) if mirrored else label
        single = self.sampling.views * self.sampling.crops == 1
        crops = test_video(frames, self.transform, self.sampling.crops, single)  # [crops, V * T, 3, h, w]
        return crops.reshape(-1, self.sampling.frames, *crops.shape[2:]), label


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the samples that could be decoded and gather the errors of the others."""
    good = [sample for sample in samples if "error" not in sample]
    raw = bool(good) and "frames" in good[0]
    batch: Batch = {
        "video": torch.stack([sample["video"] for sample in good]) if good and not raw else None,
        "label": torch.tensor([sample["label"] for sample in good], dtype=torch.long),
        "index": torch.tensor([sample["index"] for sample in good], dtype=torch.long),
        "errors": {sample["index"]: sample["error"] for sample in samples if "error" in sample},
    }
    if raw:
        batch["frames"] = [sample["frames"] for sample in good]
        batch["draws"] = [sample["draws"] for sample in good]
    return batch
