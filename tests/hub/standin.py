"""A stand-in for the Hugging Face hub on this machine: the few routes that its client uses for models."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


class Hub:
    """Its models.

    Attributes:
        files: repository -> {name: bytes}.
        revisions: names of revisions besides `main`.
        gated, private: repositories that need a token.
        asked: (method, path) of every request.
        made: what was asked for when a repository was made.
        cards: metadata that were to be checked.
    """

    def __init__(self):
        self.files, self.revisions, self.gated, self.private = {}, {"v1"}, set(), set()
        self.asked, self.made, self.cards, self.address = [], [], [], ""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def hub(self):
        return self.server.hub

    def answer(self, content=b"", status=200, head=True, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, text="no"):
        self.answer({"error": text}, status, X_Error_Code=code, X_Error_Message=text)

    def repo(self, words):
        """The repository that is meant, or None after an answer that it cannot be had."""
        name = "/".join(words[:2])
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name in self.hub.gated and not known:
            return self.refuse(403, "GatedRepo")
        if name not in self.hub.files or (name in self.hub.private and not known):
            return self.refuse(401, "RepoNotFound")
        return name

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.hub.asked.append((self.command, path))
        words = path.split("/")
        api = words[:2] == ["api", "models"]
        name = self.repo(words[2:] if api else words)
        if name is None:
            return None
        files = self.hub.files[name]
        rest = words[4:] if api else words[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in {"main", COMMIT, *self.hub.revisions}:
            return self.refuse(404, "RevisionNotFound")
        if api and rest[:1] == ["tree"]:
            sizes = [{"type": "file", "path": n, "size": len(c), "oid": oid(c)} for n, c in files.items()]
            return self.answer(sizes, Content_Type="application/json")
        if api:
            siblings = [{"rfilename": n} for n in files]
            return self.answer({"id": name, "sha": COMMIT, "siblings": siblings}, Content_Type="application/json")
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self.refuse(404, "EntryNotFound")
        tags = {"ETag": f'"{oid(content)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        return self.answer(content, **tags)

    def do_POST(self):
        path = self.path.strip("/")
        self.hub.asked.append((self.command, path))
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "", "Invalid username or password.")
        words = path.split("/")
        if path == "api/validate-yaml":
            self.hub.cards.append(json.loads(content)["content"])
            return self.answer({"errors": [], "warnings": []})
        if path == "api/repos/create":
            told = json.loads(content)
            name = f"{told['organization']}/{told['name']}"
            self.hub.made.append(told)
            if name in self.hub.files:
                return self.answer({"error": "exists", "url": f"{self.hub.address}/{name}"}, 409)
            self.hub.files[name] = {}
            return self.answer({"url": f"{self.hub.address}/{name}"})
        name = "/".join(words[2:4])
        if words[4] == "preupload":
            # Everything goes the simple way, within the commit itself.
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(content)["files"]
            ]
            return self.answer({"files": files})
        if words[4] == "commit":
            for line in map(json.loads, content.decode().splitlines()):
                if line["key"] == "file":
                    self.hub.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.refuse(404, "")


def oid(content):
    return hashlib.sha1(content).hexdigest()


@contextmanager
def standing_in():
    """A hub that answers at `hub.address` within."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    server.hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
