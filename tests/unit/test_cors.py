"""Pages of configured origins may call the API and read all that it answers; others may not, and without the setting
nobody may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.datastructures import Headers

from deployments import api
from deployments.configuration.api_keys import fingerprint
from deployments.configuration.settings import Settings, load_settings
from deployments.http.cors import EXPOSED
from deployments.http.origin import Origins
from pipelines.errors import ConfigError
from tests.unit.api_world import ApiWorld, until
from tests.unit.wire_world import completed, talk

STUDIO, EVIL = "https://studio.example", "https://evil.example"
KEY = "kr_secret"
KEYS = [{"name": "studio", "sha256": fingerprint(KEY)}]
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,idempotency-key,prefer,x-stainless-lang",
    "sec-fetch-mode": "cors", "sec-fetch-site": "cross-site",
}  # fmt: skip
SENT = (
    "authorization",
    "idempotency-key",
    "prefer",
    "last-event-id",
    "range",
    "if-none-match",
    "x-stainless-retry-count",
)


def allowed(answer: httpx2.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def page(origin: str, **headers: str) -> dict[str, str]:
    """What a browser sends for a page of another site."""
    return {"origin": origin, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", **headers}


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        asked = await http.options("/v1/videos", headers={**PREFLIGHT, "origin": STUDIO})
        assert (asked.status_code, asked.headers["allow"]) == (405, "GET, HEAD, POST")
        told = await http.get("/v1/videos", headers=page(STUDIO, authorization=f"Bearer {KEY}"))
        assert told.status_code == 200
        for answer in (asked, told):
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            assert "vary" not in answer.headers

    talk(tmp_path, calls, api_keys=KEYS)


def test_a_preflight_needs_no_key_and_takes_no_place(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        with world.api.in_hand.enter(Headers({"content-length": "1"})) as place:
            place.read()  # no create is taken now
            for path in ("/v1/videos", "/v1/videos/sync", "/v1/videos/video_1/events", "/v1/uploads/x", "/nowhere"):
                for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                    headers = {**PREFLIGHT, "origin": STUDIO, "access-control-request-method": method}
                    asked = await http.options(path, headers=headers)
                    assert (asked.status_code, allowed(asked)) == (200, STUDIO), (path, method)
                    assert method in asked.headers["access-control-allow-methods"].split(", ")
                    assert asked.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
                    assert asked.headers["access-control-max-age"] == "600"
                    assert "access-control-allow-credentials" not in asked.headers
            for name in SENT:
                asked = await http.options(
                    "/v1/videos", headers={**PREFLIGHT, "origin": STUDIO, "access-control-request-headers": name}
                )
                assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (200, name)
            nearby = {**PREFLIGHT, "origin": STUDIO, "access-control-request-private-network": "true"}
            asked = await http.options("/v1/videos", headers=nearby)
            assert asked.headers["access-control-allow-private-network"] == "true"
            refused = await http.post(
                "/v1/videos", json={"prompt": "p"}, headers=page(STUDIO, authorization=f"Bearer {KEY}")
            )
            assert (refused.status_code, refused.json()["error"]["code"], allowed(refused)) == (
                503,
                "overloaded",
                STUDIO,
            )

    talk(tmp_path, calls, api_keys=KEYS, cors_origins=(STUDIO,), max_creates_at_once=1)


def test_a_preflight_that_is_refused_says_so_in_the_documented_form(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for origin, method, status, code in (
            (EVIL, "POST", 403, "cross_site_request"),
            ("null", "POST", 403, "cross_site_request"),
            (f"{STUDIO}:8443", "POST", 403, "cross_site_request"),
            ("http://studio.example", "GET", 403, "cross_site_request"),
            (STUDIO, "BREW", 400, "invalid_request"),
        ):
            headers = {**PREFLIGHT, "origin": origin, "access-control-request-method": method}
            asked = await http.options("/v1/videos", headers=headers)
            assert (asked.status_code, asked.json()["error"]["code"]) == (status, code)
            assert allowed(asked) in (None, STUDIO if origin == STUDIO else None)

    talk(tmp_path, calls, api_keys=KEYS, cors_origins=(STUDIO,))


def test_every_answer_can_be_read(tmp_path: Path) -> None:
    key = {"authorization": f"Bearer {KEY}"}

    async def calls(http: httpx2.AsyncClient, world: ApiWorld) -> None:
        video_id = await completed(http, world, **key)
        live = (await http.post("/v1/videos", json={"prompt": "p"}, headers=key)).json()["id"]
        content = f"/v1/videos/{video_id}/content"
        etag = (await http.get(content, headers=key)).headers["etag"]
        requests: list[tuple[int, str, str, dict[str, Any]]] = [
            (200, "GET", f"/v1/videos/{video_id}", {}),
            (200, "HEAD", "/v1/videos", {}),
            (200, "GET", f"/v1/videos/{video_id}/events", {}),
            (206, "GET", content, {"range": "bytes=0-1"}),
            (416, "GET", content, {"range": "bytes=999-"}),
            (304, "GET", content, {"if-none-match": etag}),
            (401, "GET", "/v1/videos", {"authorization": "Bearer wrong"}),
            (404, "GET", "/nowhere", {}),
            (405, "PUT", "/v1/videos", {}),
            (400, "POST", "/v1/videos", {}),
            (400, "GET", "/v1/videos", {"x-forwarded-prefix": "//x"}),
            (429, "POST", "/v1/videos", {"content-type": "application/json"}),
            (200, "DELETE", f"/v1/videos/{live}", {}),
        ]
        for status, method, path, headers in requests:
            body = b'{"prompt": "p"}' if status == 429 else None
            answer = await http.request(method, path, headers=page(STUDIO, **{**key, **headers}), content=body)
            assert (answer.status_code, allowed(answer)) == (status, STUDIO), (method, path)
            assert answer.headers["access-control-expose-headers"].split(", ") == list(EXPOSED)
            assert answer.headers["vary"] == "Origin"
            other = await http.request(method, path, headers=page(EVIL, **{**key, **headers}), content=body)
            assert (allowed(other), other.headers["vary"]) == (None, "Origin")

        def fault(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        world.api.jobs.page = fault
        broken = await http.get("/v1/videos", headers=page(STUDIO, **key))
        assert (broken.status_code, allowed(broken)) == (500, STUDIO)

    talk(tmp_path, calls, api_keys=KEYS, cors_origins=(STUDIO,), max_queued=1)


def test_a_page_may_read_every_header_that_clients_need() -> None:
    needed = {
        "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-poll-after-ms", "preference-applied",
        "content-range", "accept-ranges", "etag", "content-disposition", "location", "x-video-id", "allow",
    }  # fmt: skip
    assert needed <= set(EXPOSED)


def test_events_come_as_they_happen(tmp_path: Path) -> None:
    """Nothing on the way gathers them."""
    parts: list[Any] = []

    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        job = (await http.post("/v1/videos", json={"prompt": "p"})).json()

        async def nothing() -> Any:
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            parts.append(message)

        headers = [(b"host", b"127.0.0.1"), *((name.encode(), value.encode()) for name, value in page(STUDIO).items())]
        path = f"/v1/videos/{job['id']}/events"
        scope: Any = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        stream = asyncio.create_task(api.app(scope, nothing, send))
        await until(lambda: len(parts) > 1)
        assert (b"access-control-allow-origin", STUDIO.encode()) in parts[0]["headers"]
        assert b"video.queued" in parts[1]["body"]
        await http.post(f"/v1/videos/{job['id']}/cancel")
        await asyncio.wait_for(stream, 60)
        assert b"video.canceled" in b"".join(part.get("body", b"") for part in parts)

    talk(tmp_path, calls, cors_origins=(STUDIO,))


def test_without_keys_the_pages_of_a_configured_origin_may_call_and_no_others(tmp_path: Path) -> None:
    async def calls(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        made = await http.post("/v1/videos", json={"prompt": "p"}, headers=page(STUDIO))
        assert (made.status_code, allowed(made)) == (200, STUDIO)
        for origin in (EVIL, "null", "http://studio.example"):
            refused = await http.post("/v1/videos", json={"prompt": "p"}, headers=page(origin))
            assert (refused.status_code, refused.json()["error"]["code"], allowed(refused)) == (
                403,
                "cross_site_request",
                None,
            )
        rebound = await http.get("/v1/videos", headers={**page(STUDIO), "host": "evil.example"})
        assert rebound.status_code == 421, "a page that may call still has to call a known host"

    talk(tmp_path, calls, cors_origins=(STUDIO,))


def test_every_page_may_call_only_where_a_key_is_needed(tmp_path: Path) -> None:
    async def with_keys(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        asked = await http.options("/v1/videos", headers={**PREFLIGHT, "origin": EVIL})
        assert (asked.status_code, allowed(asked)) == (200, "*")
        read = await http.get("/v1/videos", headers=page(EVIL, authorization=f"Bearer {KEY}"))
        assert (read.status_code, allowed(read)) == (200, "*")

    async def without(http: httpx2.AsyncClient, _: ApiWorld) -> None:
        for method in ("GET", "POST"):
            assert (await http.request(method, "/v1/videos", headers=page(EVIL))).status_code == 403

    talk(tmp_path / "a", with_keys, api_keys=KEYS, cors_origins=("*",), allowed_hosts=("127.0.0.1",))
    talk(tmp_path / "b", without, cors_origins=("*",))
    origins = Origins(("kinoray.example",), anonymous=True, listens_on="127.0.0.1", cors_origins=("*",))
    assert origins.refusal("POST", Headers({"host": "localhost", **page(EVIL)})) is not None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://studio.example", "https://studio.example"),
        ("HTTPS://Studio.Example:443/", "https://studio.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(written: str, read: str) -> None:
    assert load_settings({"cors_origins": [written]}).cors_origins == (read,)


@pytest.mark.parametrize(
    "wrong",
    ["studio.example", "null", "https://", "https://*.example", "https://a.example/app", "https://a b", "", "**"],
)
def test_what_is_no_origin_is_refused_with_a_sentence(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"args\.cors_origins: .*(is not|is more than)"):
        load_settings({"cors_origins": [wrong]})
    assert Settings().cors_origins == ()
