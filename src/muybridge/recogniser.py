"""Recogniser = method + transform + labels + sampling: what `muybridge.load` returns.

recogniser = muybridge.load("runs/x")
recogniser.predict("video.mp4")            # [Prediction(label='opening something', ...), ...]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.engine.checkpoint import MODEL, load_model, save_model
from muybridge.engine.device import pick_device
from muybridge.errors import BadInput, shape_text
from muybridge.methods.base import Method
from muybridge.structures import ModelSpec, Prediction, Sampling
from muybridge.video.decode import open_video
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_video

Frames = npt.NDArray[np.uint8]


class Recogniser:
    """A trained video recogniser: a path goes in, words come out.

    Attributes:
        method: the model, merged, in evaluation mode.
        spec: what it is: labels, sampling, transform, backbone.
        device: where it runs.
    """

    def __init__(self, method: Method, spec: ModelSpec, device: torch.device | str = "cpu") -> None:
        self.spec = spec
        self.device = pick_device(device)
        self._as_trained = method
        self.method = method.merged().to(self.device).eval()

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.spec.labels

    @property
    def sampling(self) -> Sampling:
        """Which frames are looked at."""
        return self.spec.sampling

    @torch.inference_mode()
    def scores(self, video: str | Path | Frames) -> Tensor:
        """Probabilities of one video, mean over its test views.

        Args:
            video: a file, or frames [T, H, W, 3], uint8 RGB, of a whole video.

        Returns:
            [K], fp32, on the CPU.

        Raises:
            VideoError: the file cannot be decoded.
            BadInput: an array of another shape or type.
        """
        frames = self._read(video)  # [V, T, H, W, 3]
        views = [test_video(view, self.spec.transform, self.sampling.crops) for view in frames]
        logits = self.method(torch.cat(views).to(self.device)).logits
        return logits.float().softmax(dim=-1).mean(dim=0).cpu()

    def predict(self, video: str | Path | Frames, top: int = 5) -> list[Prediction]:
        """The `top` best classes of one video, best first; see `scores`."""
        if top < 1:
            raise BadInput(f"top is {top}; expected at least 1.")
        best = self.scores(video).topk(min(top, len(self.labels)))
        return [
            Prediction(self.labels[index], index, score)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def save(self, folder: str | Path, slim: bool = False) -> Path:
        """Write `model.safetensors` into a folder, so that `muybridge.load(folder)` gives this recogniser.

        Args:
            folder: made if it is not there.
            slim: leave a frozen backbone out; loading then fetches it and verifies its SHA-256.

        Raises:
            BadInput: the folder holds a model already.
        """
        file = Path(folder) / MODEL
        if file.exists():
            raise BadInput(f"{file} exists already; nothing is written over. Give another folder.")
        save_model(file, self._as_trained, self.spec, slim)
        return file

    def _read(self, video: str | Path | Frames) -> list[Frames]:
        if isinstance(video, np.ndarray):
            if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
                raise BadInput(f"frames are {video.dtype} {shape_text(video.shape)}; expected uint8 [T, H, W, 3], RGB.")
            return [video[view] for view in test_indices(len(video), self.sampling)]
        with open_video(video) as opened:
            views = test_indices(opened.frame_count, self.sampling)
            frames = opened.read([index for view in views for index in view])
        return list(frames.reshape(len(views), self.sampling.frames, *frames.shape[1:]))


def load(path: str | Path, device: torch.device | str | None = None, weights: str | Path | None = None) -> Recogniser:
    """A recogniser from a run folder or its `model.safetensors`.

    Args:
        path: the folder or the file.
        device: where it shall run; None: CUDA if there is one, else the CPU.
        weights: file of the backbone's weights, for a model saved without them (`slim`).

    Raises:
        MissingFile: there is no model at `path`.
        CheckpointError: the file is damaged or not a model of muybridge.
    """
    method, spec = load_model(path, weights)
    return Recogniser(method, spec, pick_device(device))
