"""Following a job without asking again and again: server-sent events, `Prefer: wait`, and the call that waits."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from tests.conftest import DEADLINE_S, ENDLESS, PROMPT, ServiceClient
from tests.harness.processes import until


def events(response: httpx2.Response) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Id, name and data of each event as it arrives."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "event" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def follow(service: ServiceClient, video_id: str, last: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    headers = {} if last is None else {"last-event-id": str(last)}
    with service.http.stream("GET", f"/v1/videos/{video_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def test_events_begin_with_a_snapshot_and_close_after_the_end(service: ServiceClient) -> None:
    job = service.create(num_inference_steps=100, width=128, height=128)  # some seconds, also on a fast machine
    seen = follow(service, job["id"])
    ids, names, data = zip(*seen, strict=True)
    assert list(ids) == sorted(set(ids))
    assert names[0] in ("video.queued", "video.progress")
    assert data[0]["object"] == "video", "the first event is the whole video"
    assert data[0]["parameters"] == job["parameters"]
    assert set(names[1:-1]) == {"video.progress"}
    assert names[-1] == "video.completed"
    assert [each["progress"] for each in data] == sorted(each["progress"] for each in data)
    assert "denoise" in {each["stage"] for each in data}  # the others may be over between two looks at the store
    assert max(each["step"] or 0 for each in data) > 10
    assert data[-1]["progress"] == 100


def test_a_reader_that_was_cut_off_goes_on_after_the_last_event_it_has(service: ServiceClient) -> None:
    job = service.create(num_inference_steps=100)
    first = []
    with service.http.stream("GET", f"/v1/videos/{job['id']}/events") as response:
        for event in events(response):
            first.append(event)
            if event[2]["stage"] == "denoise":
                break
    last = first[-1][0]
    rest = follow(service, job["id"], last)
    assert rest[0][0] > last
    assert "object" not in rest[0][2], "no second snapshot"
    assert rest[-1][1] == "video.completed"
    ended = rest[-1][0]
    assert [event[0] for event in follow(service, job["id"], 0)] == [1, ended], (
        "of an ended job its milestones are kept"
    )
    done = service.http.get(f"/v1/videos/{job['id']}/events", headers={"last-event-id": str(ended)})
    assert (done.status_code, done.content) == (204, b"")


def test_the_stream_of_a_canceled_and_of_a_deleted_job_says_so(service: ServiceClient) -> None:
    for how, name in (("cancel", "video.canceled"), ("delete", "video.deleted")):
        job = service.create(**ENDLESS)
        with service.http.stream("GET", f"/v1/videos/{job['id']}/events") as response:
            stream = events(response)
            next(stream)
            with httpx2.Client(base_url=service.url, trust_env=False) as other:
                path = f"/v1/videos/{job['id']}"
                assert (other.post(f"{path}/cancel") if how == "cancel" else other.delete(path)).status_code == 200
            assert list(stream)[-1][1] in (name, "video.canceled")
    assert service.http.get("/v1/videos/video_none/events").status_code == 404
    wrong = service.http.get(f"/v1/videos/{service.create()['id']}/events", headers={"last-event-id": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_prefer_wait_answers_when_the_video_is_there_or_the_time_is_up(service: ServiceClient) -> None:
    done = service.http.post("/v1/videos", json={"prompt": PROMPT}, headers={"prefer": "respond-async, wait=60"})
    assert (done.status_code, done.json()["status"]) == (200, "completed")
    assert done.headers["preference-applied"] == "wait=60"
    started = time.monotonic()
    early = service.http.post("/v1/videos", json={"prompt": PROMPT, **ENDLESS}, headers={"prefer": "wait=1"})
    assert early.json()["status"] in ("queued", "in_progress")
    assert time.monotonic() - started > 0.9
    assert "preference-applied" not in service.http.post("/v1/videos", json={"prompt": PROMPT}).headers
    service.http.post(f"/v1/videos/{early.json()['id']}/cancel")


def test_sync_answers_with_the_video_itself(service: ServiceClient) -> None:
    answer = service.http.post("/v1/videos/sync", json={"prompt": PROMPT, "seed": 11})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    video_id = answer.headers["x-video-id"]
    assert answer.content == service.content(video_id)
    assert service.get(video_id)["seed"] == 11
    refused = service.http.post("/v1/videos/sync", json={"prompt": ""})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


def test_a_client_that_leaves_a_sync_call_cancels_its_video(service: ServiceClient) -> None:
    url = httpx2.URL(service.url)
    body = json.dumps({"prompt": PROMPT, "user": "impatient", **ENDLESS}).encode()
    head = f"POST /v1/videos/sync HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((url.host, url.port)) as impatient:
        impatient.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        job_id = job_of(service, "impatient")
    ended = service.until(job_id, lambda video: video["status"] == "failed")[-1]
    assert ended["error"]["code"] == "canceled"


def test_a_job_canceled_by_another_ends_the_wait(service: ServiceClient) -> None:
    fields = {"prompt": PROMPT, "user": "waiting", **ENDLESS}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.http.post, "/v1/videos/sync", json=fields)
        assert service.http.post(f"/v1/videos/{job_of(service, 'waiting')}/cancel").status_code == 200
        answer = waiting.result(DEADLINE_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "canceled")
    assert answer.headers["x-should-retry"] == "false"


def job_of(service: ServiceClient, user: str) -> str:
    """The id of a user's job, once it is accepted."""
    found: list[str] = []

    def is_accepted() -> bool:
        found[:] = [each["id"] for each in service.http.get("/v1/videos").json()["data"] if each["user"] == user]
        return bool(found)

    until(is_accepted, f"{user} has a job", DEADLINE_S)
    return found[0]
