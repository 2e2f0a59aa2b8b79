"""A model hub on the loopback interface: as much of the Hugging Face hub's HTTP as its client uses to download.

Repositories have commits and branches; large files are sent from a second server, to which the first redirects, as the
hub does with its store. Files can break off in the middle, and every request is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

MEMBER, STRANGER = "hf_member", "hf_stranger"
"""Tokens: of an account that accepted every licence, and of one that accepted none."""
LARGE = (".safetensors", ".gguf", ".model", ".bin")
"""The files that the hub keeps outside of git."""
TEXTS = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class Request(NamedTuple):
    """A request that the hub or its store was sent."""

    method: str
    path: str
    range: str | None
    token: str | None
    store: bool


@dataclass(frozen=True)
class Sent:
    """Bytes of a file's contents that were sent."""

    path: str
    start: int
    count: int


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each commit, by path."""
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False


@dataclass
class Hub:
    """A running hub. Tests change it as they go."""

    url: str = ""
    store_url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    """By path: after how many bytes each of the next downloads breaks off."""
    holds: dict[str, int] = field(default_factory=dict)
    """By path: after how many bytes a download waits until `open` is set."""
    reset: bool = False
    """Whether a connection that breaks is reset, not closed."""
    listed: dict[str, int] = field(default_factory=dict)
    """By path: the size that is listed in place of the true one."""
    failing: list[int] = field(default_factory=list)
    """The states that the next downloads of large files are answered with; with 200 comes the file."""
    open: threading.Event = field(default_factory=threading.Event)
    """Downloads of large files wait until it is set, as it is at the start."""
    ranges: bool = True
    """Whether a part of a file can be asked for."""
    requests: list[Request] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    """What went wrong in the hub itself."""

    def push(self, repo: str, files: dict[str, bytes], *, branch: str = "main", gated: bool = False) -> str:
        """Add a commit with exactly these files; returns its id."""
        files = {**TEXTS, **files}
        commit = hashlib.sha1(json.dumps([repo, {p: _sha256(f) for p, f in files.items()}]).encode()).hexdigest()
        repository = self.repositories.setdefault(repo, Repository(gated=gated))
        repository.commits[commit] = files
        repository.refs[branch] = commit
        return commit

    def push_folder(self, repo: str, folder: Path, *, branch: str = "main", gated: bool = False) -> str:
        """Add a commit with every file of a folder; returns its id."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return self.push(repo, files, branch=branch, gated=gated)

    def downloads(self, path: str) -> list[Sent]:
        return [each for each in self.sent if each.path == path]

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that let a process use this hub and a cache in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def run_hub() -> Iterator[Hub]:
    """A running hub without repositories."""
    hub = Hub()
    hub.open.set()
    with ExitStack() as stack:
        for name, store in (("store_url", True), ("url", False)):
            server = _Server(hub, store)
            setattr(hub, name, f"http://127.0.0.1:{server.server_address[1]}")
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(hub.open.set)
        yield hub
    if hub.faults:
        raise hub.faults[0]


