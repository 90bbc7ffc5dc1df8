"""The errors that a user can cause, and the sentences that tell what to do about them.

Every message says what was expected, what came, and what to do; unknown names list the closest choices. The command
line prints the message of a `MuybridgeError` and exits with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class MuybridgeError(Exception):
    """Base of all errors that a user can cause and mend."""


class BadInput(MuybridgeError, ValueError):
    """A value, option, shape or data set that cannot be used as given."""


class UnknownName(MuybridgeError, LookupError):
    """A method, backbone, recipe, field or label that does not exist."""


class MissingFile(MuybridgeError, FileNotFoundError):
    """A file or folder that is not there."""


class CheckpointError(MuybridgeError, ValueError):
    """A file of weights that is damaged, of another model, or not to be trusted."""


class VideoError(MuybridgeError, ValueError):
    """A video file that cannot be decoded; `path` and `reason` are attributes."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Loader workers send their errors between processes by pickling.
        return type(self), (self.path, self.reason)


def closest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """The `count` choices most like `name`, best first; empty if none is alike."""
    by_lower = {choice.lower(): choice for choice in choices}
    return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, count, 0.5)]


def unknown(kind: str, name: str, choices: Collection[str], hint: str = "") -> UnknownName:
    """The error for a name that is not among `choices`: the closest ones, or all of them if they are few."""
    alike = closest(name, choices)
    if len(choices) <= 12:
        say = f"Choose one of: {', '.join(sorted(choices))}."
        if alike and alike[0] != name:
            say = f"Did you mean {alike[0]}? {say}"
    elif alike:
        say = f"Closest: {', '.join(alike)}."
    else:
        say = f"There are {len(choices)}, for example: {', '.join(sorted(choices)[:5])}."
    return UnknownName(f"Unknown {kind} '{name}'. {say}{' ' + hint if hint else ''}")


def shape_text(shape: Sequence[int]) -> str:
    """`[2, 3, 8]` for any shape-like sequence."""
    return "[" + ", ".join(str(int(size)) for size in shape) + "]"


def key_difference(
    expected: Mapping[str, Sequence[int]],
    given: Mapping[str, Sequence[int]],
    first: int = 3,
) -> str:
    """One sentence on how two state dicts differ, from key to shape; empty if they agree.

    Args:
        expected: key -> shape that the model has.
        given: key -> shape that the file has.
        first: how many keys of each kind to name.
    """
    parts = []
    for keys, word in (
        ([k for k in expected if k not in given], "missing"),
        ([k for k in given if k not in expected], "unknown"),
    ):
        if keys:
            parts.append(f"{len(keys)} {word} (first: {', '.join(keys[:first])})")
    wrong = [k for k in expected if k in given and tuple(expected[k]) != tuple(given[k])]
    if wrong:
        shapes = ", ".join(f"{k} is {shape_text(given[k])}, expected {shape_text(expected[k])}" for k in wrong[:first])
        parts.append(f"{len(wrong)} misshapen (first: {shapes})")
    return "; ".join(parts)
