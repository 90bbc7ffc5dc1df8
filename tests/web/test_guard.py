"""What is let through to the page, and what is not."""

import asyncio
import json

import pytest

from muybridge.web.files import Uploads
from muybridge.web.guard import Guard
from muybridge.web.limits import ServeLimits


@pytest.fixture
def guarded(tmp_path):
    uploads = Uploads(60, tmp_path)
    (uploads.folder / "a").mkdir()
    (uploads.folder / "a/video.mp4").write_bytes(b"x" * 100)
    return uploads


def ask(uploads, method, path, body=b"", local=True, limits=None, **headers):
    """(status, what came, headers); the application behind says `through` and the body that it got."""

    async def app(scope, receive, send):
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"through " + content})

    parts = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]
    sent = []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    guard = Guard(app, uploads, limits or ServeLimits(upload=1), local)
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode(), {key.decode() for key, _ in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index.js"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/call/predict"),
        ("POST", "/api/predict"),
        ("GET", "/api/openapi.json"),
    ],
)
def test_what_the_page_needs(guarded, method, path):
    status, said, headers = ask(guarded, method, path)
    assert (status, said) == (200, "through ")
    assert "content-security-policy" in headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/process_recording"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/proxy=http://localhost:1/x"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/docs"),
        ("PUT", "/"),
        ("GET", "/gradio_api/upload"),
        ("GET", "//config"),
    ],
)
def test_what_it_does_not_need(guarded, method, path):
    assert ask(guarded, method, path)[0] == 404


def test_files_of_the_folder_and_no_others(guarded):
    status, said, _ = ask(guarded, "GET", f"/gradio_api/file={guarded.folder}/a/video.mp4")
    assert (status, said) == (200, "through ")
    for path in (
        "/etc/passwd",
        "http://localhost/x",
        f"{guarded.folder}/../x",
        f"{guarded.folder}%2F..%2F..%2Fetc",
        "",
    ):
        assert ask(guarded, "GET", f"/gradio_api/file={path}")[0] == 404, path


def test_a_request_names_uploads_only(guarded):
    mine = f"{guarded.folder}/a/video.mp4"
    body = json.dumps({"data": [{"path": mine, "meta": {"_type": "gradio.FileData"}}, 5]}).encode()
    assert ask(guarded, "POST", "/gradio_api/queue/join", body)[:2] == (200, "through " + body.decode())
    for path in ("/etc/passwd", "http://169.254.169.254/x", f"{guarded.folder}/../x", 7, ["/etc/passwd"]):
        body = json.dumps({"data": [[{"video": {"path": path}}]]}).encode()
        for where in ("/gradio_api/queue/join", "/gradio_api/call/predict", "/gradio_api/run/predict"):
            status, said, _ = ask(guarded, "POST", where, body)
            assert status == 403
            assert "was not uploaded here" in said
    assert ask(guarded, "POST", "/gradio_api/queue/join", b"no json")[0] == 403
    assert ask(guarded, "POST", "/gradio_api/queue/join", b"[" * 200_000)[0] == 403
    assert ask(guarded, "POST", "/gradio_api/queue/join", b" " * 300_000)[0] == 413


def test_large_files_are_refused_before_they_come(guarded):
    for where in ("/gradio_api/upload", "/api/predict"):
        status, said, _ = ask(guarded, "POST", where, content_length="2000000")
        assert status == 413
        assert "at most 1 MB" in said
        assert ask(guarded, "POST", where, content_length="900000")[0] == 200
    (guarded.folder / "a/more").write_bytes(b"x" * 9_000_000)
    assert ask(guarded, "POST", "/gradio_api/upload")[0] == 507


def test_pages_of_elsewhere_are_refused(guarded):
    assert ask(guarded, "GET", "/", host="evil.example")[0] == 421
    assert ask(guarded, "GET", "/", host="localhost:7860")[0] == 200
    assert ask(guarded, "GET", "/", host="[::1]:7860")[0] == 200
    assert ask(guarded, "GET", "/", host="films.example", local=False)[0] == 200
    assert ask(guarded, "POST", "/api/predict", origin="http://evil.example")[0] == 403
    assert ask(guarded, "POST", "/api/predict", origin="null")[0] == 403
    assert ask(guarded, "POST", "/api/predict", origin="http://127.0.0.1:7860")[0] == 200
