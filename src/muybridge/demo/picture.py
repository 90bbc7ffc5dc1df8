"""The demo's picture: frames of a few test videos and what the recognisers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from muybridge.demo.films import TWINS
from muybridge.engine.metrics import Evaluation
from muybridge.structures import Item, Sampling
from muybridge.video.decode import open_video
from muybridge.video.sampling import test_indices

SIDE, GAP, TEXT = 96, 4, 460  # pixels
INK, RIGHT, WRONG, PAPER = (38, 38, 44), (24, 120, 62), (188, 44, 40), (255, 255, 255)


def draw_answers(
    path: Path,
    items: Sequence[Item],
    labels: Sequence[str],
    evaluations: Mapping[str, Evaluation],
    sampling: Sampling,
    pairs: int = 4,
) -> None:
    """Write a picture: a row a video, its sampled frames, its class and every recogniser's answer.

    Args:
        path: of the PNG.
        items: the videos that the evaluations count.
        labels: class names.
        evaluations: recogniser -> its evaluation.
        sampling: which frames are shown.
        pairs: how many pairs of twins to show.
    """
    chosen = _one_of_each(items, labels, pairs)
    titles, small = ImageFont.load_default(17), ImageFont.load_default(15)
    width = sampling.frames * (SIDE + GAP) + TEXT
    sheet = Image.new("RGB", (width, len(chosen) * (SIDE + 3 * GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, index in enumerate(chosen):
        top = GAP + row * (SIDE + 3 * GAP)
        with open_video(items[index].path) as video:
            frames = video.read(test_indices(video.frame_count, sampling)[0])
        for column, frame in enumerate(frames):
            picture = Image.fromarray(np.ascontiguousarray(frame)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * (SIDE + GAP) + GAP, top))
        left = sampling.frames * (SIDE + GAP) + 4 * GAP
        pen.text((left, top + 4), labels[items[index].label], INK, titles)
        for line, (name, evaluation) in enumerate(evaluations.items()):
            found = (evaluation.indices == index).nonzero()
            if not len(found):
                continue
            answer = int(evaluation.scores[found[0, 0]].argmax())
            right = answer == items[index].label
            mark = "right" if right else "wrong"
            text = f"{name}: {labels[answer]} ({mark})"
            pen.text((left, top + 34 + 24 * line), text, RIGHT if right else WRONG, small)
    sheet.quantize(256).save(path, optimize=True)  # a third of the size, and nobody can tell


def _one_of_each(items: Sequence[Item], labels: Sequence[str], pairs: int) -> list[int]:
    """The first video of each class of the first pairs of twins, twins beside one another."""
    names = [name for name in labels if name in TWINS and name < TWINS[name] and TWINS[name] in labels][:pairs]
    wanted = [labels.index(name) for one in names for name in (one, TWINS[one])]
    first: dict[int, int] = {}
    for index, item in enumerate(items):
        first.setdefault(item.label, index)
    return [first[label] for label in wanted if label in first]
