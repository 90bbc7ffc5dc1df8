"""What stands before the page: which addresses exist, how large a request may be, which files it may name.

Gradio offers far more than this page needs (recordings, proxies, links to share, monitoring), and takes files by their
path. So only what the page uses is let through; every path that a request names must lead into the private folder; and
the browser is told to fetch nothing from elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from muybridge.web.files import Uploads
from muybridge.web.limits import ROOM, ServeLimits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
GET = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.*|"
    r"/gradio_api/(info/?|openapi\.json|theme\.css|startup-events|app_id/?|upload_progress|queue/data|heartbeat/\w+|"
    r"call/predict/\w+|file=.*)|"
    r"/api/(openapi\.json|model)"
)
POST = re.compile(
    r"/gradio_api/(upload|queue/join|cancel|reset/?|call/predict/?|run/predict/?)|/api/(predict|timeline|explain)"
)
SMALL = 256 * 1024  # bytes of a request without a file
SLACK = 64 * 1024  # of what stands around a file
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


class Guard:
    """An ASGI application around another.

    Args:
        app: the page and the API.
        uploads: the private folder.
        limits: sizes.
        local: the server listens on this machine only: then requests for other host names are refused, for these are
            pages of elsewhere that made a browser of this machine ask.
    """

    def __init__(self, app: App, uploads: Uploads, limits: ServeLimits, local: bool) -> None:
        self.app, self.uploads, self.limits, self.local = app, uploads, limits, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refused(scope["method"], scope["path"], headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        if scope["method"] == "POST" and scope["path"] not in (UPLOAD, "/api/predict", "/api/timeline", "/api/explain"):
            body = await _small_body(receive)
            found = "more than a request without a file may have" if body is None else self._outside(body)
            if body is None or found:
                await _answer(send, 413 if body is None else 403, f"Refused: {found}.")
                return
            receive = _again(body, receive)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refused(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence, if nothing more of the request is read."""
        if self.local and _host(headers.get("host", "")) not in LOOPBACK:
            return (
                421,
                "This page is for this machine; ask for it as localhost. (muybridge serve --host allows others.)",
            )
        known = GET if method in ("GET", "HEAD") else POST if method == "POST" else None
        if known is None or not known.fullmatch(path):
            return 404, "There is nothing here."
        if path.startswith(FILE) and not self.uploads.has(path.removeprefix(FILE)):
            return 404, "There is no such file."
        if method == "POST":
            origin = headers.get("origin", "")
            if origin and origin.partition("://")[2] != headers.get("host", ""):
                return 403, "Requests from pages of elsewhere are refused."
        if method == "POST" and (path == UPLOAD or path.startswith("/api/")):
            length = headers.get("content-length", "")
            if length.isdigit() and int(length) > self.limits.bytes + SLACK:
                return 413, f"The file has {int(length) / 1e6:.0f} MB; at most {self.limits.upload:g} MB are possible."
            if self.uploads.size() > ROOM * self.limits.bytes:
                return 507, "Too many files are here at the moment; try again in a few minutes."
        return None

    def _outside(self, body: bytes) -> str:
        """What is wrong with the paths that a JSON body names; empty: nothing."""
        if not body.strip():
            return ""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return "the request is no JSON"
        for path in _paths(content):
            if not isinstance(path, str) or not self.uploads.has(path):
                return "it names a file that was not uploaded here; upload it first (POST /gradio_api/upload)"
        return ""


def _paths(content: Any) -> Iterator[Any]:
    """Everything in a JSON document that stands for a file."""
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("path") is not None:
                yield one["path"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _host(header: str) -> str:
    return header[: header.index("]") + 1] if header.startswith("[") and "]" in header else header.partition(":")[0]


async def _small_body(receive: Receive) -> bytes | None:
    """The body; None if it is too large."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if len(body) > SMALL:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what follows."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
