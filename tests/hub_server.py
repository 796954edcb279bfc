"""A model hub on loopback: enough of its protocol for the real client to create, upload, list and download."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories as folders below `root`, one commit each at a time; `calls` lists the requests. Of the files in
    `cut` the connection breaks halfway, those in `garbled` come with other bytes, and the repositories in `gated` want
    their terms accepted."""

    def __init__(self, root: Path, token: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.token, self.calls = root, token, list[str]()
        self.cut, self.garbled, self.gated = set[str](), set[str](), set[str]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> list[str]:
        return sorted(str(p.relative_to(self.root / name)) for p in (self.root / name).rglob("*") if p.is_file())

    def commit(self, name: str) -> str:
        """Changes with any content."""
        digest = hashlib.sha1(name.encode())
        for file in self.files(name):
            digest.update(file.encode() + (self.root / name / file).read_bytes())
        return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def answer(self, body: object, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        self.server.calls.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            repo = json.loads(body)
            name = f"{repo['organization']}/{repo['name']}" if repo.get("organization") else repo["name"]
            (self.server.root / name).mkdir(parents=True, exist_ok=True)
            return self.answer({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+?)/preupload/main", path):
            wanted = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.answer({"files": [{**f, "shouldIgnore": False} for f in wanted]})
        if match := re.fullmatch(r"/api/models/(.+?)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = self.server.root / match[1] / line["value"]["path"]
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            commit = self.server.commit(match[1])
            url = f"{self.server.address}/{match[1]}/commit/{commit}"
            return self.answer({"commitOid": commit, "commitUrl": url, "success": True})
        self.answer({"error": path}, 404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            name = match[1]
            if not (self.server.root / name).is_dir():
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if match[2] not in (None, "main", self.server.commit(name)):
                return self.answer({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
            siblings = [
                {"rfilename": file, "size": (self.server.root / name / file).stat().st_size}
                for file in self.server.files(name)
            ]
            return self.answer({"id": name, "modelId": name, "sha": self.server.commit(name), "siblings": siblings})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            listed = self.server.files(match[1])
            return self.answer([{"type": "file", "path": p, "size": 1, "oid": "0" * 40} for p in listed])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            name, file = match[1], self.server.root / match[1] / match[2]
            if not (self.server.root / name).is_dir():
                return self.answer({}, 404, X_Error_Code="RepoNotFound")
            if name in self.server.gated:
                return self.answer({}, 403, X_Error_Code="GatedRepo")
            commit = self.server.commit(name)
            if not file.is_file():
                return self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return self.send(file, commit)
        self.answer({"error": path}, 404, X_Error_Code="EntryNotFound")

    def send(self, file: Path, commit: str) -> None:
        """Weights are named by their SHA-256, as the hub names large files."""
        data = file.read_bytes()
        etag = (hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1)(data).hexdigest()
        if file.name in self.server.garbled:
            data = data[:-4] + bytes(byte ^ 1 for byte in data[-4:])
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["", "0"])[1])
        more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        named = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Content-Length": str(len(data) - start), **more}
        if self.command == "GET" and file.name in self.server.cut:
            self.close_connection = True
            return self.answer(data[start : start + (len(data) - start) // 2], 206 if start else 200, **named)
        self.answer(data[start:], 206 if start else 200, **named)

    do_HEAD = do_GET  # noqa: N815  the names are those of http.server


@contextmanager
def serving(root: Path, token: str = "hf_loopback") -> Iterator[Hub]:
    """A hub for the length of a test."""
    with Hub(root, token) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
