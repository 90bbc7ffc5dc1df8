"""Asking a model about videos: in batches across files, in order, and window by window through a long one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.engine.answers import Question, head_of, reason_of
from muybridge.engine.batches import Batch
from muybridge.engine.evaluate import Model, view_scores
from muybridge.engine.progress import Progress
from muybridge.errors import BadInput
from muybridge.predicting.reading import in_background, open_given, read_windows, window_indices
from muybridge.predicting.results import Predictions
from muybridge.predicting.timeline import Timeline, Window, check_score, merge, plan_windows
from muybridge.predicting.walk import LOOKED_AT, Walk, sharing_pays
from muybridge.structures import Item, Prediction, SourceArgs


class Asked(NamedTuple):
    """What came of one video.

    Attributes:
        position: among those asked.
        answer: its classes, or why it could not be read.
        feature: [D], fp32, on the CPU: what the head makes the classes of; None: not asked, or not read.
    """

    position: int
    answer: Predictions
    feature: Tensor | None


def ask(
    model: Model,
    question: Question,
    batches: Iterable[Batch],
    items: Sequence[Item],
    names: Sequence[str],
    features: bool = False,
) -> Iterator[Asked]:
    """The answers to all videos, in order, as soon as they are known.

    Args:
        model: from `muybridge.load`.
        question: `top`.
        batches: of `items`, in any order.
        items: the videos.
        names: what to call them.
        features: tell the features too.

    Raises:
        BadInput: the model's answers are not numbers.
    """
    waiting: dict[int, Asked] = {}
    following = 0
    for batch in batches:
        for position, sentence in batch.errors.items():
            reason = reason_of(items[position], sentence)
            waiting[position] = Asked(position, Predictions((), names[position], reason), None)
        if batch.inputs is not None:
            assert isinstance(batch.inputs, Tensor)
            scores, vectors = _answer(model, batch.inputs, features)
            for row, position in enumerate(batch.indices.tolist()):
                best = best_of(scores[row], model.spec.labels, question.top, names[position])
                waiting[position] = Asked(
                    position, Predictions(best, names[position]), None if vectors is None else vectors[row]
                )
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def ask_windows(
    model: Model,
    question: Question,
    item: Item,
    window: float,
    step: float | None = None,
    min_score: float = 0.0,
    progress: Progress | None = None,
    features: bool = False,
    name: str = "",
) -> tuple[Timeline, Tensor | None]:
    """A timeline of one video; a thread decodes while the model computes. See `Recogniser.timeline`.

    Args:
        model: from `muybridge.load`.
        question: `top`, `batch_size` and the limits of the file.
        item: the video.
        window: length of a window in seconds.
        step: from the start of one to that of the next, in seconds; None: half a window.
        min_score: a window whose best score is below counts as nothing.
        progress: told of every batch, in seconds of the video.
        features: tell the features of the windows too.
        name: what to call the video; by default its path.

    Returns:
        The timeline, and [W, D] or None.

    Raises:
        VideoError: the file cannot be decoded.
        BadInput: a length or `min_score` makes no sense, or the model's answers are not numbers.
    """
    progress, step = progress or Progress(), window / 2 if step is None else step
    called = name or item.path
    check_score(min_score)
    plan_windows(0.0, window, step)  # refuses before anything is opened
    answered: list[Window] = []
    vectors: list[Tensor] = []
    with open_given(item, question.source) as video:
        times = video.seconds()
        # The last frame is seen for as long as one is on average.
        duration = max(video.duration, float(times[-1]))
        plan = plan_windows(duration, window, step)
        walk = _walk(model, times, plan)
        progress.start("seconds of video", round(duration))
        told = 0.0
        try:
            read = in_background(
                lambda: _groups(read_windows(video, plan, model.spec.sampling, model.spec.transform), question.videos)
            )
            with closing(read):  # the thread ends before the file is closed, whatever happens here
                for views in read:
                    if walk is None:
                        answers = [_answer(model, torch.stack(views), features)]
                    else:
                        answers = [_answer(model, one[None], features, walk) for one in views]
                    vectors += [vector for _, vector in answers if vector is not None]
                    for row in torch.cat([scores for scores, _ in answers]):
                        start, end = plan[len(answered)]
                        what = f"{called} from {start:g} s on"
                        answered.append(Window(start, end, best_of(row, model.spec.labels, question.top, what)))
                    progress.advance(answered[-1].end - told)
                    told = answered[-1].end
        finally:
            progress.finish()
    line = Timeline(called, duration, window, step, min_score, tuple(answered), merge(answered, min_score))
    return line, torch.cat(vectors) if vectors else None


def question_to(model: Model, top: int = 5, batch_size: int = 8, source: SourceArgs | None = None) -> Question:
    """What is asked. Raises BadInput: a number below 1; or the class names of a text head are still to be given."""
    return Question(model.method, model.spec, top, batch_size=batch_size, source=source or SourceArgs())


def best_of(scores: Tensor, labels: Sequence[str], top: int, name: str = "the video") -> tuple[Prediction, ...]:
    """The `top` best of scores [K], best first. Raises BadInput: they are not numbers."""
    if not scores.isfinite().all():
        raise BadInput(f"The model's answer to {name} is no number; its weights are damaged or of another model.")
    best = scores.topk(min(top, len(labels)))
    return tuple(
        Prediction(labels[index], index, score)
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )


def _walk(model: Model, times: npt.NDArray[np.float64], plan: Sequence[tuple[float, float]]) -> Walk | None:
    """What encodes the frames once that windows share; None: windows in batches are as quick."""
    sampling = model.spec.sampling
    indices = ([index for view in window_indices(times, *one, sampling) for index in view] for one in plan)
    first = list(islice(indices, LOOKED_AT))
    if sampling.views > 1 or not sharing_pays(model.method, model.device, first):
        return None
    return Walk(model.method, chain(first, indices))


def _answer(model: Model, video: Tensor, features: bool, walk: Walk | None = None) -> tuple[Tensor, Tensor | None]:
    """Scores [B, K] of video [B, V, T, 3, H, W], and features [B, D] if they are asked for; mean over the views.

    Args:
        walk: B is 1, the video its next window; None: the method as it is.
    """

    def told() -> Tensor:
        if walk is None:
            return view_scores(model.method, video, model.device)
        with torch.inference_mode():
            logits = walk.forward(video[0].to(model.device)).logits
        return logits.float().softmax(dim=-1).mean(dim=0, keepdim=True).cpu()

    if not features:
        return told(), None
    read: list[Tensor] = []
    # As `engine.answers.video_features`, with the scores from the same pass.
    handle = head_of(model.method).register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        scores = told()
    finally:
        handle.remove()
    # A tensor of inference mode could not be trained on; its copy can.
    return scores, read[0].float().unflatten(0, video.shape[:2]).mean(dim=1).cpu().clone()


def _groups(things: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    group: list[Tensor] = []
    for one in things:
        group.append(one)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
