"""`muybridge serve`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from muybridge.cli.app import Fields, Loading, app, complain
from muybridge.cli.predicting import read_source
from muybridge.errors import BadInput

DEFAULT = Loading()


@app.command
def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    examples: Path | None = None,
    title: str = "",
    licence: str = "",
    top: int = 5,
    window: float = 4.0,
    max_upload: float = 200.0,
    max_duration: float = 600.0,
    max_requests: int = 16,
    keep: float = 10.0,
    loading: Loading = DEFAULT,
    fields: Fields = None,
) -> int:
    """A page in the browser, and an HTTP API, for a trained recogniser (docs/serve.md); needs muybridge[web].

    This machine alone can reach it, unless --host says otherwise. Ctrl-C ends it.

    Args:
        run: a run folder, its model.safetensors, a published checkpoint, or a published recipe whose file is here.
        host: address to listen at; 0.0.0.0 lets everyone in who can reach this machine.
        port: 0: any that is free.
        examples: folder of videos to click; by default a few films of the demo.
        title: of the page.
        licence: of the trained weights, as the page tells it.
        top: how many classes the page shows.
        window: length of the timeline's windows in seconds; a video of more than two gets a timeline.
        max_upload: megabytes of a file.
        max_duration: seconds of a video.
        max_requests: at work or waiting; more are told to come again.
        keep: minutes after which an upload is removed even if its page is open.
    """
    from muybridge.web.limits import MOST_TOP, VISITORS, ServeLimits
    from muybridge.web.serve import check_installed, serving

    check_installed()
    if not 1 <= top <= MOST_TOP:
        raise BadInput(f"--top is {top}; expected 1 to {MOST_TOP}.")
    if not 0 < window < float("inf"):
        raise BadInput(f"--window is {window:g}; expected more than 0.")
    given = read_source(fields, "a page, which reads")
    read = {name.removeprefix("source."): getattr(given, name.removeprefix("source.")) for name in fields or {}}
    limits = ServeLimits(max_upload, max_duration, keep, max_requests, replace(VISITORS, **read))
    recogniser = loading.load(run)
    with (
        _ended_alike(),
        Console(stderr=True).status("Preparing the page ...") as status,
        serving(
            recogniser,
            limits,
            host=host,
            port=port,
            examples=examples,
            weights=loading.weights,
            title=title,
            licence=licence,
            top=top,
            window=window,
            say=complain,
        ) as server,
    ):
        status.stop()
        print(f"The page: {server.address}", flush=True)
        print(f"The API:  {server.address}/api/openapi.json  (Ctrl-C ends both.)", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            complain("Stopped; uploads are removed.")
    return 0


@contextmanager
def _ended_alike() -> Iterator[None]:
    """Within: SIGTERM and a terminal that is closed end the program as Ctrl-C does, so that uploads are removed."""
    signals = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
