"""`muybridge predict --live`: what a camera or a stream shows now."""

from __future__ import annotations

import json as json_module
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from muybridge.cli.app import Fields, Loading, Reading, complain
from muybridge.errors import BadInput

if TYPE_CHECKING:
    from muybridge.live.stream import Moment

READ = ("source.megapixels", "source.megabytes")
NAMES = 3  # classes on the one line that is redrawn
BAR = 10  # characters of a score of 100 %


@Parameter(name="*")
@dataclass(frozen=True)
class Living:
    """How a live source is looked at; with --live only.

    Attributes:
        live: in place of videos: a camera (0, /dev/video0), an address (rtsp://, http://), or a file, which is played
            at its own pace. Ctrl-C ends it.
        live_rate: frames a second of a window (default: as in training, or so that a window shows 2 s).
        live_every: a prediction for every so-many-th new frame of the window (default: 1).
        live_seconds: end after so many seconds (default: with the source, or by Ctrl-C).
        live_timeout: seconds in which the source must open, and send something (default: 10).
        live_reconnects: how often in a row a lost source is opened again (default: 8).
    """

    live: str | None = None
    live_rate: float | None = None
    live_every: int | None = None
    live_seconds: float | None = None
    live_timeout: float | None = None
    live_reconnects: int | None = None

    def given(self) -> list[str]:
        """Names of the options that were given, besides `live`."""
        return [
            f"--{name.replace('_', '-')}" for name, value in vars(self).items() if name != "live" and value is not None
        ]


def refuse_others(living: Living, videos: Sequence[Path], *others: Any) -> None:
    """Raise BadInput if something was given that is for live sources only, or beside one what is for videos."""
    if living.live is None:
        for name in living.given():
            raise BadInput(f"{name} is for live sources; give --live SOURCE.")
        return
    if videos:
        raise BadInput(f"--live takes the place of videos; leave {videos[0]} out.")
    for name, value in (field for options in others for field in vars(options).items()):
        if value not in (None, False):
            raise BadInput(f"--{name.replace('_', '-')} is for videos; leave it or --live out.")


def predict_live(
    run: Path, top: int, loading: Loading, living: Living, fields: Fields = None, json: bool = False
) -> int:
    """Print what the source shows until it ends, Ctrl-C comes, or the time is up; then a summary, on stderr."""
    from muybridge.live.camera import Camera
    from muybridge.live.pace import choose_pace
    from muybridge.live.stream import check_options

    assert living.live is not None
    for name in fields or {}:
        if name not in READ:
            raise BadInput(f"--{name} is not for live sources, which read --source.megapixels and --source.megabytes.")
    every, seconds = 1 if living.live_every is None else living.live_every, living.live_seconds
    if every < 1:
        raise BadInput(f"--live-every is {every}; expected at least 1.")
    if seconds is not None and not 0 < seconds <= threading.TIMEOUT_MAX:
        raise BadInput(f"--live-seconds is {seconds:g}; expected more than 0.")
    check_options(every, top, 1)
    options: dict[str, Any] = {"timeout": living.live_timeout, "reconnects": living.live_reconnects}
    options = {name: value for name, value in options.items() if value is not None}
    recogniser = loading.load(run)
    choose_pace(recogniser.sampling, rate=living.live_rate)
    stream = None
    try:
        with _screen(json, top) as (show, say):
            camera = Camera(living.live, Reading().args(fields), say=say, **options)
            stream = recogniser.stream(camera, every, top=top, rate=living.live_rate)
            with stream, _timer(seconds, stream.stop):
                for sentence in stream.notes:
                    say(sentence)
                for moment in stream:
                    show(moment)
    except KeyboardInterrupt:
        if stream is None:
            raise
        # Else it is how a stream without an end is ended.
    finally:
        if stream is not None:
            complain(stream.summary())
    return 0


@contextmanager
def _timer(seconds: float | None, call: Callable[[], None]) -> Iterator[None]:
    """Within: `call` is called after so many seconds, on another thread; None: never."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _screen(json: bool, top: int) -> Iterator[tuple[Callable[[Moment], None], Callable[[str], None]]]:
    """What shows a prediction, and what says a sentence that stays, on stderr."""
    console = Console(highlight=False)
    if json or not console.is_terminal:

        def show(moment: Moment) -> None:
            print(json_line(moment) if json else text_line(moment, top), flush=True)

        yield show, complain
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def redraw(moment: Moment) -> None:
            live.update(drawn_line(moment, top), refresh=True)

        def say(sentence: str) -> None:
            # Above the line that is redrawn; elsewhere, where stderr is no terminal.
            if sys.stderr.isatty():
                live.console.print(f"muybridge: {sentence}", markup=False, soft_wrap=True)
            else:
                complain(sentence)

        yield redraw, say


def json_line(moment: Moment) -> str:
    """One JSON object: the time of day (UTC) when it is told, and what the moment knows."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json_module.dumps({"time": now, **moment.to_dict()}, ensure_ascii=False)


def text_line(moment: Moment, top: int) -> str:
    """`   12.50 s   62.0%  opening   20.1%  closing`."""
    answers = "".join(f"  {answer.score:6.1%}  {answer.label}" for answer in moment.predictions[:top])
    return f"{moment.seconds:9.2f} s{answers}"


def drawn_line(moment: Moment, top: int) -> Text:
    """The same for a terminal, cut off at its edge: the best class with a bar, then the next ones."""
    best, *others = moment.predictions[: min(top, NAMES)]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{moment.seconds:8.1f} s  ", style="dim")
    full = round(best.score * BAR)
    line.append("█" * full, style="green").append("░" * (BAR - full), style="dim")
    line.append(f" {best.score:4.0%}  ").append(best.label, style="bold")
    for other in others:
        line.append(f"   {other.score:4.0%}  {other.label}", style="dim")
    return line.append(f"   {moment.milliseconds:.0f} ms", style="dim")
