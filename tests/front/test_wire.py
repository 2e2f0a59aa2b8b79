"""What Serve's proxy makes of the API's answers, of paths under a `route_prefix`, and of what it answers by itself."""

from __future__ import annotations

import httpx2

from deployments.http.cors import EXPOSED
from tests.conftest import DEADLINE_S, PROMPT
from tests.front.conftest import PAGE, PREFIX, Front

BROWSER = {"origin": PAGE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}


def allowed(answer: httpx2.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def outside(front: Front, path: str, **headers: str) -> httpx2.Response:
    """A request for a path that does not begin with the prefix."""
    url = front.url.removesuffix(PREFIX) + path
    return httpx2.get(url, headers=headers, timeout=DEADLINE_S, trust_env=False)


def test_the_command_finds_the_service_and_every_link_leads_there(front: Front) -> None:
    front.command.wait_for(lambda: f"Kinoray listens on {front.url} " in front.command.output.read_text())
    assert f"url: '{PREFIX}/openapi.json'" in front.http.get("/docs").text
    assert front.http.get("/openapi.json").json()["servers"] == [{"url": PREFIX}]
    picture = b"not a picture, which only a job would find out"
    asked = {"bytes": len(picture), "mime_type": "image/png"}
    upload = front.ask("alice", "POST", "/v1/uploads", json=asked).json()
    assert upload["url"] == f"{front.url}/v1/uploads/{upload['id']}"
    headers = {**upload["headers"], "authorization": f"Bearer {front.keys['alice']}"}
    sent = httpx2.put(upload["url"], content=picture, headers=headers, timeout=DEADLINE_S, trust_env=False)
    assert sent.status_code == 204, sent.text
    moved = front.ask("alice", "GET", "/v1/videos/", headers={"x-forwarded-prefix": "/outer"})
    assert moved.headers["location"] == f"{front.url.removesuffix(PREFIX)}/outer{PREFIX}/v1/videos"


def test_head_is_get_without_its_body(front: Front) -> None:
    video = front.ask("alice", "POST", "/v1/videos", json={"prompt": PROMPT}).json()
    for path in ("/healthz", "/v1/models", "/docs", f"/v1/videos/{video['id']}/content"):
        got, asked = front.ask("alice", "GET", path), front.ask("alice", "HEAD", path)
        assert (path, asked.status_code, asked.content) == (path, got.status_code, b"")
        assert asked.headers["content-length"] == got.headers["content-length"] == str(len(got.content))
    events = front.ask("alice", "HEAD", f"/v1/videos/{video['id']}/events")
    assert (events.status_code, events.content) == (200, b"")
    front.ask("alice", "POST", f"/v1/videos/{video['id']}/cancel")


def test_serves_own_answers_have_the_documented_form(front: Front) -> None:
    for path in ("/v1/videos", "/", f"{PREFIX}x/v1/videos"):
        answer = outside(front, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
        assert answer.headers["x-request-id"]
    assert outside(front, "/-/routes").json() == {PREFIX: "kinoray"}
    unknown = front.ask("alice", "GET", "/nowhere")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    wrong = front.http.request("PATCH", "/v1/videos")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_page_may_call_and_read_every_answer(front: Front) -> None:
    preflight = {
        **BROWSER, "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,idempotency-key",
    }  # fmt: skip
    asked = front.http.options("/v1/videos", headers=preflight)
    assert (asked.status_code, allowed(asked)) == (200, PAGE)
    made = front.ask("bob", "POST", "/v1/videos", json={"prompt": PROMPT}, headers=BROWSER)
    assert (made.status_code, allowed(made)) == (200, PAGE)
    assert made.headers["access-control-expose-headers"].split(", ") == list(EXPOSED)
    headers = {**BROWSER, "authorization": f"Bearer {front.keys['bob']}"}
    with front.http.stream("GET", f"/v1/videos/{made.json()['id']}/events", headers=headers) as stream:
        assert allowed(stream) == PAGE
        assert "event: video." in next(stream.iter_text())
    for answer, status in (
        (front.http.get("/v1/videos", headers=BROWSER), 401),
        (front.ask("bob", "GET", "/nowhere", headers=BROWSER), 404),
        (outside(front, "/v1/videos", **BROWSER), 404),
    ):
        assert (answer.status_code, allowed(answer)) == (status, PAGE)
    for origin in ("https://evil.example", "null"):
        assert allowed(front.ask("bob", "GET", "/v1/videos", headers={**BROWSER, "origin": origin})) is None
        assert allowed(outside(front, "/v1/videos", **{**BROWSER, "origin": origin})) is None
    front.ask("bob", "POST", f"/v1/videos/{made.json()['id']}/cancel")
