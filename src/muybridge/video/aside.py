"""Which videos are set aside for validation where a data set has no half for it: the same on every machine."""

from __future__ import annotations

import hashlib
import os

from muybridge.structures import Item


def set_aside(items: tuple[Item, ...], share: float) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Items in two halves, each in the order given: of every class the share with the lowest hashes is the second.

    Args:
        items: told apart by their names.
        share: of each class, between 0 and 1. A class with two videos or more has at least one in each half, and one
            with a single video has it in the first.
    """
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    aside: set[str] = set()
    for members in classes.values():
        # A list may name a video twice.
        members = list({item.name: item for item in members}.values())
        if len(members) > 1:
            members.sort(key=lambda item: (_digest(_video(item)), item.start))
            count = min(max(round(len(members) * share), 1), len(members) - 1)
            # The parts of one video look alike: they stay on one side, if the class has parts of others.
            cuts = [n for n in range(1, len(members)) if _video(members[n - 1]) != _video(members[n])]
            count = min(cuts, key=lambda n: abs(n - count), default=count)
            aside.update(item.name for item in members[:count])
    return (
        tuple(item for item in items if item.name not in aside),
        tuple(item for item in items if item.name in aside),
    )


def _digest(name: str) -> bytes:
    # Names of files may hold bytes that are no text.
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _video(item: Item) -> str:
    """The name of the video that an item is a part of, the same on every machine."""
    stem = os.path.splitext(os.path.basename(item.path))[0]
    is_part = item.start > 0 or item.end is not None
    # A segment of a folder of pictures has a name of its own.
    if is_part or (item.frames is not None and stem != os.path.basename(item.name)):
        return item.name.rpartition("#")[0] or stem
    return item.name
