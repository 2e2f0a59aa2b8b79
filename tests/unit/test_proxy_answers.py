"""What Serve's proxy answers by itself has the API's form too, and the pages that may read answers can read it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from ray.serve._private.http_util import convert_object_to_asgi_messages

from deployments.http import proxy_gate
from deployments.http.cors import EXPOSED
from deployments.http.kinds import Kind
from deployments.http.proxy_gate import install

STUDIO, EVIL = "https://studio.example", "https://evil.example"


@pytest.fixture(autouse=True)
def no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_gate, "switch_soon", lambda: None)
    monkeypatch.setitem(proxy_gate.MOST, Kind.READ, 0)


class Proxy:
    """A proxy behind which something answers with `messages`."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.app: Any = self._serve
        for middleware in install():
            self.app = middleware.cls(self.app, *middleware.args, **middleware.kwargs)

    async def _serve(self, _scope: Any, _receive: Any, send: Any) -> None:
        for message in self.messages:
            await send(message)

    def ask(self, method: str = "GET", path: str = "/v1/models", **sent: str) -> tuple[int, dict[str, str], bytes]:
        got: list[Any] = []

        async def send(message: Any) -> None:
            got.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(self.app(scope, receive, send))
        start, *bodies = got
        told = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], told, b"".join(each["body"] for each in bodies)

    def replica(self, status: int = 200, **headers: str) -> None:
        """From now on a replica answers."""
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.messages = [
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"application/json"), *pairs],
            },
            {"type": "http.response.body", "body": b"{}"},
        ]

    def serve(self, status: int, text: str | None = "some text", **headers: str) -> None:
        """From now on Serve itself answers."""
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.messages = convert_object_to_asgi_messages(text, status_code=status, extra_headers=pairs)


POST = {"method": "POST", "path": "/kinoray/v1/videos/sync"}
REMIX = {"method": "POST", "path": "/v1/videos/video_1/remix/"}
CANCEL = {"method": "POST", "path": "/v1/videos/video_1/cancel"}
KEYED = {**POST, "idempotency_key": "k"}


@pytest.mark.parametrize(
    ("said", "asked", "status", "code", "again"),
    [
        (404, {}, 404, "not_found", None),
        (503, {}, 503, "unavailable", None),
        (503, POST, 503, "unavailable", None),
        (429, POST, 429, "unavailable", None),
        (408, {}, 408, "request_timeout", None),
        (408, POST, 408, "request_timeout", "false"),
        (408, KEYED, 408, "request_timeout", None),
        (500, {}, 503, "unavailable", None),
        (500, POST, 503, "acceptance_unknown", "false"),
        (500, KEYED, 503, "acceptance_unknown", None),
        (500, REMIX, 503, "acceptance_unknown", "false"),
        (500, CANCEL, 503, "unavailable", None),
        (408, CANCEL, 408, "request_timeout", None),
        (None, {}, 503, "unavailable", None),
        (None, POST, 503, "acceptance_unknown", "false"),
        (None, KEYED, 503, "acceptance_unknown", None),
    ],
)
def test_serves_own_errors_have_the_documented_form(
    said: int | None, asked: dict[str, str], status: int, code: str, again: str | None
) -> None:
    proxy = Proxy()
    if said is not None:
        proxy.serve(said, x_request_id="r1", retry_after="7")
    got, headers, body = proxy.ask(**asked)
    error = json.loads(body)["error"]
    assert (got, error["code"], headers["content-type"]) == (status, code, "application/json")
    assert sorted(error) == ["code", "message", "param", "type"]
    assert "some text" not in error["message"]
    assert headers.get("x-should-retry") == again
    assert headers["content-length"] == str(len(body))
    if said is not None:
        assert (headers["x-request-id"], headers["retry-after"]) == ("r1", "7")


def test_answers_of_replicas_and_for_the_operator_stay_as_they_are() -> None:
    proxy = Proxy()
    proxy.replica(404, x_video_id="v")
    assert proxy.ask() == (404, {"content-type": "application/json", "x-video-id": "v"}, b"{}")
    proxy.serve(200)
    assert proxy.ask()[2] == b"some text", "such as what Prometheus scrapes"
    proxy.serve(503)
    assert proxy.ask(path="/-/healthz")[2] == b"some text"


def test_a_page_that_may_read_answers_may_read_the_proxys() -> None:
    proxy = Proxy()

    def seen(origin: str = STUDIO) -> list[str | None]:
        """What the proxy lets read of its own refusal, and of what it says for Serve."""
        before = proxy.messages
        answers = [proxy.ask(path="/v1/videos", origin=origin)]
        for status in (404, 408, 503):
            proxy.serve(status)
            answers.append(proxy.ask(origin=origin))
        proxy.messages = []
        answers.append(proxy.ask(origin=origin))
        proxy.messages = before
        assert [status for status, _, _ in answers] == [503, 404, 408, 503, 503]
        for _, headers, _ in answers:
            if "access-control-allow-origin" in headers:
                assert headers["access-control-expose-headers"].split(", ") == list(EXPOSED)
                assert headers["vary"] == "Origin"
        return [headers.get("access-control-allow-origin") for _, headers, _ in answers]

    assert seen() == [None] * 5
    proxy.replica(access_control_allow_origin=STUDIO)
    proxy.ask("OPTIONS", "/v1/videos", origin=STUDIO)
    assert seen() == [STUDIO] * 5
    assert seen(EVIL) == [None] * 5
    proxy.replica()
    proxy.ask(origin=EVIL)
    assert seen() == [STUDIO] * 5, "that another may not says nothing of it"
    proxy.ask()
    assert seen() == [STUDIO] * 5, "nor does a program's request"
    proxy.ask(origin=STUDIO)
    assert seen() == [None] * 5, "it may not any more"
    proxy.replica(access_control_allow_origin="*")
    proxy.ask(origin=EVIL)
    assert seen() == ["*"] * 5
    proxy.replica()
    proxy.ask()
    assert seen() == ["*"] * 5
    proxy.ask(origin=EVIL)
    assert seen() == [None] * 5
