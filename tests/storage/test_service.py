"""A service whose artifacts are in a bucket, and what becomes of its videos while that cannot be used."""

from __future__ import annotations

import copy
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from cli.service import run_service
from pipelines.paths import ROOT
from tests.conftest import DEADLINE_S, PROMPT, ServiceClient
from tests.harness.bucket import PREFIX, bucket_config, folder_of, killed, objects, unfinished_uploads
from tests.harness.bucket_server import BUCKET, BucketServer
from tests.harness.chaos.verdict import FILES
from tests.harness.data_urls import EXAMPLE as PICTURE
from tests.harness.faulty_network import Fault, FaultyNetwork
from tests.harness.processes import until
from tests.harness.serving import deploy, replica_pid

MAX_UNPUBLISHED = 3


@pytest.fixture(scope="package")
def service(network: FaultyNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    config = bucket_config(network)
    config["applications"][0]["args"].update(max_unpublished=MAX_UNPUBLISHED)
    with run_service(config, data=tmp_path_factory.mktemp("data"), private=True, graceful=False) as url:
        client = ServiceClient(url, config)
        yield client
        client.http.close()


@pytest.fixture(scope="package")
def undisturbed(service: ServiceClient) -> bytes:
    return download(service, service.finish(service.create(seed=1)["id"])["id"])


def download(service: ServiceClient, video_id: str, variant: str = "video") -> bytes:
    answer = service.http.get(f"/v1/videos/{video_id}/content", params={"variant": variant}, follow_redirects=True)
    assert answer.status_code == 200, answer.text
    return answer.content


def assert_whole(service: ServiceClient, server: BucketServer, video: dict[str, Any], undisturbed: bytes) -> None:
    """Made in one attempt, as if nothing had happened, and nothing half is left."""
    assert video["attempts"] == 1
    assert download(service, video["id"]) == undisturbed
    assert objects(server, folder_of(video)).keys() == FILES
    assert unfinished_uploads(server) == []


def waits_for_its_store(video: dict[str, Any]) -> bool:
    return video["stage"] == "publish"


def test_a_video_lives_in_the_bucket(service: ServiceClient, bucket_server: BucketServer) -> None:
    video = service.finish(service.create()["id"])
    answer = service.http.get(f"/v1/videos/{video['id']}/content")
    assert (answer.status_code, answer.headers["cache-control"]) == (302, "no-store")
    assert f"/{BUCKET}/{PREFIX}{folder_of(video)}video.mp4?" in answer.headers["location"]
    assert httpx2.get(video["urls"]["video"]).content == download(service, video["id"])
    assert download(service, video["id"])[4:8] == b"ftyp"
    assert download(service, video["id"], "thumbnail")[8:12] == b"WEBP"
    key = f"{PREFIX}{folder_of(video)}video.mp4"
    assert (
        f'filename="{video["id"]}.mp4"'
        in bucket_server.client.head_object(Bucket=BUCKET, Key=key)["ContentDisposition"]
    )
    assert objects(bucket_server, folder_of(video)).keys() == FILES
    assert not (Path(os.environ["KINORAY_DATA"]) / "artifacts").exists()
    assert service.http.delete(f"/v1/videos/{video['id']}").status_code == 200
    assert objects(bucket_server, folder_of(video)) == objects(bucket_server, "checkpoints/") == {}


def test_the_openai_client_follows_to_the_bucket(service: ServiceClient) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    picture.name = "red.png"
    picture.seek(0)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="x") as client:
        video = client.videos.create_and_poll(prompt=PROMPT, model="ltx-tiny", input_reference=picture, seconds="1")  # type: ignore[arg-type]
        assert video.status == "completed", video.error
        assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"


