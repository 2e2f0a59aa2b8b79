"""From a request to an accepted job, without Serve: limits as answers, idempotency with images, remixes."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.configuration.api_keys import SCOPES, KeyLimits
from deployments.http.auth import Caller
from deployments.http.error_response import render
from deployments.http.errors import KeyReused, PerhapsAccepted, TooManyRequests
from deployments.http.submission import CreateRequest
from deployments.http.uploads import BeginUpload
from jobs import acceptance
from jobs.acceptance import OutcomeUnknown
from jobs.database import Database
from jobs.priority import Priority
from jobs.record import Job
from pipelines.errors import InvalidRequest
from storage.keys import upload_key
from tests.unit.conftest import Jobs
from tests.unit.door import OLD_LTX_ROW, PICTURE, Door


def test_a_full_queue_says_when_to_come_back(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path, max_queued=2)
    for _ in range(2):
        door.ask()
    with pytest.raises(TooManyRequests, match="queue is full; try again in") as refused:
        door.ask(image=PICTURE.getvalue())
    assert (refused.value.code, refused.value.http_status) == ("max_queued_exceeded", 429)
    assert refused.value.retry_after_s >= 1
    assert list(door.artifacts.list("")) == []
    door.ask(fields={"model": "svd-tiny"}, image=PICTURE.getvalue())  # each model has a queue of its own


def test_a_keys_limits_are_its_own(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    one = KeyLimits(live_jobs=1)
    door.ask(limits=one)
    with pytest.raises(TooManyRequests, match="waiting or in progress"):
        door.ask(limits=one)
    assert door.ask(caller="another", limits=one).api_key == "another"


def test_a_repeated_request_with_an_image_keeps_one_image(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    once, again = (door.ask(image=PICTURE.getvalue(), idempotency_key="x") for _ in range(2))
    assert once == again
    assert list(door.artifacts.list("")) == [f"videos/{once.id}/inputs/reference.png"]
    with pytest.raises(KeyReused):
        door.ask(idempotency_key="x")
    assert door.ask(idempotency_key="x", caller="another").id != once.id


def test_the_image_of_a_job_that_may_have_been_accepted_stays(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(jobs, tmp_path)

    def answer_lost(database: Database, job: Job, *asked: Any, **how: Any) -> Job:
        accept(database, job, *asked, **how)
        raise OutcomeUnknown(job.id)

    accept = acceptance.accept
    monkeypatch.setattr(acceptance, "accept", answer_lost)
    for key, again in (("x", None), (None, "false")):
        with pytest.raises(PerhapsAccepted, match="may have been accepted") as unknown:
            door.ask(image=PICTURE.getvalue(), idempotency_key=key)
        answer = render(unknown.value)
        assert (answer.status_code, answer.headers.get("x-should-retry")) == (503, again)
    without_a_key = jobs.store.page(after=None, limit=1, newest_first=True)[0][0]
    assert f"GET /v1/videos/{without_a_key.id} will tell" in unknown.value.message
    monkeypatch.undo()
    accepted = door.ask(image=PICTURE.getvalue(), idempotency_key="x")
    images = [f"videos/{job.id}/inputs/reference.png" for job in (accepted, without_a_key)]
    assert list(door.artifacts.list("")) == images


@pytest.mark.parametrize("left", [True, False])
def test_a_request_that_is_canceled_while_its_job_is_stored_does_not_lose_it(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    door, storing, go_on, told = Door(jobs, tmp_path), threading.Event(), threading.Event(), list[Job]()

    def slowly(*asked: Any, **how: Any) -> Job:
        storing.set()
        assert go_on.wait(60)
        return accept(*asked, **how)

    async def tell(job: Job) -> None:
        told.append(job)

    async def leave() -> None:
        request = CreateRequest({"prompt": "p"}, None, Caller("k", SCOPES, KeyLimits()))
        asked = asyncio.create_task(door.submission.accept(request, tell if left else None))
        assert await asyncio.to_thread(storing.wait, 60)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go_on.set()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    accept = acceptance.accept
    monkeypatch.setattr(acceptance, "accept", slowly)
    asyncio.run(leave())
    (stored,) = jobs.store.page(after=None, limit=9, newest_first=True)[0]
    assert [job.id for job in told] == [stored.id] * left


def test_what_is_accepted_says_what_it_costs_and_where_it_stands(jobs: Jobs, tmp_path: Path) -> None:
    fields = {"priority": "high", "num_inference_steps": "10", "guidance_scale": "3", "size": "96x64", "crf": "30"}
    job = Door(jobs, tmp_path, expires_in_s=60).ask(fields=fields)
    megapixels = 96 * 64 * job.parameters["num_frames"] / 1e6
    assert job.work == {"text_encode": 1.0, "denoise": megapixels * 20, "decode": megapixels, "publish": 1.0}
    assert (job.priority, job.expires_in_s, job.output["crf"], job.version) == (Priority.HIGH, 60, 30, 1)
    assert job.cost_s > 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"webhook_url": "https://example.org/x"}, "webhook_url"),
        ({"expires_in": 0}, "expires_in"),
        ({"priority": "urgent"}, "priority"),
        ({"crf": 52}, "crf"),
        ({"thumbnail": "perhaps"}, "thumbnail"),
    ],
)
def test_what_cannot_be_is_refused(jobs: Jobs, tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Door(jobs, tmp_path).ask(fields=fields)
    assert refused.value.param == param


def test_a_remix_of_a_remix_has_the_first_ones_shape(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    source = door.ask(fields={"size": "96x64", "seed": 4, "negative_prompt": "n"})
    remix = door.ask(fields={"prompt": "q"}, remix_of=source)
    again = door.ask(fields={"prompt": "r", "seed": 9}, remix_of=remix)
    assert remix.parameters == source.parameters
    assert again.parameters == {**source.parameters, "seed": 9}
    assert (again.remixed_from, again.prompt) == (remix.id, "r")


def test_a_remix_of_an_older_versions_job_asks_for_what_that_made(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path, models=("ltx-video-0.9.5",))
    source = replace(door.ask(), parameters=OLD_LTX_ROW)
    remix = door.ask(fields={"prompt": "q"}, remix_of=source)
    asked = {name: remix.parameters[name] for name in ("fit", "stg_scale", "guidance_scale", "guidance_rescale")}
    assert asked == {"fit": "stretch", "stg_scale": 0, "guidance_scale": 3, "guidance_rescale": 0.7}


def test_a_remix_of_a_family_that_is_gone_is_refused_by_its_model(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    source = replace(door.ask(), model="gone", parameters={"family": "gone"})
    with pytest.raises(InvalidRequest, match="no such model here"):
        door.ask(fields={"prompt": "q"}, remix_of=source)


def test_a_remix_has_the_lists_of_the_card_again(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path, models=("ltx-video-0.9.8-13b-dev",))
    source = door.ask(fields={"stg_scale": 2})
    assert isinstance(source.parameters["guidance_scale"], list)
    remix = door.ask(fields={"prompt": "q"}, remix_of=source)
    assert remix.parameters == source.parameters
    assert remix.parameters["stg_scale"] == 2


def test_an_upload_is_a_request_of_its_key(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    two = Caller("k", SCOPES, KeyLimits(requests_per_minute=2))
    asked = BeginUpload(bytes=PICTURE.tell(), mime_type="image/png")
    upload = door.uploads.begin(asked, two, "http://here/")
    door.uploads.receive(upload.id, two, PICTURE.getvalue())
    for again in (
        lambda: door.uploads.begin(asked, two, "http://here/"),
        lambda: door.uploads.receive(upload.id, two, b"x"),
        lambda: door.ask(limits=two.limits),
    ):
        with pytest.raises(TooManyRequests, match="as many requests as it may in a minute"):
            again()
    assert door.artifacts.size(upload_key(upload.id)) == len(PICTURE.getvalue()), "what was refused changed nothing"
    door.ask(image=upload.id, caller="another")
