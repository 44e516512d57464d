"""A hub that tests can reach: a cache in its layout, and a server on this machine that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "5" * 40


def fill_cache(cache: Path, repository: str, files: Mapping[str, bytes], revision: str = "main") -> None:
    """Put files into a cache as a download leaves them: blobs, a snapshot of links to them, and a name for its commit.

    Args:
        cache: what HF_HUB_CACHE names.
        repository: for example ``models/user/repo``.
        files: path in the repository to content.
        revision: branch or tag that names the commit.
    """
    folder = cache / repository.replace("/", "--")
    commit = hashlib.sha1(f"{repository} {sorted(files)}".encode()).hexdigest()
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))


@contextmanager
def serve(repositories: Mapping[str, dict[str, bytes] | str]) -> Iterator[tuple[str, list[str]]]:
    """A hub with these repositories.

    Args:
        repositories: for example ``models/user/repo`` to its files, to which uploads are added, or to the ``X-Error-Code``
            that it answers with.

    Returns:
        Its address (what HF_ENDPOINT names), and a list that the requests are appended to.
    """
    seen: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".strip())
            path = self.path.partition("?")[0].strip("/")
            name, rest = split(path.removeprefix("api/"))
            files = repositories.get(name)
            if files is None:
                self.answer(401, {"X-Error-Code": "RepoNotFound"})
            elif isinstance(files, str):
                self.answer(404 if files == "RevisionNotFound" else 403, {"X-Error-Code": files})
            elif rest.startswith("tree/"):
                self.answer(200, {}, [{"type": "file", "path": p, "size": len(c), "oid": oid(c)} for p, c in files.items()])
            elif rest.startswith("resolve/"):
                self.answer_file(files[rest.split("/", 2)[2]])
            else:
                self.answer(200, {}, {"id": name.partition("/")[2], "sha": COMMIT, "tags": [], "siblings": []})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            seen.append(f"POST {self.path} {body}")
            name, rest = split(self.path.partition("?")[0].strip("/").removeprefix("api/"))
            if rest.startswith("preupload/"):
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.answer(200, {}, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
            elif rest.startswith("commit/"):
                sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
                repositories[name].update({f["path"]: b64decode(f["content"]) for f in sent})  # type: ignore[union-attr]
                self.answer(200, {}, {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/1", "commitOid": COMMIT})
            else:
                self.answer(200, {}, {"url": f"http://{self.headers['Host']}/me/arms", "errors": [], "warnings": []})

        def answer(self, status: int, headers: Mapping[str, str], content: Any = ()) -> None:
            self.send(status, dict(headers), json.dumps(content or {}).encode())

        def answer_file(self, content: bytes) -> None:
            self.send(200, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT}, content)

        def send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def split(path: str) -> tuple[str, str]:
    """Repository and rest of an address below the server's (models have no prefix in addresses of files)."""
    if not path.startswith(("models/", "datasets/")):
        path = f"models/{path}"
    parts = path.split("/")
    return "/".join(parts[:3]), "/".join(parts[3:])


def oid(content: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
