"""What visitors of the page may cost, and the numbers that can be set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from muybridge.errors import BadInput
from muybridge.structures import SourceArgs

# Tighter than for one's own files: 4K has 8.3 megapixels, and nobody waits for two minutes.
VISITORS = SourceArgs(seconds=30.0, megapixels=9.0, megabytes=1024.0)
MOST_TOP = 50
MOST_NAMES, LONGEST_NAME = 200, 100
MOST_WINDOWS = 120
ROOM = 8  # uploads of the largest size that may lie in the folder together


@dataclass(frozen=True)
class ServeLimits:
    """What one request may cost.

    Attributes:
        upload: of a file, in megabytes.
        duration: of a video, in seconds.
        keep: minutes after which an upload goes away even if its page is still open.
        requests: how many may be at work or wait; more are told to come again.
        source: time to read a file, size of its pictures, memory for its frames.
    """

    upload: float = 200.0
    duration: float = 600.0
    keep: float = 10.0
    requests: int = 16
    source: SourceArgs = field(default=VISITORS)

    def __post_init__(self) -> None:
        for name in ("upload", "duration", "keep"):
            value = getattr(self, name)
            if not (0 < value < math.inf):
                raise BadInput(f"{name} is {value:g}; expected a number above 0.")
        if self.requests < 1:
            raise BadInput(f"requests is {self.requests}; expected at least 1.")

    @property
    def bytes(self) -> int:
        """The largest upload in bytes."""
        return round(self.upload * 1e6)


def check_names(text: str | None) -> tuple[str, ...]:
    """Class names out of what a visitor wrote, separated by commas or lines; empty: none were given.

    Raises:
        BadInput: one name, a name twice, too many, or one that is too long.
    """
    names = tuple(name.strip() for name in (text or "").replace("\n", ",").split(",") if name.strip())
    if not names:
        return ()
    if len(names) < 2:
        raise BadInput(f"There is one class name, '{names[0][:LONGEST_NAME]}'; give at least 2, separated by commas.")
    if len(names) > MOST_NAMES:
        raise BadInput(f"{len(names)} class names are given; at most {MOST_NAMES} are possible here.")
    for name in names:
        if len(name) > LONGEST_NAME:
            raise BadInput(f"A class name has {len(name)} characters; at most {LONGEST_NAME} are possible here.")
        if names.count(name) > 1:
            raise BadInput(f"The class name '{name}' is given twice.")
    return names
