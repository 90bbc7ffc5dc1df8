"""Many tasks in processes of their own, none of which can stop the others by hanging or dying.

A pool of the standard library is broken as a whole when one of its processes dies, and does not tell at which task.
Here every worker has one task at a time. One that dies, or that shows no sign of life for too long, costs its task only
and is replaced.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from muybridge.errors import BadInput

# How long a new process may take until it begins with its task.
STARTUP_SECONDS = 120.0

Task = TypeVar("Task")
Result = TypeVar("Result")
Beat = Callable[[], None]


@dataclass(frozen=True)
class Lost:
    """A task that gave no result, and why."""

    reason: str


def supervised(
    function: Callable[[Task, Beat], Result], tasks: Sequence[Task], workers: int, limit: float = 0.0
) -> Generator[tuple[int, Result | Lost], None, None]:
    """Do all tasks in `workers` processes and yield (place of the task, its result) as they are done.

    Processes are spawned, so a script that calls this keeps its own calls under `if __name__ == "__main__":`. They end
    with the generator, also when it is closed before the end. Ctrl-C reaches this process only.

    Args:
        function: a function of a module; it is given the task and `beat`, which it calls to show that it is alive.
        tasks: what can be pickled.
        workers: processes; below 1: in this process, where a task that hangs or dies is not noticed.
        limit: a task without a beat for so many seconds is given up; 0: never.

    Raises:
        BadInput: a process ended before it began with its first task, which is then not to blame.
    """
    if workers < 1:
        for place, task in enumerate(tasks):
            yield place, _attempt(function, task, _no_beat)
        return
    waiting = deque(enumerate(tasks))
    team: list[_Worker] = []
    try:
        while waiting or team:
            while waiting and len(team) < workers:
                team.append(_Worker(function, *waiting.popleft()))
            wait([worker.connection for worker in team], timeout=0.2)
            for worker in list(team):
                answer = worker.answer(limit)
                if answer is None:
                    continue
                place = worker.place
                # The next task goes out before the caller looks at this one.
                if worker.alive and waiting:
                    worker.give(*waiting.popleft())
                else:
                    team.remove(worker)
                    worker.end()
                yield place, answer
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A process and the task that it has."""

    def __init__(self, function: Callable[[Any, Beat], Any], place: int, task: Any) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._beats = context.RawValue("L", 0)
        self._process = context.Process(target=_serve, args=(function, theirs, self._beats), daemon=True)
        # A new process inherits what is blocked, so that Ctrl-C cannot interrupt it while it starts.
        mask = getattr(signal, "pthread_sigmask", None)
        before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
        try:
            self._process.start()
        finally:
            if mask:
                mask(signal.SIG_SETMASK, before)
        theirs.close()
        self.alive = True
        self.give(place, task)

    def give(self, place: int, task: Any) -> None:
        self.place = place
        self._begun = self._seen = self._beats.value
        self._since = time.monotonic()
        with suppress(OSError):  # It has died since; `answer` will find out.
            self.connection.send(task)

    def answer(self, limit: float) -> Any:
        """What the task gave; None if it is not done yet."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            if not self._beats.value:
                raise BadInput(
                    f"A process that should read did not start ({_death(self._process.exitcode)}). A script keeps what "
                    'starts processes under `if __name__ == "__main__":`; workers=0 starts none.'
                ) from None
            return Lost(f"the process that read it died ({_death(self._process.exitcode)})")
        now, beats = time.monotonic(), self._beats.value
        if beats != self._seen:
            self._seen, self._since = beats, now
        allowed = max(limit, STARTUP_SECONDS) if beats == self._begun else limit
        if limit and now - self._since > allowed:
            self.alive = False
            return Lost(f"reading it came to a stop: nothing for {allowed:g} s")
        return None

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(function: Callable[[Any, Beat], Any], connection: Connection, beats: Any) -> None:
    def beat() -> None:
        beats.value += 1

    # The other end closes when the process that asked is gone.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = connection.recv()
            beat()
            connection.send(_attempt(function, task, beat))


def _attempt(function: Callable[[Task, Beat], Result], task: Task, beat: Beat) -> Result | Lost:
    try:
        return function(task, beat)
    except Exception as error:
        return Lost(f"{type(error).__name__}: {error}")


def _no_beat() -> None:
    pass


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name
