"""What a bucket says of deletions, and of a key that several create at once, on a real S3 server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage import bucket as bucket_module
from storage.bucket import BucketStore
from storage.errors import StorageUnavailable
from storage.owner import ForeignArtifacts, Ownership, owner_of, require_ours
from storage.settings import BucketSettings
from tests.harness.bucket_server import BUCKET, BucketServer
from tests.harness.faulty_network import Fault, FaultyNetwork
from tests.harness.owners import that_starts


def test_objects_that_the_bucket_keeps_are_an_error_and_the_rest_goes(
    bucket: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is a success that names each of them; no rule of the server's own keeps an object on demand."""
    for name in "abc":
        bucket.put(f"videos/a/{name}", b"x")
    delete, kept = bucket._client.delete_objects, {"b": "AccessDenied"}

    def refuse(Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        others = [each for each in Delete["Objects"] if each["Key"][-1] not in kept]
        answer: dict[str, Any] = delete(Bucket=Bucket, Delete={**Delete, "Objects": others})
        return {**answer, "Errors": [{"Key": name, "Code": code} for name, code in kept.items()]}

    monkeypatch.setattr(bucket._client, "delete_objects", refuse)
    with pytest.raises(StorageUnavailable, match="kept 1 objects to delete: AccessDenied"):
        bucket.delete_prefix("videos/a/")
    assert list(bucket.list("")) == ["videos/a/b"]
    kept["b"] = "NoSuchKey"
    bucket.delete_prefix("videos/a/")


def test_uploads_under_a_prefix_end_with_it_though_the_servers_clock_is_ahead(
    bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
            return datetime.now(UTC) - timedelta(minutes=1)

    monkeypatch.setattr(bucket_module, "datetime", Behind)
    client = bucket_server.client
    client.create_multipart_upload(Bucket=BUCKET, Key=settings.prefix + "videos/a/video.mp4")
    bucket.abandon(0.0)
    assert len(client.list_multipart_uploads(Bucket=BUCKET, Prefix=settings.prefix).get("Uploads", [])) == 1
    bucket.delete_prefix("videos/a/")
    assert client.list_multipart_uploads(Bucket=BUCKET, Prefix=settings.prefix).get("Uploads", []) == []


def test_of_job_stores_that_start_at_once_one_gets_the_prefix(bucket: BucketStore) -> None:
    first = that_starts(bucket, "abcd")
    assert owner_of(bucket) == first
    assert not bucket.create("job-store", b"another")


def test_a_bucket_that_is_away_is_not_taken_for_anothers(settings: BucketSettings, network: FaultyNetwork) -> None:
    store = BucketStore(settings, fail_fast=True)
    with network.spoilt(Fault.REFUSED):
        assert require_ours(store, "mine") is Ownership.UNKNOWN
    assert require_ours(store, "mine") is Ownership.OURS
    with pytest.raises(ForeignArtifacts):
        require_ours(store, "another")