def test_an_upload_goes_straight_to_the_bucket(service: ServiceClient, bucket_server: BucketServer) -> None:
    picture = (ROOT / "models/svd-tiny/example.png").read_bytes()
    asked = {"bytes": len(picture), "mime_type": "image/png"}
    upload = service.http.post("/v1/uploads", json=asked).json()
    assert f"/{BUCKET}/{PREFIX}uploads/{upload['id']}/file?" in upload["url"]
    for wrong, headers in ((picture + b"x", {"content-type": "image/png"}), (picture, {"content-type": "text/html"})):
        assert httpx2.put(upload["url"], content=wrong, headers=headers).status_code == 403
    assert objects(bucket_server, f"uploads/{upload['id']}/") == {}
    assert httpx2.put(upload["url"], content=picture, headers=upload["headers"]).status_code == 200
    video = service.finish(service.create(input_reference=upload["id"])["id"])
    assert "inputs/reference.png" in objects(bucket_server, folder_of(video))


@pytest.mark.parametrize(
    "fault",
    # What the store makes of each is tested without a service too.
    [
        pytest.param(each, marks=() if each is Fault.REFUSED else pytest.mark.long)
        for each in Fault
        if each is not Fault.NONE
    ],
)
def test_a_video_waits_while_the_bucket_cannot_be_used(
    service: ServiceClient, network: FaultyNetwork, bucket_server: BucketServer, undisturbed: bytes, fault: Fault
) -> None:
    with network.spoilt(fault):
        jobs = [service.create(seed=1) for _ in range(2)]
        for job in jobs:
            service.until(job["id"], waits_for_its_store)
        if fault is Fault.REFUSED:
            refused = service.http.post("/v1/videos", json={"prompt": PROMPT, "input_reference": PICTURE})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    for job in jobs:
        assert_whole(service, bucket_server, service.finish(job["id"]), undisturbed)


@pytest.mark.long
def test_a_long_outage_stops_what_is_begun_and_not_what_is_accepted(
    service: ServiceClient, network: FaultyNetwork, bucket_server: BucketServer, undisturbed: bytes
) -> None:
    begun = 2  # the denoiser's job and the decoder's may end after the bound is reached

    def waiting() -> int:
        return sum(waits_for_its_store(service.get(job["id"])) for job in jobs)

    with network.spoilt(Fault.REFUSED):
        started = time.monotonic()
        jobs = [service.create(seed=1) for _ in range(MAX_UNPUBLISHED + begun + 4)]
        until(lambda: waiting() >= MAX_UNPUBLISHED, "as many rendered videos as may wait", DEADLINE_S)
        took_s = time.monotonic() - started
        time.sleep(max(2 * took_s, 5.0))  # time enough to render all others, if that were allowed
        assert waiting() <= MAX_UNPUBLISHED + begun
        assert service.get(jobs[-1]["id"])["step"] is None
    for job in jobs:
        assert_whole(service, bucket_server, service.finish(job["id"]), undisturbed)


def test_a_video_waits_while_the_server_is_dead(
    service: ServiceClient, bucket_server: BucketServer, undisturbed: bytes
) -> None:
    with killed(bucket_server):
        job = service.create(seed=1)
        service.until(job["id"], waits_for_its_store)
    assert_whole(service, bucket_server, service.finish(job["id"]), undisturbed)


@pytest.mark.long
def test_a_publisher_that_is_told_to_stop_gives_back_what_waits(
    service: ServiceClient, network: FaultyNetwork, bucket_server: BucketServer, undisturbed: bytes
) -> None:
    with network.spoilt(Fault.REFUSED):
        job = service.create(seed=1)
        service.until(job["id"], waits_for_its_store)
        config = copy.deepcopy(service.config)
        (options,) = [each for each in config["applications"][0]["deployments"] if each["name"] == "Publisher"]
        options["ray_actor_options"]["num_cpus"] /= 2
        before = replica_pid("Publisher")
        deploy(config)
        service.until(job["id"], lambda _: replica_pid("Publisher") not in (None, before))
    assert_whole(service, bucket_server, service.finish(job["id"]), undisturbed)
