"""What a request may ask for beside the video: its place in the queue, files, time to keep, news, and no repetition."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from pipelines.paths import ROOT
from tests.conftest import DEADLINE_S, ENDLESS, PROMPT, WEBHOOK_SECRET, ServiceClient
from tests.harness.receiver import receive


def test_a_poster_and_a_spritesheet_are_made_by_default(service: ServiceClient) -> None:
    video = service.finish(service.create(size="96x64")["id"])
    for variant, size in (("thumbnail", (96, 64)), ("spritesheet", (5 * 96, 2 * 64))):
        answer = service.http.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(answer.content)).size == size
    assert video["urls"].keys() == {"video", "thumbnail", "spritesheet"}
    assert all(service.http.get(url).status_code == 200 for url in video["urls"].values())
    unknown = service.http.get(f"/v1/videos/{video['id']}/content", params={"variant": "audio"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "variant")


def test_files_that_were_not_asked_for_are_not_there(service: ServiceClient, service_data: Path) -> None:
    fine = service.finish(service.create(seed=1, thumbnail=False, spritesheet=False, crf=5)["id"])
    plain = service.finish(service.create(seed=1)["id"])
    missing = service.http.get(f"/v1/videos/{fine['id']}/content", params={"variant": "thumbnail"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert fine["urls"].keys() == {"video"}
    assert len(service.content(fine["id"])) > len(service.content(plain["id"])), "a lower CRF takes more bytes"
    folder = service_data / "artifacts" / "videos" / fine["id"]
    assert {path.name for path in folder.iterdir()} == {"video.mp4", "metadata.json"}
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["id"], metadata["parameters"]["seed"]) == (fine["id"], 1)


def test_a_remix_keeps_all_that_is_not_said(service: ServiceClient) -> None:
    source = service.finish(service.create(seed=5, size="96x64", num_frames=11)["id"])
    body = {"prompt": "a blue circle moves right on a white background"}
    remix = service.http.post(f"/v1/videos/{source['id']}/remix", json=body).json()
    assert remix["remixed_from_video_id"] == source["id"]
    assert remix["prompt"] == body["prompt"]
    assert remix["parameters"] == source["parameters"]
    again = service.http.post(f"/v1/videos/{source['id']}/remix", json={"seconds": 1, "size": "64x64"}).json()
    assert (again["size"], again["parameters"]["num_frames"], again["seed"]) == ("64x64", 9, 5)
    assert again["prompt"] == source["prompt"]
    assert service.content(service.finish(again["id"])["id"]) != service.content(source["id"])
    refused = service.http.post(f"/v1/videos/{source['id']}/remix", json={"model": "svd-tiny"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    assert service.http.post("/v1/videos/video_none/remix", json=body).status_code == 404


def test_a_remix_takes_its_sources_image(service: ServiceClient) -> None:
    picture = (Path(__file__).parents[1] / "contract" / "red-circle-white.png").read_bytes()
    fields = {"model": "svd-tiny", "seed": "2", "num_inference_steps": "2"}
    source = service.http.post("/v1/videos", data=fields, files={"input_reference": picture}).json()
    service.finish(source["id"])
    remix = service.http.post(f"/v1/videos/{source['id']}/remix", json={})
    assert service.content(service.finish(remix.json()["id"])["id"]) == service.content(source["id"])


def test_one_idempotency_key_is_one_video_however_often_it_is_sent(service: ServiceClient) -> None:
    def send(fields: dict[str, Any]) -> httpx2.Response:
        """As OpenAI's clients do: what is refused because there are too many at once is sent again."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answer = service.http.post("/v1/videos", json=fields, headers={"idempotency-key": "order-66"})
            refused = answer.status_code == 503 and answer.json()["error"]["code"] == "overloaded"
            if not refused or time.monotonic() > deadline:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    fields = {"prompt": PROMPT, "user": "twice"}
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(send, [fields] * 30))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = send({**fields, "user": "thrice"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    wrong = service.http.post("/v1/videos", json=fields, headers={"idempotency-key": "x" * 300})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.long
def test_a_high_priority_goes_before_what_waited_longer(service: ServiceClient) -> None:
    service.finish(service.create()["id"])  # so that times are known
    # Of two classes: one of the same would put the work of the first before the turn of whatever comes.
    busy = [service.create(**ENDLESS, priority=priority)["id"] for priority in ("normal", "low")]
    try:
        for each in busy:  # one has the denoiser, one is ready for it
            service.until(each, lambda video: video["status"] == "in_progress")
        low, last, high = (service.create(priority=priority) for priority in ("low", "low", "high"))
        assert [video["priority"] for video in (low, last, high)] == ["low", "low", "high"]
        # The view of the queue may be older than all three.
        service.until(low["id"], lambda video: video["queue_position"] == 1 and (video["eta_seconds"] or 0) > 0)
        service.until(last["id"], lambda video: video["queue_position"] == 2)
        assert service.get(busy[0])["queue_position"] is None
        service.finish(high["id"])
        assert {service.get(each)["status"] for each in busy} == {"in_progress"}, "it waited for neither"
        assert service.get(low["id"])["status"] == "queued"
    finally:
        for each in busy:
            service.http.post(f"/v1/videos/{each}/cancel")
    service.finish(low["id"])
    last = service.finish(last["id"])
    assert (last["queue_position"], last["eta_seconds"]) == (None, None)
    refused = service.http.post("/v1/videos", json={"prompt": PROMPT, "priority": "urgent"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")


def test_files_expire_when_their_time_is_up(service: ServiceClient, service_data: Path) -> None:
    video = service.finish(service.create(expires_in=1)["id"])
    assert video["expires_at"] == pytest.approx(video["completed_at"] + 1, abs=1)
    folder = service_data / "artifacts" / "videos" / video["id"]
    service.until(video["id"], lambda _: not folder.exists())
    gone = service.http.get(f"/v1/videos/{video['id']}/content")
    assert gone.status_code == 404
    service.until(
        video["id"],
        lambda _: service.http.get(f"/v1/videos/{video['id']}/content").json()["error"]["code"] == "video_expired",
    )
    assert service.get(video["id"])["status"] == "completed", "the record stays"


def test_the_end_of_a_job_is_told_to_its_webhook(service: ServiceClient) -> None:
    with receive() as receiver, openai.OpenAI(api_key="x", webhook_secret=WEBHOOK_SECRET) as client:
        done = service.create(webhook_url=receiver.url)
        canceled = service.create(webhook_url=receiver.url, **ENDLESS)
        service.http.post(f"/v1/videos/{canceled['id']}/cancel")
        service.finish(done["id"])
        service.until(done["id"], lambda _: len(receiver.received) == 2)
        told = {}
        for each in receiver.received:
            client.webhooks.verify_signature(each.body, each.headers)
            payload = json.loads(each.body)
            told[payload["data"]["id"]] = payload["type"]
        assert told == {done["id"]: "video.completed", canceled["id"]: "video.canceled"}
    private = service.http.post("/v1/videos", json={"prompt": PROMPT, "webhook_url": "https://10.0.0.1/x"})
    assert (private.status_code, private.json()["error"]["param"]) == (400, "webhook_url")


def test_an_image_can_be_uploaded_before_it_is_used(service: ServiceClient) -> None:
    picture = (ROOT / "models/svd-tiny/example.png").read_bytes()
    asked = {"bytes": len(picture), "mime_type": "image/png"}
    upload = service.http.post("/v1/uploads", json=asked).json()
    fields = {"model": "svd-tiny", "input_reference": upload["id"]}
    early = service.http.post("/v1/videos", json=fields)
    assert (early.status_code, early.json()["error"]["code"]) == (400, "upload_not_found")
    assert service.http.put(upload["url"], content=picture, headers=upload["headers"]).status_code == 204
    service.finish(service.http.post("/v1/videos", json=fields).json()["id"])
    assert service.http.put(upload["url"], content=b"another size").status_code == 400
    assert service.http.put(upload["url"], content=bytes(len(picture))).status_code == 204
    refused = service.http.post("/v1/videos", json=fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_reference")


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"bytes": 0, "mime_type": "image/png"}, 400, "bytes"),
        ({"bytes": 1, "mime_type": "video/mp4"}, 400, "mime_type"),
        ({"bytes": 1, "mime_type": "image/png", "purpose": "vision"}, 400, "purpose"),
        ({"bytes": 10**12, "mime_type": "image/png"}, 413, "bytes"),
    ],
)
def test_an_upload_that_cannot_be_is_refused(
    service: ServiceClient, asked: dict[str, Any], status: int, param: str
) -> None:
    refused = service.http.post("/v1/uploads", json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_an_image_is_fetched_from_its_url(service: ServiceClient) -> None:
    picture = (Path(__file__).parents[1] / "contract" / "red-circle-white.png").read_bytes()
    with receive() as receiver:
        receiver.answers = [(200, {"content-type": "image/png"}, picture)]
        fields = {"model": "svd-tiny", "seed": 3, "num_inference_steps": 2}
        fetched = service.http.post("/v1/videos", json={**fields, "input_reference": receiver.url})
        assert fetched.status_code == 200, fetched.text
        receiver.answers = [(404, {}, b"")]
        missing = service.http.post("/v1/videos", json={**fields, "input_reference": receiver.url})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "input_reference")
    sent = service.http.post(
        "/v1/videos", data={name: str(value) for name, value in fields.items()}, files={"input_reference": picture}
    ).json()
    assert service.content(service.finish(fetched.json()["id"])["id"]) == service.content(
        service.finish(sent["id"])["id"]
    )
