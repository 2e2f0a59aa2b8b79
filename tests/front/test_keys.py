"""A service with API keys, as a process of its own: who may do what, whose jobs exist for whom, and limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from deployments.api import app
from tests.conftest import DEADLINE_S, PROMPT
from tests.front.conftest import Front

OPEN = {"/healthz", "/readyz", "/metrics"}
REQUESTS = [
    (method.upper(), path.replace("{video_id}", "video_" + "0" * 32).replace("{upload_id}", "upload_" + "0" * 32))
    for path, methods in app.openapi()["paths"].items()
    for method in methods
    if path not in OPEN
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_nothing_but_health_is_open(front: Front, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer kr_wrong"}, {"authorization": "Basic eDp5"}):
        answer = front.http.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "kr_wrong" not in answer.text


def test_health_needs_no_key(front: Front) -> None:
    for path in OPEN:
        answer = front.http.get(path)
        assert answer.status_code == 200, answer.text


def test_every_guarded_route_says_so_in_the_schema(front: Front) -> None:
    paths = front.http.get("/openapi.json").json()["paths"]
    said = {path for path, methods in paths.items() for each in methods.values() if each.get("security")}
    assert said == set(paths) - OPEN


def test_a_scope_is_what_a_key_may_do(front: Front) -> None:
    refused = front.ask("reader", "POST", "/v1/videos", json={"prompt": PROMPT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
    assert front.ask("reader", "GET", "/v1/videos").status_code == 200
    assert front.ask("reader", "GET", "/v1/models").status_code == 200


def test_one_keys_jobs_do_not_exist_for_another(front: Front) -> None:
    mine = front.ask("alice", "POST", "/v1/videos", json={"prompt": PROMPT}).json()["id"]
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}), ("GET", "/content", {}), ("GET", "/events", {}), ("POST", "/cancel", {}), ("DELETE", "", {}),
        ("POST", "/remix", {"json": {"prompt": "x"}}),
    ]  # fmt: skip
    for method, path, body in calls:
        answer = front.ask("bob", method, f"/v1/videos/{mine}{path}", **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (method, path)

    def listed(key: str) -> list[str]:
        return [video["id"] for video in front.ask(key, "GET", "/v1/videos").json()["data"]]

    assert mine in listed("alice")
    assert mine not in listed("bob")
    assert mine in listed("root"), "an admin sees every job"
    assert front.ask("root", "POST", f"/v1/videos/{mine}/cancel").json()["error"]["code"] == "canceled"
    assert front.ask("alice", "DELETE", f"/v1/videos/{mine}").json()["deleted"] is True


def test_one_keys_idempotency_keys_are_its_own(front: Front) -> None:
    def send(key: str) -> str:
        headers = {"idempotency-key": "same"}
        video_id: str = front.ask(key, "POST", "/v1/videos", json={"prompt": PROMPT}, headers=headers).json()["id"]
        return video_id

    assert send("alice") == send("alice")
    assert send("alice") != send("bob")


def test_a_keys_limit_is_429_with_the_time_to_wait(front: Front) -> None:
    created = [front.ask("limited", "POST", "/v1/videos", json={"prompt": PROMPT}) for _ in range(3)]
    assert [each.status_code for each in created] == [200, 200, 429]
    refused = created[-1]
    assert refused.json()["error"]["code"] == "live_jobs_exceeded"
    assert int(refused.headers["retry-after-ms"]) >= 1000
    assert int(refused.headers["retry-after"]) >= 1
    front.ask("limited", "POST", f"/v1/videos/{created[0].json()['id']}/cancel")
    assert front.ask("limited", "POST", "/v1/videos", json={"prompt": PROMPT}).status_code == 200


def test_a_full_queue_is_429_for_everybody(front: Front) -> None:
    def submit() -> httpx2.Response:
        return front.ask("alice", "POST", "/v1/videos", json={"prompt": PROMPT})

    answers = iter(submit, None)
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "max_queued_exceeded")
    for video in front.ask("alice", "GET", "/v1/videos", params={"limit": 100}).json()["data"]:
        front.ask("alice", "POST", f"/v1/videos/{video['id']}/cancel")
    assert submit().status_code == 200


def test_sync_that_takes_too_long_answers_with_the_job(front: Front) -> None:
    answer = front.ask("bob", "POST", "/v1/videos/sync", json={"prompt": PROMPT})
    assert answer.status_code == 202
    assert answer.json()["status"] in ("queued", "in_progress")


def test_webhooks_need_a_secret(front: Front) -> None:
    fields = {"prompt": PROMPT, "webhook_url": "https://example.org/x"}
    refused = front.ask("bob", "POST", "/v1/videos", json=fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "webhook_url")
    assert "KINORAY_WEBHOOK_SECRET" in refused.json()["error"]["message"]


def test_a_service_that_others_can_reach_needs_keys(front: Front, start_front: Callable[..., Any]) -> None:
    del front  # only so that one service at a time starts
    for settings, says in (({}, "knows no API keys"), ({"allow_anonymous": False}, "admits nobody")):
        command = start_front({"host": "0.0.0.0"}, {"api_keys": [], **settings})
        output = " ".join(command.ended(DEADLINE_S).split())
        assert command.process.returncode == 1
        assert says in output
        assert "./kinoray keys new" in output
