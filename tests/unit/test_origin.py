"""A service without keys is for this machine's user, and for no page that happens to be open in the browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.datastructures import Headers

from deployments.api import app
from deployments.configuration.api_keys import fingerprint
from deployments.http import origin
from deployments.http.origin import OPEN, Origins
from tests.conftest import PROMPT
from tests.unit.api_world import ApiWorld, run_api

EVIL = "http://evil.example"
KEY = "kr_secret"
KEYS = [{"name": "studio", "sha256": fingerprint(KEY)}]


def ask(folder: Path, calls: Callable[[httpx2.AsyncClient, ApiWorld], Awaitable[Any]], **settings: Any) -> None:
    async def main() -> None:
        with run_api(folder, **settings) as world:
            async with world.http() as http:
                await calls(http, world)

    asyncio.run(main())


def verdict(
    sent: dict[str, str], method: str = "GET", allowed: tuple[str, ...] = (), listens_on: str = "127.0.0.1"
) -> str | None:
    """The code of the refusal."""
    refused = Origins(allowed, anonymous=True, listens_on=listens_on).refusal(
        method, Headers({"host": "127.0.0.1:8000", **sent})
    )
    return refused and refused[1].code


def test_no_page_of_another_site_can_create_list_or_delete(tmp_path: Path) -> None:
    """What a page can send without asking: a form, and whatever its own rebound name makes same-origin."""

    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        mine = (await http.post("/v1/videos", json={"prompt": PROMPT})).json()["id"]
        form = {"prompt": (None, PROMPT)}
        crossing = {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        rebound = {"host": "evil.example:8000", "origin": f"{EVIL}:8000", "sec-fetch-site": "same-origin"}
        for headers, status, code in ((crossing, 403, "cross_site_request"), (rebound, 421, "host_not_allowed")):
            requests: list[tuple[str, str, dict[str, Any]]] = [
                ("POST", "/v1/videos", {"files": form}), ("POST", "/v1/videos/sync", {"files": form}),
                ("POST", f"/v1/videos/{mine}/cancel", {}), ("POST", f"/v1/videos/{mine}/remix", {"files": form}),
                ("DELETE", f"/v1/videos/{mine}", {}), ("PUT", f"/v1/uploads/upload_{'0' * 32}", {"content": b"x"}),
                ("POST", "/v1/uploads", {"json": {"bytes": 1, "mime_type": "image/png"}}),
                ("OPTIONS", "/v1/videos", {}), ("GET", "/v1/videos", {}), ("GET", "/docs", {}), ("GET", "/nowhere", {}),
            ]  # fmt: skip
            for method, path, body in requests:
                answer = await http.request(method, path, headers=headers, **body)
                assert answer.status_code == status, (method, path)
                error = answer.json()["error"]
                assert (error["code"], error["type"]) == (code, "invalid_request_error")
                assert "args.allowed_hosts" in error["message"]
                assert not [name for name in answer.headers if name.startswith("access-control-")]
        videos = (await http.get("/v1/videos")).json()["data"]
        assert [(video["id"], video["status"]) for video in videos] == [(mine, "queued")]
        assert world.conductor.notified == 1

    ask(tmp_path, calls)


def test_its_body_is_not_read(tmp_path: Path) -> None:
    async def calls(_: httpx2.AsyncClient, world: ApiWorld) -> None:
        def receive() -> Any:
            raise AssertionError("the body was asked for")

        status, _headers = await world.ask("POST", "/v1/videos", receive, host="127.0.0.1", origin=EVIL)
        assert status == 403

    ask(tmp_path, calls)


def test_probes_and_prometheus_come_by_any_name(tmp_path: Path) -> None:
    assert set(OPEN) == {path for path in app.openapi()["paths"] if not path.startswith("/v1/")}

    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for path in ("/healthz", "/metrics"):  # /readyz would start Ray here
            for host in ("kinoray-head.svc", "10.0.0.7"):
                assert (await http.get(path, headers={"host": host})).status_code == 200

    ask(tmp_path, calls)


def test_a_key_is_protection_enough(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        headers = {"host": "videos.example.com", "origin": EVIL, "authorization": f"Bearer {KEY}"}
        assert (await http.get("/v1/videos", headers=headers)).status_code == 200

    ask(tmp_path, calls, api_keys=KEYS)


def test_beside_keys_anonymous_callers_are_checked_too(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        assert (await http.get("/v1/videos", headers={"host": "evil.example"})).status_code == 421

    ask(tmp_path, calls, api_keys=KEYS, allow_anonymous=True)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:1", "127.1.2.3:80", "[::1]:8000"]
)
def test_loopback_is_known_by_its_names(host: str) -> None:
    assert verdict({"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "2130706433", "0x7f000001",
        "10.0.0.7:8000", "0.0.0.0", "[::]:8000", "[::1", "me@localhost", "localhost/x", "a b", "localhost:x", "::1",
        "a" * 5000,
    ],
)  # fmt: skip
def test_no_other_host_is(host: str) -> None:
    assert verdict({"host": host}) == "host_not_allowed"


def test_names_that_no_host_has_are_not_kept() -> None:
    kept = origin._parsed.cache_info().currsize
    assert {verdict({"host": f"{n}" * 500}) for n in range(9)} == {"host_not_allowed"}
    assert origin._parsed.cache_info().currsize == kept


def test_a_request_without_a_host_or_with_a_second_one_is_refused() -> None:
    origins = Origins((), anonymous=True, listens_on="127.0.0.1")
    for names in ([], ["evil.example", "localhost"], ["localhost", "evil.example"]):
        refused = origins.refusal("GET", Headers(raw=[(b"host", name.encode()) for name in names]))
        assert refused is not None
        assert refused[0] == 421


def test_beyond_the_loopback_interface_any_address_may_be_the_services_but_no_name() -> None:
    for host in ("10.0.0.7:8000", "[2001:db8::1]", "localhost"):
        assert verdict({"host": host}, listens_on="0.0.0.0") is None
    assert verdict({"host": "studio-pc:8000"}, listens_on="0.0.0.0") == "host_not_allowed"
    assert verdict({"host": "studio-pc:8000"}, listens_on="0.0.0.0", allowed=("studio-pc",)) is None


def test_a_listed_host_is_known_at_its_port_or_at_any() -> None:
    assert verdict({"host": "Videos.Example.com:81"}, allowed=("videos.example.com",)) is None
    assert verdict({"host": "videos.example.com:81"}, allowed=("videos.example.com:81",)) is None
    assert verdict({"host": "videos.example.com:82"}, allowed=("videos.example.com:81",)) == "host_not_allowed"
    assert verdict({"host": "10.0.0.7"}, allowed=("10.0.0.7",)) is None
    assert verdict({"host": "a.videos.example.com"}, allowed=("videos.example.com",)) == "host_not_allowed"
    assert verdict({"host": "any.example"}, allowed=("*",)) is None
    assert verdict({"host": "any.example", "origin": EVIL}, "POST", ("*",)) == "cross_site_request"
    configured = Origins(("videos.example.com",), anonymous=False, listens_on="0.0.0.0")
    assert configured.refusal("GET", Headers({"host": "evil.example"})) is not None, "also where keys are needed"


def test_a_forwarded_host_opens_nothing_and_must_be_allowed() -> None:
    for header in ({"x-forwarded-host": "localhost"}, {"forwarded": "host=localhost"}):
        assert verdict({"host": "evil.example", **header}) == "host_not_allowed"
    for header in (
        {"x-forwarded-host": "evil.example"}, {"x-forwarded-host": "localhost, evil.example"},
        {"forwarded": "for=1.2.3.4;Host=evil.example"}, {"forwarded": 'for=1.2.3.4, host="evil.example"'},
    ):  # fmt: skip
        assert verdict(header) == "host_not_allowed"
        assert verdict(header, allowed=("evil.example",)) is None


@pytest.mark.parametrize(
    ("method", "sent", "refused"),
    [
        ("POST", {}, False),  # curl, and OpenAI's clients
        ("POST", {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, False),  # /docs
        ("POST", {"sec-fetch-site": "none"}, False),
        ("POST", {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, True),
        ("POST", {"origin": "http://localhost:8000"}, True),
        ("POST", {"origin": "https://127.0.0.1"}, True),
        ("POST", {"origin": "null"}, True),  # a sandboxed frame, a page of a file, or a redirected form
        ("POST", {"origin": ""}, True),
        ("POST", {"origin": EVIL}, True),  # a browser without Sec-Fetch-Site
        *[
            (method, {"sec-fetch-site": relation}, True)
            for method in ("POST", "DELETE", "PUT", "OPTIONS", "PATCH", "BREW")
            for relation in ("cross-site", "same-site")
        ],
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, True),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, True),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, False),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "video"}, False),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, False),
        ("GET", {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, True),
        ("HEAD", {"sec-fetch-site": "cross-site"}, True),
    ],
)
def test_what_a_browser_says_of_the_page(method: str, sent: dict[str, str], refused: bool) -> None:
    assert verdict(sent, method) == ("cross_site_request" if refused else None)


def test_the_page_of_a_listed_host_may_send() -> None:
    sent = {"origin": "https://studio.example", "sec-fetch-site": "cross-site"}
    assert verdict(sent, "POST") == "cross_site_request"
    assert verdict(sent, "POST", allowed=("studio.example",)) is None
    assert verdict(sent, "POST", allowed=("studio.example:443",)) is None
    assert verdict(sent, "POST", allowed=("studio.example:444",)) == "cross_site_request"


def test_behind_a_proxy_that_ends_tls_the_page_is_still_the_services_own() -> None:
    sent = {"origin": "https://videos.example"}
    assert verdict({**sent, "host": "videos.example"}, "POST", ("*",)) is None
    assert verdict({**sent, "host": "videos.example:8000"}, "POST", ("*",)) == "cross_site_request"
