"""HEAD is GET without a body, every path says what it takes, and every error has the documented form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from ray import serve

from deployments.api import app
from deployments.http.cached import Cached
from deployments.http.conditional import StoredFile
from deployments.http.readiness import Readiness
from tests.unit.api_world import ApiWorld
from tests.unit.wire_world import VIDEO, completed, sent, talk

PATHS = [path for path, methods in app.openapi()["paths"].items() if "get" in methods]


def test_head_is_get_without_its_body(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        world.api.ready = Cached(lambda: Readiness((), {}, {}, 1), "ready")
        done = await completed(http, world)
        live = (await http.post("/v1/videos", json={"prompt": "p"})).json()["id"]
        targets = [path.replace("{video_id}", done) for path in PATHS]
        for path in (*targets, f"/v1/videos/{live}", "/docs", "/openapi.json"):
            got, asked = await http.get(path), await http.head(path)
            assert (path, asked.status_code, asked.content) == (path, 200, b"")
            assert asked.headers == got.headers, path
            assert got.content, path
            start, *bodies = await sent("HEAD", path)
            assert start["status"] == 200
            assert bodies, path
            assert not any(body["body"] for body in bodies), path
            assert not bodies[-1].get("more_body")
        for path in (f"/v1/videos/{live}/content", "/v1/videos/video_1", "/nowhere", "/v1/videos?limit=0"):
            got, asked = await http.get(path), await http.head(path)
            assert (asked.status_code, asked.content, asked.headers) == (got.status_code, b"", got.headers)
            assert got.status_code >= 400

    talk(tmp_path, calls)


def test_head_of_a_live_jobs_events_opens_no_stream(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        live = (await http.post("/v1/videos", json={"prompt": "p"})).json()["id"]
        asked = await http.head(f"/v1/videos/{live}/events")
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in asked.headers

    talk(tmp_path, calls)


def test_head_of_a_file_does_not_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        done = await completed(http, world)

        opened: list[Any] = []
        monkeypatch.setattr(StoredFile, "_open_file", lambda file: opened.append(file.path))
        asked = await http.head(f"/v1/videos/{done}/content")
        assert (asked.status_code, asked.headers["content-length"]) == (200, str(len(VIDEO)))
        part = await http.head(f"/v1/videos/{done}/content", headers={"range": "bytes=-5"})
        assert (part.status_code, part.headers["content-length"]) == (206, "5")
        assert opened == []
        await http.get(f"/v1/videos/{done}/content")
        assert len(opened) == 1, "as a GET does"

    talk(tmp_path, calls)


def test_a_method_that_a_path_does_not_take(tmp_path: Path) -> None:
    refused = [
        ("PUT", "/v1/videos", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/videos", "GET, HEAD, POST"),
        ("POST", "/v1/videos/{id}", "DELETE, GET, HEAD"),
        ("PATCH", "/v1/videos/{id}/content", "GET, HEAD"),
        ("GET", "/v1/videos/{id}/cancel", "POST"),
        ("HEAD", "/v1/uploads", "POST"),
        ("GET", "/v1/uploads/upload_1", "PUT"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("BREW", "/docs", "GET, HEAD"),
        ("TRACE", "/v1/models", "GET, HEAD"),
    ]

    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for method, path, allowed in refused:
            for headers in ({}, {"origin": "http://127.0.0.1", "access-control-request-method": "POST"}):
                answer = await http.request(method, path.replace("{id}", "video_1"), headers=headers)
                assert (answer.status_code, answer.headers.get("allow")) == (405, allowed), (method, path)
                if method != "HEAD":
                    assert answer.json()["error"] == {
                        "message": f"this path takes {allowed}", "type": "invalid_request_error", "param": None,
                        "code": "method_not_allowed",
                    }  # fmt: skip

    talk(tmp_path, calls)


def test_every_error_has_the_documented_form(tmp_path: Path) -> None:
    wrong = [
        ("/nowhere", 404, "not_found", None),
        ("/", 404, "not_found", None),
        ("//v1/videos", 404, "not_found", None),
        ("/v1/videos/a%2fb", 404, "not_found", None),
        ("/v1/videos/%ff%00", 404, "not_found", "video_id"),
        ("/v1/videos/" + "x" * 5000, 404, "not_found", "video_id"),
        ("/v1/videos?limit=x", 400, "invalid_request", "limit"),
        ("/v1/videos?limit=101", 400, "invalid_request", "limit"),
        ("/v1/videos?order=up", 400, "invalid_request", "order"),
        ("/v1/videos?after=video_1", 400, "invalid_request", "after"),
        ("/v1/videos/{id}/content?variant=", 400, "invalid_request", "variant"),
        ("/v1/videos/{id}/content?variant=gif", 400, "invalid_request", "variant"),
    ]

    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for path, status, code, param in wrong:
            answer = await http.get(path.replace("{id}", "video_" + "0" * 32))
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, param), path
            assert sorted(error) == ["code", "message", "param", "type"]
            assert (error["type"], answer.headers["content-type"]) == ("invalid_request_error", "application/json")

    talk(tmp_path, calls)


def test_what_stands_around_the_routes_lets_a_replica_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve begins the app's lifespan before it makes the replica."""
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=None))
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"lifespan.{'shutdown' if sent else 'startup'}"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_fault_of_the_service_too(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        def fault(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        world.api.jobs.page = fault
        answer = await http.get("/v1/videos")
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "server_error")
        assert "ZeroDivisionError" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        asked = await http.head("/v1/videos")
        assert (asked.status_code, asked.content) == (500, b"")

    talk(tmp_path, calls)
