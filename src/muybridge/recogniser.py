"""Recogniser = method + transform + labels + sampling: what `muybridge.load` returns.

recogniser = muybridge.load("runs/x")
recogniser.predict("video.mp4")            # [Prediction(label='opening something', ...), ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.backbones.text import TextTower, Tokenizer, encode_labels
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.backbones.weights import backbone_sha256, load_text
from muybridge.engine.checkpoint import MODEL, save_model
from muybridge.engine.device import pick_device
from muybridge.errors import BadInput, shape_text
from muybridge.methods.base import Method, text_head
from muybridge.published.assemble import Model, to_published
from muybridge.recipes.fields import to_dict
from muybridge.structures import ModelSpec, Prediction, Sampling
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_video

Frames = npt.NDArray[np.uint8]


class Recogniser:
    """A trained video recogniser: a path goes in, words come out.

    Attributes:
        method: the model as it predicts: merged, in evaluation mode.
        trained: the model as it was trained; the same object where merging changes nothing.
        spec: what it is: labels, sampling, transform, backbone.
        device: where it runs.
        text: the text tower that was loaded with the model, if it was.
        notes: what one should know about how it was loaded, sentences.
    """

    def __init__(
        self,
        method: Method,
        spec: ModelSpec,
        device: torch.device | str = "cpu",
        text: TextTower | None = None,
        model: Model | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.device = pick_device(device)
        self.trained = method
        self.method = method.merged().to(self.device).eval()
        self.text = text
        self.notes = tuple(notes)
        self._model = model or Model(spec.method, method, text)

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
            BadInput: an array of another shape or type; or the class names of a text head are still to be given.
        """
        head = text_head(self.method)
        if head is not None and not head.features.any():
            raise BadInput("This model compares videos with class names and has none yet: give them with labels=...")
        frames = self._read(video)  # [V, T, H, W, 3]
        crops, single = self.sampling.crops, self.sampling.views * self.sampling.crops == 1
        views = [test_video(view, self.spec.transform, crops, single) for view in frames]
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

    def relabel(self, labels: Sequence[str], weights: str | Path | None = None) -> None:
        """Recognise other classes, by their names alone: an open vocabulary, for models with a text head.

        Args:
            labels: class names, as words.
            weights: a file with the text tower, where the model was saved without it; by default it is fetched.

        Raises:
            BadInput: this model has a linear head, fewer than 2 names, or a name twice.
        """
        labels = _distinct(labels)
        if text_head(self.trained) is None:
            raise BadInput(
                f"This model has a linear head for its {len(self.labels)} classes; "
                "other class names need a model with a text head."
            )
        self.use_label_features(self._encode(labels, weights), labels)

    def use_label_features(self, features: Tensor, labels: Sequence[str]) -> None:
        """As `relabel`, with features [K, E] of the class names that were computed elsewhere."""
        labels = _distinct(labels)
        if not torch.isfinite(features).all() or not features.any(dim=-1).all():
            raise BadInput("Label features must be finite and none of them zero.")
        if len(labels) != len(features):
            raise BadInput(f"{len(labels)} labels for {len(features)} label features; expected as many.")
        for method in {id(method): method for method in (self.trained, self.method)}.values():
            method.relabel(features)
        self.spec = replace(self.spec, labels=labels)

    def _encode(self, labels: Sequence[str], weights: str | Path | None) -> Tensor:
        tokenizer: Tokenizer
        if self.text is not None:
            tower, tokenizer = self.text, ClipTokenizer(self.text.config.context)
            if tower.config.vocabulary != ClipTokenizer.end + 1:
                raise BadInput(
                    f"This text tower knows {tower.config.vocabulary} words of a tokenizer that is not CLIP's; "
                    "give features of the class names with use_label_features."
                )
        elif self.spec.backbone == "custom" and weights is None:
            raise BadInput("This model was saved without its text tower; give a file that has it with weights=...")
        else:
            tower, tokenizer = load_text(self.spec.backbone if self.spec.backbone != "custom" else None, weights)
        return encode_labels(tower, tokenizer, labels, normalised=False)

    def adapted(self, frames: int | None = None, image_size: tuple[int, int] | None = None) -> Recogniser:
        """The same model for another number of frames or another image size; tables are interpolated.

        Args:
            frames: T; None: as it is.
            image_size: (height, width) in pixels; None: as it is.

        Raises:
            BadInput: the method cannot be taken there.
        """
        frames, size = frames or self.sampling.frames, image_size or self.spec.transform.size
        method = self.trained.adapted(frames, size)
        spec = replace(
            self.spec,
            sampling=replace(self.sampling, frames=frames),
            transform=replace(self.spec.transform, size=size),
            backbone_config=to_dict(method.backbone.config),
            backbone_sha256=backbone_sha256(method.backbone),
        )
        return Recogniser(method, spec, self.device, self.text, replace(self._model, method=method), self.notes)

    def to_published(self) -> dict[str, Tensor]:
        """The state dict in the format of the paper's authors, bit for bit as it was read; see `published`."""
        return to_published(self._model)

    def save(self, folder: str | Path, slim: bool = False, text: bool = False) -> Path:
        """Write `model.safetensors` into a folder, so that `muybridge.load(folder)` gives this recogniser.

        Args:
            folder: made if it is not there.
            slim: leave a frozen backbone out; loading then fetches it and verifies its SHA-256.
            text: keep the text tower too, where there is one.

        Raises:
            BadInput: the folder holds a model already.
        """
        file = Path(folder) / MODEL
        if file.exists():
            raise BadInput(f"{file} exists already; nothing is written over. Give another folder.")
        save_model(file, self.trained, self.spec, slim, self.text if text else None)
        return file

    def _read(self, video: str | Path | Frames) -> list[Frames]:
        if isinstance(video, np.ndarray):
            if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
                raise BadInput(f"frames are {video.dtype} {shape_text(video.shape)}; expected uint8 [T, H, W, 3], RGB.")
            return [video[view] for view in test_indices(len(video), self.sampling)]
        from muybridge.video.decode import open_video

        with open_video(video) as opened:
            views = test_indices(opened.frame_count, self.sampling)
            frames = opened.read([index for view in views for index in view])
        return list(frames.reshape(len(views), self.sampling.frames, *frames.shape[1:]))


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    names = tuple(labels)
    if isinstance(labels, str) or len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"labels are {', '.join(names) or 'empty'}; expected at least 2 different names.")
    return names
