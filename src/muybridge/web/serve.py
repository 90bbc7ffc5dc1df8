"""`muybridge serve`: folder, page, API and guard put together, and a server that runs until it is stopped."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from muybridge.backbones.weights import BACKBONES
from muybridge.demo.films import CLASSES, write_film
from muybridge.errors import BadInput, MissingFile
from muybridge.recogniser import Recogniser
from muybridge.structures import ModelSpec
from muybridge.web.files import Uploads
from muybridge.web.limits import ServeLimits
from muybridge.web.service import Service

VIDEOS = {".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".m4v"}
MOST_EXAMPLES = 12
OWN_EXAMPLES = 4  # films of the demo
SWEEP = 30.0  # seconds


def check_installed() -> None:
    """Raise BadInput if the libraries of the page are not there."""
    if find_spec("gradio") is None:
        raise BadInput("The page needs Gradio, which is not installed: pip install 'muybridge[web]'.")


@contextmanager
def serving(
    recogniser: Recogniser,
    limits: ServeLimits | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    examples: Path | None = None,
    weights: Path | None = None,
    title: str = "",
    licence: str = "",
    top: int = 5,
    window: float = 4.0,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Server]:
    """Within: the page is there. Afterwards it is not, nor is any file that was uploaded.

    Args:
        recogniser: from `muybridge.load`.
        limits: what a request may cost.
        host: the address to listen at: this machine alone by default.
        port: 0: any that is free.
        examples: folder of videos to click; None: a few films of the demo.
        weights: file with the text tower, for other class names.
        title: of the page.
        licence: of the trained weights.
        top: how many classes the page shows.
        window: of its timeline, in seconds.
        say: told what the one who serves should know.

    Raises:
        BadInput: Gradio is not installed, the port is taken, or there is no such host.
        MissingFile: there is no folder of examples, or no video in it.
    """
    check_installed()
    limits = limits or ServeLimits()
    chosen = None if examples is None else find_examples(examples)
    door = _listen(host, port)
    # Before Gradio is imported: it asks its own servers for news otherwise.
    uploads = Uploads(limits.keep * 60)
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(uploads.folder)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    server = None
    try:
        service = Service(recogniser, limits, weights)
        for sentence in service.notes:
            say(sentence)
        shown = put_examples(uploads.folder / "examples", chosen, recogniser)
        app = make_app(
            service,
            uploads,
            shown,
            title=title or "What happens in this video?",
            licence=licence_line(recogniser.spec, licence),
            top=top,
            window=window,
            local=_is_local(host),
        )
        server = Server(app, door, uploads)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        door.close()
        uploads.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_app(
    service: Service, uploads: Uploads, examples: Sequence[tuple[Path, str]], *, local: bool = True, **page: Any
) -> Any:
    """The whole as an ASGI application; `GRADIO_TEMP_DIR` must be the folder of `uploads`."""
    import gradio as gr

    from muybridge.web.api import make_api
    from muybridge.web.guard import Guard
    from muybridge.web.page import make_page, theme
    from muybridge.web.render import STYLE

    blocks = make_page(service, uploads, examples, **page)
    app = gr.mount_gradio_app(
        make_api(service, uploads),
        blocks,
        path="/",
        footer_links=["api", "settings"],
        run_history=False,
        allowed_paths=[],
        # Gradio would hand out files of the working folder and of the system's temporary folder.
        blocked_paths=[],
        show_error=False,  # only what is meant for visitors
        max_file_size=service.limits.bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=STYLE,
    )
    # Gradio's own check of paths is off before a launch, and a mounted page is never launched.
    blocks.has_launched = True
    uploads.last()
    return Guard(app, uploads, service.limits, local)


class Server:
    """uvicorn on a thread of its own.

    Attributes:
        address: where the page is, `http://127.0.0.1:7860`.
        uploads: the private folder.
    """

    def __init__(self, app: Any, door: socket.socket, uploads: Uploads) -> None:
        import uvicorn

        host, port = door.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host)
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.uploads = uploads
        self._door = door
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=10,
                ws="none",
            )
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="muybridge-serve", daemon=True)
        self._sweeper = threading.Thread(target=self._sweep, name="muybridge-sweep", daemon=True)

    def start(self) -> None:
        """Begin; returns as soon as requests are answered. Raises RuntimeError if that fails."""
        self._thread.start()
        self._sweeper.start()
        while not self._uvicorn.started:
            if self._ended.wait(0.02):
                raise RuntimeError("the server did not start")

    def wait(self) -> None:
        """Until it is stopped from elsewhere; Ctrl-C raises KeyboardInterrupt."""
        while not self._ended.wait(0.5):
            pass

    def stop(self) -> None:
        """End; what is being answered has two seconds."""
        self._uvicorn.should_exit = True
        if self._thread.is_alive():
            self._thread.join(10)
        self._ended.set()

    def _run(self) -> None:
        try:
            self._uvicorn.run(sockets=[self._door])
        finally:
            self._ended.set()

    def _sweep(self) -> None:
        while not self._ended.wait(min(SWEEP, self.uploads.keep)):
            self.uploads.sweep()


def find_examples(folder: Path) -> list[Path]:
    """The videos of a folder, at most `MOST_EXAMPLES`, by name.

    Raises:
        MissingFile: there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise MissingFile(f"There is no folder {folder}; expected one with videos to click, of its own.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS and path.is_file())
    if not found:
        raise MissingFile(f"{folder} holds no video ({', '.join(sorted(VIDEOS))}).")
    return found[:MOST_EXAMPLES]


def put_examples(folder: Path, chosen: Sequence[Path] | None, recogniser: Recogniser) -> list[tuple[Path, str]]:
    """Copies of the examples in a folder that the page may read, each with its name; or films of the demo."""
    folder.mkdir()
    if chosen is not None:
        return [(Path(shutil.copyfile(path, folder / path.name)), path.stem) for path in chosen]
    known = [label for label in CLASSES if label in recogniser.labels] or list(CLASSES)
    step = max(len(known) // OWN_EXAMPLES, 1)
    return [
        (write_film(folder / f"{label.replace(' ', '-')}.mp4", label, "val", 1000 + index), label)
        for index, label in enumerate(known[::step][:OWN_EXAMPLES])
    ]


def licence_line(spec: ModelSpec, licence: str) -> str:
    """Whose weights these are, as far as it is known."""
    weights = BACKBONES.get(spec.backbone)
    theirs = weights.licence if weights is not None else "unknown"
    return f"Licences: image transformer {spec.backbone}: {theirs}; trained weights: {licence or 'not stated'}."


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises BadInput: it is taken, or there is no such address."""
    if not 0 <= port <= 65535:
        raise BadInput(f"--port is {port}; expected 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"There is no host {host} to listen at ({error}); 127.0.0.1 is this machine alone.") from None
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(64)
    except OSError as error:
        door.close()
        raise BadInput(
            f"{host}:{port} cannot be used ({error.strerror}); give another with --port (0: any that is free)."
        ) from None
    return door


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
