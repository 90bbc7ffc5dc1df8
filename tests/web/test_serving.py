"""The page and the API as people meet them: a server, a browser, two visitors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from visitors import film, with_texts

from muybridge.web.limits import ServeLimits
from muybridge.web.serve import serving

pytestmark = pytest.mark.slow
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film(folder / "short.mp4", 1)
    film(folder / "long.mp4", 4)
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    return folder


@pytest.fixture(scope="module")
def server(films, tmp_path_factory):
    pytest.importorskip("gradio", reason="pip install 'muybridge[web]'")
    examples = tmp_path_factory.mktemp("examples")
    shutil.copy(films / "short.mp4", examples / "a square.mp4")
    limits = ServeLimits(upload=1, duration=60)
    with serving(with_texts(), limits, examples=examples, window=1.0, licence="CC0") as server:
        yield server
    assert not server.uploads.folder.exists()


@pytest.fixture(scope="module")
def browser(server):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visitor(server, browser):
    """Opens the page as somebody else each time; requests to elsewhere are collected."""
    contexts, outside, here = [], [], (server.address, "data:", "blob:")

    def visit():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: outside.append(request.url))
        page.goto(server.address)
        page.wait_for_selector("text=Drop Video Here")
        page.wait_for_timeout(500)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not [address for address in outside if not address.startswith(here)]


def post(server, path, body, kind="application/octet-stream"):
    """(status, JSON)."""
    request = urllib.request.Request(server.address + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def uploaded(server):
    """Files that are there besides the examples."""
    return [path for path in server.uploads.folder.rglob("*") if path.is_file() and "examples" not in path.parts]


def give(page, path):
    page.set_input_files("#video input[type=file]", path)


def test_bytes_in_json_out(server, films):
    model = with_texts()
    status, said = post(server, "/api/predict?top=2", (films / "short.mp4").read_bytes())
    assert status == 200
    best = model.predict(films / "short.mp4", 2)
    assert [row["label"] for row in said["predictions"]] == [one.label for one in best]
    assert said["predictions"][0]["score"] == pytest.approx(best[0].score, abs=1e-5)
    assert said["video"] == {"duration": 1.0, "frames": 12, "width": 48, "height": 48}
    status, said = post(server, "/api/predict?labels=eating,a%20walk", (films / "short.mp4").read_bytes())
    assert {row["label"] for row in said["predictions"]} == {"eating", "a walk"}
    status, said = post(server, "/api/timeline?window=1", (films / "long.mp4").read_bytes())
    assert (status, said["windows"][-1]["end"]) == (200, 4.0)
    status, said = post(server, "/api/explain", (films / "short.mp4").read_bytes())
    assert (status, len(said["frames"])) == (200, 4)
    for path, body, code, sentence in (
        ("/api/predict", (films / "broken.mp4").read_bytes(), 422, "not a video file that FFmpeg can read"),
        ("/api/predict", b"", 422, "Nothing came"),
        ("/api/predict?labels=one", (films / "short.mp4").read_bytes(), 422, "at least 2"),
        ("/api/predict", b"x" * 1_100_000, 413, "at most 1 MB"),
        ("/api/predict", iter([b"x" * 600_000] * 3), 413, "more than 1 MB"),
    ):
        try:
            status, said = post(server, path, body)
        except (ConnectionError, urllib.error.URLError):
            assert code == 413  # the server hangs up while it is still being sent to
            continue
        assert status == code
        assert sentence in str(said)
    assert post(server, "/api/predict?top=0", b"x")[0] == 422
    assert not uploaded(server)


def test_the_schema_tells_what_comes(server):
    with urllib.request.urlopen(server.address + "/api/openapi.json") as reply:
        schema = json.loads(reply.read())
    assert {"/api/predict", "/api/timeline", "/api/explain", "/api/model"} <= set(schema["paths"])
    predict = schema["paths"]["/api/predict"]["post"]
    assert {one["name"] for one in predict["parameters"]} == {"top", "labels"}
    assert "application/octet-stream" in predict["requestBody"]["content"]
    assert "predictions" in schema["components"]["schemas"]["AnswerOut"]["properties"]
    with urllib.request.urlopen(server.address + "/api/model") as reply:
        assert json.loads(reply.read())["own_labels"] is True


def test_gradios_client(server, films, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(server.address, verbose=False, download_files=str(tmp_path))
    said = client.predict(handle_file(films / "short.mp4"), 3, "", api_name="/predict")
    assert said["predictions"][0]["label"] == with_texts().predict(films / "short.mp4")[0].label
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    with pytest.raises(Exception, match="not a video file"):
        client.predict(handle_file(films / "broken.mp4"), 3, "", api_name="/predict")
    client.close()
    assert not uploaded(server)


def test_files_of_the_server_cannot_be_named(server, films, tmp_path, monkeypatch):
    """Neither asked for nor read; not those of the working folder either, which Gradio would hand out."""
    secret = films / "short.mp4"
    monkeypatch.chdir(films)
    for path in (
        str(secret),
        "short.mp4",
        "/etc/passwd",
        f"{server.uploads.folder}/../short.mp4",
        "http://localhost/a.mp4",
    ):
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for where, body in (
            ("/gradio_api/call/predict", {"data": [data, 3, ""]}),
            ("/gradio_api/run/predict", {"data": [data, 3, ""]}),
            ("/gradio_api/queue/join", {"data": [data, ""], "fn_index": 0, "session_hash": "x"}),
        ):
            status, said = post(server, where, json.dumps(body).encode(), "application/json")
            assert (status, "was not uploaded here" in said["error"]) == (403, True), (path, where)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{server.address}/gradio_api/file={path}")


def test_upload_result_and_explanation(server, films, visitor):
    page = visitor()
    give(page, films / "long.mp4")
    page.wait_for_selector("#timeline .mb-track i")
    assert page.locator("#answer .mb-score").count() == 3
    assert with_texts().predict(films / "long.mp4")[0].label == page.inner_text("#answer h2")
    assert page.locator("#frames img").count() == 4
    page.click("text=Where did it look")
    page.wait_for_selector("#explanation img")
    assert uploaded(server)
    page.click("#video button[aria-label*=lear], #video button[aria-label*=emove]")
    page.wait_for_selector("#frames", state="hidden")
    page.wait_for_timeout(300)
    assert not uploaded(server)


def test_an_unreadable_file_and_an_example(server, films, visitor):
    page = visitor()
    page.click("button:has-text('Recognise')")
    page.wait_for_selector(".mb-error")
    assert "There is no video yet" in page.inner_text(".mb-error")
    page.click("button:has-text('a square')")
    page.wait_for_selector("#frames img")
    assert page.inner_text("#answer h2") == with_texts().predict(films / "short.mp4")[0].label
    # As it is, not encoded again: nothing but the example itself is there.
    assert [path.name for path in server.uploads.folder.rglob("*.*")] == ["a square.mp4"]
    assert (server.uploads.folder / "examples/a square.mp4").read_bytes() == (films / "short.mp4").read_bytes()
    page.reload()
    page.wait_for_selector("text=Drop Video Here")
    page.wait_for_timeout(500)
    give(page, films / "broken.mp4")
    page.wait_for_selector(".mb-error")
    assert page.inner_text(".mb-error") == "This video cannot be used: not a video file that FFmpeg can read."


def test_two_visitors_at_the_same_time(server, films, visitor):
    """One with class names of their own; both give the same file, and one who leaves takes nothing away."""
    one, two = visitor(), visitor()
    two.fill("textarea", "eating an apple, a long walk")
    for page in (one, two):
        give(page, films / "short.mp4")
    for page in (one, two):
        page.wait_for_selector("#frames img")
    assert {row.split("\n")[0] for row in two.locator(".mb-score").all_inner_texts()} == {
        "eating an apple",
        "a long walk",
    }
    expected = with_texts().predict(films / "short.mp4")
    assert one.inner_text("#answer h2") == expected[0].label
    two.context.close()
    one.wait_for_timeout(1500)
    one.click("button:has-text('Recognise')")
    one.wait_for_timeout(1500)
    assert one.locator(".mb-error").count() == 0
    assert [row.split("\n")[0] for row in one.locator(".mb-score").all_inner_texts()] == [x.label for x in expected]
    one.close()
    deadline = time.monotonic() + 10
    while uploaded(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not uploaded(server)


def test_the_command_leaves_nothing_behind(films, tmp_path):
    pytest.importorskip("gradio", reason="pip install 'muybridge[web]'")
    with_texts().save(tmp_path / "run", text=True)
    (tmp_path / "place").mkdir()
    command = [sys.executable, "-m", "muybridge", "serve", str(tmp_path / "run"), "--port", "0"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(tmp_path / "place")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().removeprefix("The page: ").strip()
        request = urllib.request.Request(f"{address}/api/predict", (films / "short.mp4").read_bytes())
        with urllib.request.urlopen(request) as reply:
            assert json.loads(reply.read())["views"] == 1
        assert len(list((tmp_path / "place").glob("muybridge-*"))) == 1
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Stopped; uploads are removed." in said
    assert not list((tmp_path / "place").glob("muybridge-*"))
