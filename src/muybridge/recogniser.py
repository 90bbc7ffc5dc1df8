"""Recogniser = method + transform + labels + sampling: what `muybridge.load` returns.

recogniser = muybridge.load("runs/x")
recogniser.predict("video.mp4")            # Predictions: opening something 99.8%, ...
recogniser.timeline("long.mp4", window=4)  # Timeline: 0:00.0 - 0:06.0 opening something, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.backbones.text import TextTower, Tokenizer, encode_labels
from muybridge.backbones.tokenizer import ClipTokenizer
from muybridge.backbones.weights import backbone_sha256, load_text
from muybridge.engine.answers import video_features
from muybridge.engine.checkpoint import MODEL, save_model
from muybridge.engine.device import pick_device
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.methods.base import Method, check_named, text_head
from muybridge.predicting.asking import ask, ask_windows, best_of, question_to
from muybridge.predicting.reading import Given, GivenVideos, as_item, check_given
from muybridge.predicting.results import Predictions
from muybridge.predicting.timeline import Timeline
from muybridge.published.assemble import Model, to_published
from muybridge.recipes.fields import to_dict
from muybridge.structures import ModelSpec, Sampling, SourceArgs
from muybridge.video.sampling import test_indices
from muybridge.video.transforms import test_video

if TYPE_CHECKING:
    from muybridge.explain import Explanation
    from muybridge.live.camera import Camera
    from muybridge.live.stream import Stream


class Recogniser:
    """A trained video recogniser: a path goes in, words come out.

    Attributes:
        method: the model as it predicts: merged, in evaluation mode.
        trained: the model as it was trained; the same object where merging changes nothing.
        spec: what it is: labels, sampling, transform, backbone.
        device: where it runs.
        text: the text tower that was loaded with the model, if it was.
        notes: what one should know about how it was loaded, sentences.
        source: the run folder or file that it was loaded from, if it was one of muybridge.
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
        self.source: Path | None = None
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
    def scores(self, video: Given) -> Tensor:
        """Probabilities of one video, mean over its test views.

        Args:
            video: a file; the bytes of one; or all frames of a video, a NumPy array or a tensor (on any device), uint8
                [T, H, W, 3], RGB.

        Returns:
            [K], fp32, on the CPU.

        Raises:
            VideoError: the file cannot be decoded.
            BadInput: frames of another shape or type; or the class names of a text head are still to be given.
        """
        check_named(self.method)
        logits = self.method(self._views(video)).logits
        return logits.float().softmax(dim=-1).mean(dim=0).cpu()

    @overload
    def predict(self, video: Given, top: int = 5) -> Predictions: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, video: Sequence[Given], top: int = 5, batch_size: int = 8) -> list[Predictions]: ...

    def predict(
        self, video: Given | Sequence[Given], top: int = 5, batch_size: int = 8
    ) -> Predictions | list[Predictions]:
        """The `top` best classes of one video, best first; or of each of several.

        Several are decoded by threads beside the model and computed in batches; one that cannot be read has its
        `error` in its place.

        Args:
            video: see `scores`; or a list of such.
            top: how many classes.
            batch_size: of a list: views that are computed at a time; all views of a video are, even if they are more.

        Returns:
            A sequence of `Prediction`s that prints, plots and turns into a dict; of a list a list of these.

        Raises:
            VideoError: the one file cannot be decoded.
            BadInput: as `scores`; a number is below 1.
        """
        question = question_to(self, top, batch_size)
        if isinstance(video, list | tuple):
            given = GivenVideos(video, self.spec)
            names = [str(one) if isinstance(one, str | Path) else "" for one in video]
            return [asked.answer for asked in ask(self, question, given.batches(question.videos), given.items, names)]
        one = check_given(video)
        name = str(one) if isinstance(one, str | Path) else ""
        return Predictions(best_of(self.scores(one), self.labels, top, name or "these frames"), name)

    def timeline(
        self,
        video: str | Path,
        window: float,
        step: float | None = None,
        top: int = 5,
        min_score: float = 0.0,
        *,
        batch_size: int = 8,
        source: SourceArgs | None = None,
        progress: Progress | None = None,
    ) -> Timeline:
        """What happens when in a long video: each window is answered as a video of its own.

        The file is decoded once, in order, by a thread beside the model; the memory does not grow with its length.

        Args:
            video: a file.
            window: length of a window in seconds: about as long as the videos that the model was trained on.
            step: from the start of one window to that of the next, in seconds; None: half a window.
            top: how many classes of each window are kept.
            min_score: a window whose best score is below counts as nothing.
            batch_size: views that are computed at a time.
            source: limits of what the file may cost, and the decoder.
            progress: told how far it is, in seconds of the video.

        Returns:
            Segments (start, end, label, score): neighbouring windows of the same best class are one.

        Raises:
            VideoError: the file cannot be decoded.
            BadInput: a number makes no sense; or the class names of a text head are still to be given.
        """
        question = question_to(self, top, batch_size, source)
        if not isinstance(video, str | Path):
            raise BadInput(
                f"a {type(video).__name__} came; expected a path: frames alone do not tell when they are shown."
            )
        return ask_windows(self, question, as_item(video), window, step, min_score, progress)[0]

    def features(self, video: Given) -> Tensor:
        """The vector of one video from which the head makes the classes, mean over the test views: an embedding.

        Args:
            video: see `scores`.

        Returns:
            [D], fp32, on the CPU.

        Raises:
            VideoError, BadInput: as `scores`.
        """
        # A tensor of inference mode could not be trained on; its copy can.
        return video_features(self.method, self._views(video)[None], self.device)[0].clone()

    def explain(
        self,
        video: str | Path | npt.NDArray[np.uint8] | Tensor,
        label: str | None = None,
        how: str = "auto",
        *,
        shown: str | None = None,
        importance: bool = True,
        source: SourceArgs | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Where the model looks in one video, and how much each frame matters (docs/explain.md).

        Args:
            video: a file, or all its frames [T, H, W, 3], uint8, RGB, as a NumPy array or a tensor.
            label: the class that is explained; None: the one that is recognised.
            how: `attention`: what the method's own parts looked at; `rollout`: the backbone's attention, followed back
                to the patches; `gradient`: what speaks for the class; `auto`: the first where there is one, else the
                last.
            shown: the map to show where there are several, such as one of each layer and head; None: their mean.
            importance: leave out each frame in turn, 2 T - 2 passes of the model.
            source: limits of what the file may cost, and the decoder.
            progress: told how far that is.

        Returns:
            Maps, frames and scores; `.sheet` is a picture, `.save(folder)` writes all of it and a film.

        Raises:
            VideoError: the file cannot be decoded.
            UnknownName: no such class, way or map; the closest are named.
            BadInput: this way cannot explain this method; or as `scores`.
        """
        from muybridge.explain import explain, passes

        check_named(self.method)
        progress = progress or Progress()
        progress.start("without each frame", passes(self.sampling.frames) if importance else 1)
        try:
            return explain(
                self.method,
                self.spec,
                video,
                device=self.device,
                label=label,
                how=how,
                shown=shown,
                importance=importance,
                reading=source,
                advance=progress.advance,
            )
        finally:
            progress.finish()

    def stream(
        self,
        frames: Iterable[npt.NDArray[np.uint8]] | Camera | str | Path | int,
        every: int = 1,
        *,
        top: int = 5,
        rate: float | None = None,
        fps: float | None = None,
        crops: int = 1,
    ) -> Stream:
        """What happens now: a prediction as soon as T frames are there, then one for every new frame of the window.

        The window is T frames at a fixed distance. Where the model was trained on every so-many-th frame (rules
        `stride` and `dense`) it is that many frames; where it was trained on frames spread over whole videos the window
        shows 2 s; `rate` says otherwise. A model whose image transformer reads each frame by itself (`evl`, `dist`,
        `probe`) encodes each new frame once; others compute every window anew, and the stream's `notes` say so.

        Args:
            frames: an iterable of frames [H, W, 3], uint8 RGB, of which none is left out; or a source: a camera (0,
                `/dev/video0`), an address (`rtsp://`, `http://`) or a file, which is played at its own pace. A source
                is read on a thread of its own, and frames are left out where the model is slower (docs/live.md).
            every: a prediction for every so-many-th new frame of the window.
            top: how many classes a prediction names.
            rate: frames a second of the window.
            fps: frames a second of an iterable; without it every frame given counts (of `stride` every so-many-th).
            crops: 1: the centre of the picture; 3: the mean of three places, at three times the price.

        Returns:
            An iterator of `Moment`s, and a context manager that lets the source go.

        Raises:
            VideoError: the source cannot be opened, or is lost in vain; raised by the iterator too.
            BadInput: a number that cannot be used, an unknown kind of source, something that is no frame; or the class
                names of a text head are still to be given.
        """
        from muybridge.live.opening import open_stream

        check_named(self.method)
        return open_stream(self.method, self.spec, self.device, frames, every, top=top, rate=rate, fps=fps, crops=crops)

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

    def save_pretrained(
        self, folder: str | Path, licence: str = "", repo: str = "", slim: bool = False, text: bool = False
    ) -> Path:
        """Write a folder for others: the model, its recipe and figures if they are known, and a card (README.md).

        Args:
            folder: made if it is not there.
            licence: of the trained weights, by the hub's names such as `apache-2.0`; empty: unknown, as the card says.
            repo: what it will be called on the hub, for the card's examples.
            slim, text: as `save`.

        Raises:
            BadInput: the folder has one of these files already.
        """
        from muybridge.hub.publish import save_pretrained

        return save_pretrained(self, folder, repo, licence, slim, text)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        revision: str | None = None,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
    ) -> Recogniser:
        """A recogniser from a folder that `save_pretrained` wrote, or from the hub; `muybridge.load` with a token.

        Args:
            source: a folder or file on this machine, else a model on the hub, `org/name`.
            revision: of the latter: a branch, a tag or a commit.
            token: of the hub; None: the one of this machine, if it is logged in.
            device: as in `muybridge.load`.

        Raises:
            MuybridgeError: as `muybridge.load`.
        """
        import muybridge
        from muybridge.hub.fetch import fetch, hub_name

        found = hub_name(source)
        return muybridge.load(fetch(found[0], revision or found[1], token) if found else source, device)

    def push_to_hub(
        self,
        repo: str,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        licence: str = "",
        slim: bool = False,
        text: bool = False,
        message: str = "Model from muybridge",
    ) -> str:
        """Write what `save_pretrained` writes to the Hugging Face hub.

        The repository is made if it is not there. A card that is there stays; older models are in its history.

        Args:
            repo: `org/name`.
            private: whether others cannot see it, if it is made; None: as the organisation has it.
            token: of the hub; None: the one of this machine, if it is logged in.
            revision: a branch, made if it is not there; None: `main`.
            licence, slim, text: as `save_pretrained`.
            message: of the commit.

        Returns:
            The address of the commit.

        Raises:
            BadInput: `repo` is no such name; nobody is logged in, or may not write there.
            MuybridgeError: the hub cannot be reached.
        """
        from muybridge.hub.publish import push_to_hub

        return push_to_hub(self, repo, private, token, revision, licence, slim, text, message)

    def _views(self, video: Given) -> Tensor:
        """The test views of a video, normalised: [V * crops, T, 3, h, w], on the device."""
        video = check_given(video)
        crops, single = self.sampling.crops, self.sampling.views * self.sampling.crops == 1
        if isinstance(video, str | Path | bytes):
            from muybridge.video.decode import open_video

            with open_video(video) as opened:
                views = test_indices(opened.frame_count, self.sampling)
                read = opened.read([index for view in views for index in view])
            frames = list(read.reshape(len(views), self.sampling.frames, *read.shape[1:]))
        else:
            frames = [video[view] for view in test_indices(len(video), self.sampling)]
        return torch.cat([test_video(view, self.spec.transform, crops, single) for view in frames]).to(self.device)


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    names = tuple(labels)
    if isinstance(labels, str) or len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"labels are {', '.join(names) or 'empty'}; expected at least 2 different names.")
    return names