@contextmanager
def own_hub(home: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub that this process uses, with a cache in `home`."""
    from huggingface_hub import close_session

    with run_hub() as hub:
        use_hub(hub, home, patch)
        yield hub
        close_session()


def use_hub(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Let this process use a hub and a cache in `home`, without a token."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub, store: bool) -> None:
        super().__init__(("127.0.0.1", 0), _handler(hub, store))
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        fault = sys.exception()
        if fault is not None and not isinstance(fault, ConnectionError):  # a client may go away
            self.hub.faults.append(fault)


def _handler(hub: Hub, store: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.path = unquote(urlsplit(self.path).path)
            token = (self.headers["authorization"] or "").removeprefix("Bearer ") or None
            if self.path.startswith("/api/") and not self.path.startswith("/api/models/"):
                return self._fail(404)  # what the client asks for itself, of no matter to a download
            hub.requests.append(Request(self.command, self.path, self.headers["range"], token, store))
            if store:
                return self._store(token)
            if token not in (None, MEMBER, STRANGER):
                return self._fail(401, message="Invalid credentials in Authorization header")
            if self.path.startswith("/api/"):
                return self._api(self.path.removeprefix("/api/models/").split("/"), token)
            return self._resolve(self.path.removeprefix("/").split("/"), token)

        do_HEAD = do_GET

        def _store(self, token: str | None) -> None:
            assert token is None, "a token was sent to the store"
            if not hub.holds:
                hub.open.wait()
            if hub.failing and (status := hub.failing.pop(0)) != 200:
                return self._fail(status)
            _, _, owner, name, commit, path = self.path.split("/", 5)
            return self._contents(path, hub.repositories[f"{owner}/{name}"].commits[commit][path], {})

        def _api(self, parts: list[str], token: str | None) -> None:
            repo, (verb, revision) = "/".join(parts[:2]), parts[2:4] or ("revision", "main")
            found = self._commit(repo, "/".join([revision, *parts[4:]]) if verb == "revision" else revision, token)
            if found is None:
                return
            commit, files = found
            if verb == "tree":
                self._json([_entry(path, content, hub.listed.get(path)) for path, content in files.items()])
            else:
                names = [{"rfilename": path} for path in files]
                gated = "auto" if hub.repositories[repo].gated else False
                self._json({"id": repo, "modelId": repo, "sha": commit, "gated": gated, "siblings": names, "tags": []})

        def _resolve(self, parts: list[str], token: str | None) -> None:
            repo, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            found = self._commit(repo, revision, token)
            if found is None:
                return None
            if hub.repositories[repo].gated and token != MEMBER:
                message = f"Access to model {repo} is restricted."
                return self._fail(401 if token is None else 403, code="GatedRepo", message=message)
            commit, files = found
            if path not in files:
                return self._fail(404, code="EntryNotFound", message="Entry not found", **{"X-Repo-Commit": commit})
            if not path.endswith(LARGE):
                etag = hashlib.sha1(files[path]).hexdigest()
                return self._contents(path, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
            self.send_response(302)
            self._headers(
                {
                    "Location": f"{hub.store_url}/store/{repo}/{commit}/{path}?signature=1",
                    "X-Repo-Commit": commit,
                    "X-Linked-Etag": f'"{_sha256(files[path])}"',
                    "X-Linked-Size": str(len(files[path])),
                    "Content-Length": "0",
                }
            )
            return None

        def _commit(self, repo: str, revision: str, token: str | None) -> tuple[str, dict[str, bytes]] | None:
            repository = hub.repositories.get(repo)
            if repository is None:
                # As the hub answers, which does not tell strangers what does not exist and what is private.
                if token is None:
                    self._fail(401, message="Invalid username or password.")
                else:
                    self._fail(404, code="RepoNotFound", message="Repository not found")
                return None
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                self._fail(404, code="RevisionNotFound", message=f"Invalid rev id: {revision}")
                return None
            return commit, repository.commits[commit]

        def _contents(self, path: str, content: bytes, headers: dict[str, str]) -> None:
            asked = self.headers["range"] if hub.ranges else None
            start, end = 0, len(content)
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                if int(first) >= len(content):
                    return self._fail(416)
                start, end = int(first), min(int(last) + 1, len(content)) if last else len(content)
                headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            self.send_response(206 if asked else 200)
            self._headers({**headers, "Accept-Ranges": "bytes", "Content-Length": str(end - start)})
            if self.command == "HEAD":
                return None
            rest = content[start:end]
            breaks = hub.breaks.get(path)
            part = rest[: breaks.pop(0)] if breaks else rest
            hub.sent.append(Sent(path, start, len(part)))
            held = hub.holds.get(path)
            if held is not None:
                self.wfile.write(part[:held])
                hub.open.wait()
            self.wfile.write(part[held or 0 :])
            if len(part) < len(rest):
                if hub.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(self.connection.detach())  # at once, before the server ends the connection in order
                self.close_connection = True
            return None

        def _json(self, data: object) -> None:
            body = json.dumps(data).encode()
            self.send_response(200)
            self._headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
            if self.command != "HEAD":
                self.wfile.write(body)

        def _fail(self, status: int, *, code: str = "", message: str = "", **headers: str) -> None:
            self.send_response(status)
            if code:
                headers["X-Error-Code"] = code
            if message:
                headers["X-Error-Message"] = message
            self._headers({**headers, "Content-Length": "0"})

        def _headers(self, headers: dict[str, str]) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _entry(path: str, content: bytes, size: int | None) -> dict[str, object]:
    size = len(content) if size is None else size
    entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(content).hexdigest()}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": size, "pointerSize": 134}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
