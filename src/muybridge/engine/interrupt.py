"""Ctrl-C and SIGTERM end a training after the step in hand, so that it can save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

TWICE = 1.0  # seconds within which a signal may be the same one, sent by a scheduler and by torchrun


class Interrupted(KeyboardInterrupt):
    """A training was stopped on request and has saved; the message says how to go on."""


class Paused(Exception):
    """A training has come as far as it was to come for now, and has saved."""


@dataclass
class StopRequest:
    """Whether somebody asked to stop, and when, by the monotonic clock."""

    asked: bool = False
    since: float = 0.0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within: the first SIGINT or SIGTERM sets `asked`; one that comes later than `TWICE` ends the process as usual.

    Only the main thread can receive signals; elsewhere nothing changes.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if not request.asked:
            request.asked, request.since = True, time.monotonic()
        elif time.monotonic() - request.since > TWICE:
            for kind, handler in before.items():
                signal.signal(kind, handler)
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.signal(kind, ask)
    try:
        yield request
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
