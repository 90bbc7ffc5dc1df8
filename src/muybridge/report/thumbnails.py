"""Strips of frames of the videos whose answers are shown, small enough to lie within the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from muybridge.errors import MuybridgeError
from muybridge.report.charts import data_address
from muybridge.report.facts import Answer, Result, RunFacts
from muybridge.structures import Item, SourceArgs
from muybridge.video.sources import read_part

FRAMES, SIDE, QUALITY = 4, 96, 72  # frames of a strip, height of a frame in pixels, of JPEG


@dataclass(frozen=True)
class Shown:
    """An answer with its picture.

    Attributes:
        answer: what was said of which video.
        picture: a strip of frames as an address within the page; empty: it cannot be read.
        link: where the file is, relative to the page; empty: it is no file of its own.
    """

    answer: Answer
    picture: str = ""
    link: str = ""


def best_and_worst(answers: Sequence[Answer], count: int) -> tuple[list[Answer], list[Answer]]:
    """The most certain right answers and the most certain wrong ones; of one class as few as possible.

    Args:
        answers: of an evaluation.
        count: how many of each.
    """

    def chosen(kind: bool) -> list[Answer]:
        ranked = sorted((one for one in answers if one.right == kind), key=lambda one: (-one.score, one.name))
        seen: dict[tuple[str, str], int] = {}
        rounds = []
        for one in ranked:
            pair = (one.label, one.predicted)
            rounds.append((seen.get(pair, 0), one))
            seen[pair] = seen.get(pair, 0) + 1
        return [one for _, one in sorted(rounds, key=lambda entry: entry[0])][:count]

    return chosen(True), chosen(False)


def find_items(facts: RunFacts, result: Result, data: str | None) -> tuple[dict[str, Item], SourceArgs, str]:
    """The videos of an evaluation by name, how they are read, and why there are none, if so.

    Args:
        facts: of the run.
        result: its evaluation.
        data: where the videos are now; None: where they were.
    """
    recipe = facts.recipe
    place = data or str(result.about.get("data") or (recipe.data if recipe else ""))
    source = recipe.source if recipe and place == recipe.data else SourceArgs()
    if not place:
        return {}, source, "It is not known where the videos are; give them with --data."
    try:
        part = read_part(place, facts.labels, str(result.about.get("split", "val")), source)
    except (MuybridgeError, OSError) as error:
        return {}, source, f"The videos are not shown: {error} Give their place with --data."
    return {item.name: item for item in part.items}, source, ""


def show(answers: Sequence[Answer], items: dict[str, Item], source: SourceArgs, page: Path) -> list[Shown]:
    """Each answer with a strip of frames of its video.

    Args:
        answers: to be shown.
        items: the videos by name.
        source: how they are read.
        page: the file that links to them.
    """
    return [
        Shown(one, strip(items[one.name], source), link_to(items[one.name], page)) if one.name in items else Shown(one)
        for one in answers
    ]


def strip(item: Item, source: SourceArgs) -> str:
    """Some frames of a video beside each other, as a JPEG within the page; empty where it cannot be read."""
    from PIL import Image

    from muybridge.video.opening import open_item

    try:
        with open_item(item, source) as video:
            wanted = [int((place + 0.5) * video.frame_count / FRAMES) for place in range(FRAMES)]
            frames = video.read(wanted)
    except (MuybridgeError, OSError):
        return ""
    height, width = frames.shape[1:3]
    wide = min(max(round(SIDE * width / height), SIDE // 2), 2 * SIDE)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)).resize((wide, SIDE)) for frame in frames]
    sheet = Image.new("RGB", (FRAMES * wide, SIDE))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * wide, 0))
    return data_address(sheet, "JPEG", quality=QUALITY, optimize=True)


def link_to(item: Item, page: Path) -> str:
    """The address of a video's file, relative to the page, so that no folder of a user is told; empty: it has none."""
    if item.frames is not None or item.stored is not None or "://" in item.path:
        return ""
    try:
        relative = os.path.relpath(item.path, page.absolute().parent)
    except ValueError:  # on another drive
        return ""
    part = f"#t={item.start:g},{'' if item.end is None else f'{item.end:g}'}" if item.start or item.end else ""
    # "./" so that a name such as "javascript:..." is a file's name and nothing else.
    return "./" + quote(relative.replace(os.sep, "/"), errors="surrogateescape") + part
