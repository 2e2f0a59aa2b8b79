"""What a bucket does beyond a folder, on a real S3 server that checks signatures."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import ObjectMetadata
from storage.bucket import BucketStore
from storage.errors import ObjectDamaged, StorageUnavailable
from storage.settings import MIB, BucketSettings
from storage.spool import Spool
from tests.harness.bucket import LARGE_BOUND_MIB, extra_memory, killed, unfinished_uploads
from tests.harness.bucket_server import BUCKET, BucketServer
from tests.harness.faulty_network import Fault, FaultyNetwork

KEY = "videos/a/video.mp4"
SMALL, LARGE = os.urandom(2 * MIB), os.urandom(21 * MIB)  # the latter in three parts


def head(server: BucketServer, settings: BucketSettings, key: str = KEY) -> Any:
    return server.client.head_object(Bucket=BUCKET, Key=settings.prefix + key, ChecksumMode="ENABLED")


def test_an_object_says_what_it_is(bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer) -> None:
    bucket.put(KEY, b"mp4", ObjectMetadata("a.mp4", {"job": "a", "model": "ltx-video-0.9.5"}))
    said = head(bucket_server, settings)
    assert (said["ContentType"], said["CacheControl"]) == ("video/mp4", settings.cache_control)
    assert said["ContentDisposition"] == 'inline; filename="a.mp4"'
    tags = bucket_server.client.get_object_tagging(Bucket=BUCKET, Key=settings.prefix + KEY)["TagSet"]
    assert {each["Key"]: each["Value"] for each in tags} == {"job": "a", "model": "ltx-video-0.9.5"}


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_object_goes_in_parts_and_its_checksum_is_the_servers(
    bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer, tmp_path: Path, from_file: bool
) -> None:
    file = tmp_path / "large"
    file.write_bytes(LARGE)
    bucket.put(KEY, file if from_file else LARGE)
    said = head(bucket_server, settings)
    assert said["ETag"].endswith('-3"')
    assert said["ChecksumSHA256"].endswith("-3")
    assert hashlib.sha256(bucket.get(KEY)).digest() == hashlib.sha256(LARGE).digest()


def test_a_repeat_changes_nothing(bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer) -> None:
    for data in (b"one", LARGE):
        bucket.put(KEY, data, ObjectMetadata("first.mp4"))
        first = head(bucket_server, settings)
        bucket.put(KEY, data, ObjectMetadata("second.mp4"))
        again = head(bucket_server, settings)
        assert again["LastModified"] == first["LastModified"]
        assert again["ContentDisposition"] == 'inline; filename="first.mp4"', "it was not written anew"


def test_a_presigned_url_needs_no_key_and_cannot_be_bent(bucket: BucketStore) -> None:
    bucket.put(KEY, b"0123456789")
    url = bucket.url(KEY)
    assert url is not None
    part = urllib.request.Request(url, headers={"range": "bytes=2-4"})
    with urllib.request.urlopen(part) as answer:
        assert (answer.status, answer.read()) == (206, b"234")
    for wrong in (
        url.replace("video.mp4", "other.mp4"),
        url.partition("?")[0],
        url[:-1] + ("1" if url.endswith("0") else "0"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(wrong)


def test_urls_lead_where_clients_reach_the_server(settings: BucketSettings) -> None:
    store = BucketStore(settings.model_copy(update={"public_endpoint_url": "https://cdn.example.org"}))
    assert (store.url(KEY) or "").startswith(f"https://cdn.example.org/{BUCKET}/{settings.prefix}{KEY}?")


def test_a_wrong_key_is_refused(settings: BucketSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageUnavailable, match="the bucket answered SignatureDoesNotMatch"):
        BucketStore(settings).put(KEY, b"x")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["at once", "in parts"])
@pytest.mark.parametrize("fault", [each for each in Fault if each is not Fault.NONE])
def test_a_fault_leaves_nothing_behind_and_the_next_put_is_whole(
    settings: BucketSettings,
    network: FaultyNetwork,
    bucket_server: BucketServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    data: bytes,
) -> None:
    monkeypatch.setattr("storage.client.FAIL_FAST_S", 1)
    store = BucketStore(settings, fail_fast=True)
    with network.spoilt(fault), pytest.raises(StorageUnavailable):
        store.put(KEY, data)
    seen = BucketStore(settings).size(KEY)
    if fault is not Fault.TRUNCATED:  # which hid what had been answered, such as the name of an upload
        assert seen is None, "no part of it is visible"
        assert unfinished_uploads(bucket_server, settings.prefix) == []
    assert seen in (None, len(data))
    store.put(KEY, data)
    assert store.get(KEY) == data


def test_an_upload_that_was_lost_is_given_up_in_time(
    bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer
) -> None:
    bucket_server.client.create_multipart_upload(Bucket=BUCKET, Key=settings.prefix + KEY)
    bucket.abandon(3600)
    assert len(unfinished_uploads(bucket_server, settings.prefix)) == 1, "somebody may still be at it"
    bucket.abandon(-60)  # the server's clock counts seconds
    assert unfinished_uploads(bucket_server, settings.prefix) == []


def test_a_page_of_a_load_balancer_is_no_object(
    bucket: BucketStore, settings: BucketSettings, network: FaultyNetwork
) -> None:
    bucket.put(KEY, b"mp4")
    with network.spoilt(Fault.PAGE), pytest.raises(StorageUnavailable, match="something else"):
        BucketStore(settings, fail_fast=True).get(KEY)


def test_a_bucket_that_is_not_there_is_a_fault_and_not_a_missing_file(settings: BucketSettings) -> None:
    nowhere = BucketStore(settings.model_copy(update={"name": "no-such-bucket"}), fail_fast=True)
    with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
        nowhere.get(KEY)


def test_what_is_deleted_has_no_unfinished_uploads(
    bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer
) -> None:
    bucket_server.client.create_multipart_upload(Bucket=BUCKET, Key=settings.prefix + KEY)
    assert len(unfinished_uploads(bucket_server, settings.prefix)) == 1
    bucket.delete_prefix("videos/a/")
    assert unfinished_uploads(bucket_server, settings.prefix) == []


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.REFUSED, Fault.RESET])
def test_a_fault_that_passes_is_not_noticed(bucket: BucketStore, network: FaultyNetwork, fault: Fault) -> None:
    with network.spoilt(fault, connections=1):
        bucket.put(KEY, LARGE)
        assert bucket.get(KEY) == LARGE


def test_a_server_that_was_killed_is_used_again(bucket: BucketStore, bucket_server: BucketServer) -> None:
    bucket.put(KEY, b"before")
    with killed(bucket_server), pytest.raises(StorageUnavailable):
        bucket.get(KEY)
    assert bucket.get(KEY) == b"before"


@pytest.mark.long
def test_a_gigabyte_needs_little_memory(settings: BucketSettings, tmp_path: Path) -> None:
    assert extra_memory(settings, tmp_path) < LARGE_BOUND_MIB


def test_checkpoints_go_to_the_spool_while_the_bucket_is_away(
    settings: BucketSettings, network: FaultyNetwork, tmp_path: Path
) -> None:
    spool = Spool(BucketStore(settings, fail_fast=True), tmp_path, max_bytes=300)
    with network.spoilt(Fault.REFUSED):
        for step in range(4):
            spool.put(f"checkpoints/a/{step}", bytes([step]) * 100)
        assert [spool.get(f"checkpoints/a/{step}")[0] for step in (1, 2, 3)] == [1, 2, 3]
        with pytest.raises(StorageUnavailable):
            spool.get("checkpoints/a/0")  # it had to make room, and the bucket cannot be asked
        with pytest.raises(StorageUnavailable, match="at most 300 bytes"):
            spool.put("checkpoints/b/0", bytes(301))
    with pytest.raises(FileNotFoundError):
        spool.get("checkpoints/a/0")
    spool.delete_prefix("checkpoints/a/")
    assert list(spool.list("checkpoints/")) == []


def test_an_object_that_is_not_what_was_put_is_damaged_and_not_out_of_reach(
    bucket: BucketStore, settings: BucketSettings, bucket_server: BucketServer
) -> None:
    bucket.put(KEY, b"mp4")
    place = {"Bucket": BUCKET, "Key": settings.prefix + KEY}
    said = bucket_server.client.head_object(**place)["Metadata"]
    bucket_server.client.put_object(**place, Body=b"mpX", Metadata=said)
    with pytest.raises(ObjectDamaged):
        bucket.get(KEY)
