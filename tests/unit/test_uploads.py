"""A file that is sent before the job that uses it, to a service without a bucket: only what was announced is stored."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.configuration.api_keys import ApiKey, digest
from jobs import ids
from storage.keys import upload_key, upload_prefix
from tests.unit.api_world import ApiWorld, run_api
from tests.unit.door import PICTURE

PNG = PICTURE.getvalue()
DIGEST = hashlib.sha256(PNG).hexdigest()
KEYS = {"one": "a-key-of-one", "two": "a-key-of-two"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    keys = [ApiKey(name=name, sha256=digest(key).hex()) for name, key in KEYS.items()]
    with run_api(tmp_path, api_keys=keys, allowed_hosts=["127.0.0.1"]) as running:
        yield running


def ask(world: ApiWorld, method: str, path: str, caller: str = "one", **sent: Any) -> httpx2.Response:
    async def once() -> httpx2.Response:
        async with world.http() as http:
            return await http.request(method, path, headers={"authorization": f"Bearer {KEYS[caller]}"}, **sent)

    return asyncio.run(once())


def begin(world: ApiWorld, **announced: Any) -> dict[str, Any]:
    answer = ask(world, "POST", "/v1/uploads", json={"bytes": len(PNG), "mime_type": "image/png", **announced})
    assert answer.status_code == 200, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


def stored(world: ApiWorld) -> list[str]:
    """The files that were uploaded."""
    return [key for key in world.api.store.list("uploads/") if key.endswith("/file")]


@pytest.mark.parametrize(
    ("announced", "content", "says"),
    [
        ({}, PNG[:-1], f"has {len(PNG) - 1} bytes, and {len(PNG)} were announced"),
        ({}, PNG + b"x", f"has {len(PNG) + 1} bytes, and {len(PNG)} were announced"),
        ({}, b"", "has 0 bytes"),
        ({"sha256": DIGEST}, PNG[:-1] + b"x", "SHA-256"),
    ],
    ids=["shorter", "longer", "empty", "other content"],
)
def test_another_file_than_was_announced_is_refused_and_leaves_nothing(
    world: ApiWorld, announced: dict[str, Any], content: bytes, says: str
) -> None:
    upload = begin(world, **announced)
    refused = ask(world, "PUT", upload["url"], content=content)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert says in refused.json()["error"]["message"]
    assert stored(world) == []
    missing = ask(world, "POST", "/v1/videos", json={"prompt": "p", "input_reference": {"file_id": upload["id"]}})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "upload_not_found")
    assert ask(world, "PUT", upload["url"], content=PNG).status_code == 204, "the right one may follow"
    assert stored(world) == [upload_key(upload["id"])]


def test_a_file_that_is_sent_twice_is_there_once(world: ApiWorld) -> None:
    upload = begin(world, sha256=DIGEST)
    for _ in range(2):  # the first answer may have been lost
        assert ask(world, "PUT", upload["url"], content=PNG).status_code == 204
    assert ask(world, "PUT", upload["url"], content=PNG[:-1] + b"x").status_code == 400
    assert world.api.store.get(upload_key(upload["id"])) == PNG, "what was refused changed nothing"


def test_a_file_for_an_upload_that_nobody_began_is_refused(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = begin(world)["id"]
    assert ask(world, "PUT", f"/v1/uploads/{ended}", content=PNG).status_code == 204
    for upload_id in (ids.new_upload_id(), ids.new_upload_id()[:-1], "upload_x", "file-abc"):
        refused = ask(world, "PUT", f"/v1/uploads/{upload_id}", content=PNG)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "upload_id")
    later = time.time() + ids.UPLOAD_KEPT_S + 1
    monkeypatch.setattr(time, "time", lambda: later)  # the sweeper has not come by yet
    assert ask(world, "PUT", f"/v1/uploads/{ended}", content=PNG).status_code == 400
    used = ask(world, "POST", "/v1/videos", json={"prompt": "p", "input_reference": ended})
    assert (used.status_code, used.json()["error"]["code"]) == (400, "upload_not_found")
    assert stored(world) == [upload_key(ended)]


def test_who_knows_an_uploads_id_may_use_it(world: ApiWorld) -> None:
    upload = begin(world)
    assert ask(world, "PUT", upload["url"], "two", content=PNG).status_code == 204
    fields = {"prompt": "p", "input_reference": {"file_id": upload["id"]}}
    made = ask(world, "POST", "/v1/videos", "two", json=fields)
    assert made.status_code == 200, made.text
    assert ask(world, "GET", f"/v1/videos/{made.json()['id']}", "one").status_code == 404


def test_a_file_in_a_bucket_is_held_against_its_digest_when_it_is_used(world: ApiWorld) -> None:
    """There the service does not see it before."""
    upload = begin(world, sha256=DIGEST)
    world.api.store.put(upload_key(upload["id"]), PNG[:-1] + b"x")
    fields = {"prompt": "p", "input_reference": upload["id"]}
    refused = ask(world, "POST", "/v1/videos", json=fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_reference")
    assert "SHA-256" in refused.json()["error"]["message"]
    world.api.store.put(upload_key(upload["id"]), PNG)
    assert ask(world, "POST", "/v1/videos", json=fields).status_code == 200


@pytest.mark.parametrize("sha256", ["", DIGEST[:-1], DIGEST.upper(), 7])
def test_a_digest_that_is_none_is_refused(world: ApiWorld, sha256: object) -> None:
    asked = {"bytes": len(PNG), "mime_type": "image/png", "sha256": sha256}
    refused = ask(world, "POST", "/v1/uploads", json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "sha256")
    assert list(world.api.store.children("uploads/")) == []


def test_what_was_announced_goes_with_the_upload(world: ApiWorld) -> None:
    upload = begin(world)
    assert [*world.api.store.list(upload_prefix(upload["id"]))] == [upload_prefix(upload["id"]) + "announced.json"]
    world.api.store.delete_prefix(upload_prefix(upload["id"]))  # as the sweeper does
    assert ask(world, "PUT", upload["url"], content=PNG).status_code == 400
    assert [*world.api.store.list("uploads/")] == []
