"""The HTTP API of a running service: what it refuses, what it answers, what it leaves behind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.service import default_config
from pipelines.card import CheckpointCard
from pipelines.catalogue import get_card
from pipelines.devices import place
from pipelines.protocols import Resources
from tests.conftest import ENDLESS, PROMPT, ServiceClient
from tests.harness.data_urls import data_url

PNG = io.BytesIO()
Image.effect_noise((64, 64), 50).save(PNG, "PNG")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": "sora-2"}, "model", "ltx-tiny"),
        ({"num_frames": 10}, "num_frames", "9 and 11"),
        ({"model": "svd-tiny", "input_reference": data_url(b"not an image")}, "input_reference", "cannot be read"),
    ],
)
def test_refuses_with_a_sentence_and_stores_nothing(
    service: ServiceClient, service_data: Path, fields: dict[str, Any], param: str, says: str
) -> None:
    """Three of many: tests/unit/test_refusals.py."""
    stored = service_data / "artifacts" / "videos"
    before = service.http.get("/v1/videos").json()["first_id"], set(stored.glob("*"))
    response = service.http.post("/v1/videos", json={"prompt": PROMPT, **fields})
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"]
    assert (service.http.get("/v1/videos").json()["first_id"], set(stored.glob("*"))) == before


def test_errors_never_echo_what_was_sent(service: ServiceClient) -> None:
    response = service.http.post("/v1/videos", json={"prompt": ["hunter2"], "width": "hunter2"})
    assert response.status_code == 400
    assert "hunter2" not in response.text
    unsaid = service.http.post("/v1/videos", content=b'{"prompt": "hunter2"}')  # as curl -d sends it
    assert (unsaid.status_code, unsaid.json()["error"]["code"]) == (400, "unknown_content_type")
    assert "hunter2" not in unsaid.text
    odd = service.http.post(
        "/v1/videos", content=b'{"\\ud800 hunter2": 1}', headers={"content-type": "application/json"}
    )
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, None)
    assert "hunter2" not in odd.text


def test_unknown_routes_and_videos_have_the_same_error_shape(service: ServiceClient) -> None:
    for path in ("/v1/videos/video_none", "/v1/videos/video_none/content", "/v1/videos/%00", "/nowhere"):
        response = service.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = service.http.get("/v1/videos", params={"limit": 0})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")
    response = service.http.get("/v1/videos", params={"after": "\0"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


def test_what_no_model_here_can_do_is_501(service: ServiceClient) -> None:
    answers = [service.http.post(f"/v1/videos/{call}", json={}) for call in ("edits", "extensions", "characters")]
    answers.append(service.http.get("/v1/videos/characters/char_1"))
    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(501, "not_implemented")] * 4


def test_too_large_a_body_is_413(service: ServiceClient) -> None:
    response = service.http.post("/v1/videos", files={"input_reference": b"x" * (33 * 2**20)}, data={"prompt": PROMPT})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "payload_too_large")


def test_progress_rises_and_content_comes_only_when_completed(service: ServiceClient) -> None:
    created = service.create(num_inference_steps=100, width=128, height=128)  # some seconds anywhere
    early = service.http.get(f"/v1/videos/{created['id']}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (400, "video_not_ready")
    seen = service.until(created["id"], lambda v: v["status"] == "completed")
    progress = [video["progress"] for video in seen]
    assert progress == sorted(progress)
    assert len({value for value in progress if 5 < value < 85}) >= 3, "steps are reported"
    assert all(video["progress"] < 100 for video in seen[:-1])
    assert seen[-1]["progress"] == 100
    assert set(seen[-1]["stage_seconds"]) == {"text_encode", "denoise", "decode", "publish"}
    on_gpu = default_config().name == "gpu.yaml"
    card = get_card("ltx-tiny")
    assert isinstance(card, CheckpointCard)
    assert seen[-1]["result_metadata"].items() >= place(card, Resources(on_gpu)).result_metadata().items()


def test_one_seed_gives_identical_bytes_and_is_reported_when_random(service: ServiceClient) -> None:
    first = service.finish(service.create()["id"])
    again = [service.create(seed=first["seed"]) for _ in range(12)]
    other = service.finish(service.create()["id"])
    assert service.content(first["id"]) != service.content(other["id"])
    for variant in ("video", "thumbnail", "spritesheet"):
        files = {service.content(service.finish(each["id"])["id"], variant) for each in again}
        assert files == {service.content(first["id"], variant)}


def test_form_and_json_are_the_same_request(service: ServiceClient) -> None:
    fields = {"prompt": PROMPT, "seed": "7", "size": "96x64"}
    form = service.http.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})
    json = service.create(seed=7, size="96x64")
    assert form.json()["parameters"] == json["parameters"]
    assert service.content(service.finish(form.json()["id"])["id"]) == service.content(service.finish(json["id"])["id"])


def test_ranges_of_the_content(service: ServiceClient) -> None:
    video = service.finish(service.create()["id"])
    part = service.http.get(f"/v1/videos/{video['id']}/content", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_deleting_a_live_job_frees_the_denoiser_and_leaves_nothing(service: ServiceClient, service_data: Path) -> None:
    long = service.create(**ENDLESS, input_reference=data_url(PNG.getvalue()))
    service.until(long["id"], lambda v: v["stage"] == "denoise")
    assert service.http.delete(f"/v1/videos/{long['id']}").json()["deleted"] is True
    service.finish(service.create()["id"])  # in a fraction of the time that the deleted job would have taken
    assert service.http.get(f"/v1/videos/{long['id']}").status_code == 404
    assert not (service_data / "artifacts" / "videos" / long["id"]).exists()


def test_canceling_a_live_job_frees_the_denoiser(service: ServiceClient, service_data: Path) -> None:
    long = service.create(**ENDLESS, input_reference=data_url(PNG.getvalue()))
    service.until(long["id"], lambda v: v["stage"] == "denoise")
    canceled = service.http.post(f"/v1/videos/{long['id']}/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "failed")
    assert canceled.json()["error"]["code"] == "canceled"
    done = service.finish(service.create()["id"])  # in a fraction of the time that the canceled job would have taken
    assert service.get(long["id"])["error"]["code"] == "canceled"
    left = service_data / "artifacts" / "videos" / long["id"]
    service.until(long["id"], lambda _: not left.exists())
    again = service.http.post(f"/v1/videos/{done['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert service.http.post("/v1/videos/video_none/cancel").status_code == 404


def test_health_readiness_models_and_metrics(service: ServiceClient) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    ready = service.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "waiting_for": [], "cannot_start": {}})
    models = service.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["ltx-tiny", "svd-tiny"]
    live = service.create(num_inference_steps=100)
    assert 'kinoray_jobs{model="ltx-tiny",status=' in service.http.get("/metrics").text
    service.finish(live["id"])


def test_any_authorization_header_is_ignored(service: ServiceClient) -> None:
    assert service.http.get("/v1/models", headers={"authorization": "Bearer x"}).status_code == 200
