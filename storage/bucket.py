"""Artifacts in a bucket: Amazon S3, or any server that speaks its protocol.

Checksums are end to end. Every request carries the SHA-256 of its data, and the server compares it with the data that
arrives. A put succeeds only when the server states the same checksum for the object. An object appears whole or not at
all, because it appears when its upload is complete; a failed upload is aborted.
"""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from storage.artifacts import ObjectMetadata, UploadTarget, check_prefix
from storage.checksum import PartChecksums, opened, sha256_of, sha256_of_parts, size_of
from storage.client import ATTEMPTS, CONDITION, NO_KEY, connect, encryption, in_our_words, transfer_config
from storage.errors import ObjectDamaged, StorageUnavailable
from storage.keys import KINDS, UPLOADS
from storage.settings import BucketSettings

SHA256, PART_BYTES = "sha256", "part-bytes"
"""Metadata by which a reader verifies an object: its checksum, or the size of the parts of the server's checksum."""

HEADERS = {
    "ContentType": "content-type",
    "ContentLength": "content-length",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
"""boto3's names of the headers that a presigned upload must send, and the protocol's names."""

mimetypes.add_type("image/webp", ".webp")


class BucketStore:
    """A bucket, or the objects under one of its prefixes. Thread-safe; methods block. `fail_fast` gives up early.

    Raises, besides the errors of the interface:
        StorageUnavailable: the server cannot be reached, is overloaded, refuses, or does not keep what it is sent.
    """

    def __init__(self, settings: BucketSettings, *, fail_fast: bool = False) -> None:
        self.settings = settings
        self._attempts = 1 if fail_fast else ATTEMPTS
        self._client = connect(settings, settings.endpoint_url, fail_fast=fail_fast)
        self._sent = PartChecksums(self._client)
        self._transfer = transfer_config(settings)

    def put(self, key: str, data: bytes | Path, about: ObjectMetadata | None = None) -> None:
        in_parts = size_of(data) >= self._transfer.multipart_threshold
        (self._put_in_parts if in_parts else self._put_at_once)(key, data, about or ObjectMetadata())

    def _put_at_once(self, key: str, data: bytes | Path, about: ObjectMetadata) -> None:
        """Put with one request, which changes nothing if the object exists; only then compare the existing object."""
        with opened(data) as body:
            checksum = sha256_of(body)
        upload = partial(self._put_object, key, data, checksum, self._extra(key, about, {SHA256: checksum}))
        try:
            stated = upload(IfNoneMatch="*")
        except FileExistsError:
            if self._holds(key, data, checksum):
                return  # a repeated put
            stated = upload()
        if stated != checksum:
            self._check(key, data, checksum)

    def create(self, key: str, data: bytes) -> bool:
        checksum = sha256_of(io.BytesIO(data))
        upload = partial(self._put_object, key, data, checksum, self._extra(key, ObjectMetadata(), {SHA256: checksum}))
        try:
            upload(IfNoneMatch="*")
        except FileExistsError:  # or the server knows no conditions, and two callers may both succeed
            if self.size(key) is not None:
                return False
            upload()
        return True

    def _put_object(
        self, key: str, data: bytes | Path, checksum: str, extra: dict[str, Any], **condition: str
    ) -> str | None:
        """Upload an object; returns the checksum that the server states, or None if it states none."""
        with opened(data) as body, in_our_words(present=CONDITION if condition else ()):
            answer = self._client.put_object(
                Bucket=self.settings.name,
                Key=self._path(key),
                Body=body,
                ChecksumSHA256=checksum,
                **extra,
                **condition,
            )
        stated: str | None = answer.get("ChecksumSHA256")
        return stated

    def _put_in_parts(self, key: str, data: bytes | Path, about: ObjectMetadata) -> None:
        """Put in parts, after comparing with an existing object; the check costs little for an object this large."""
        part_bytes = self._transfer.multipart_chunksize
        if self.size(key) == size_of(data):
            with opened(data) as body:
                checksum = sha256_of_parts(body, part_bytes)
            if self._holds(key, data, checksum):
                return  # a repeated put
        extra = {**self._extra(key, about, {PART_BYTES: str(part_bytes)}), "ChecksumAlgorithm": "SHA256"}
        path = self._path(key)
        if isinstance(data, bytes):
            upload = partial(self._client.upload_fileobj, io.BytesIO(data))
        else:
            upload = partial(self._client.upload_file, str(data))  # it never holds whole parts in memory
        with self._sent.collected(path) as digests, in_our_words():
            upload(Bucket=self.settings.name, Key=path, ExtraArgs=extra, Config=self._transfer)
        self._check(key, data, self._sent.combined(digests))

    def _check(self, key: str, data: bytes | Path, checksum: str) -> None:
        if not self._holds(key, data, checksum):
            raise StorageUnavailable("the bucket does not hold what it was sent")

    def _holds(self, key: str, data: bytes | Path, checksum: str) -> bool:
        """Whether the object exists and its content has this checksum. If the server states no checksum of this form,
        the object is read."""
        head = self._head(key)
        if head is None or head["ContentLength"] != size_of(data):
            return False
        stated: str | None = head.get("ChecksumSHA256")
        if stated is None or ("-" in stated) != ("-" in checksum):
            with (
                in_our_words(),
                self._client.get_object(Bucket=self.settings.name, Key=self._path(key))["Body"] as body,
            ):
                in_parts = "-" in checksum
                stated = sha256_of_parts(body, self._transfer.multipart_chunksize) if in_parts else sha256_of(body)
        return stated == checksum

    def get(self, key: str) -> bytes:
        for attempt in Retrying(
            retry=retry_if_exception_type((StorageUnavailable, ObjectDamaged)),
            stop=self._tried_enough,
            reraise=True,
        ):  # boto3 does not retry when a connection breaks while the body is read
            with attempt, in_our_words():
                answer = self._client.get_object(Bucket=self.settings.name, Key=self._path(key))
                with answer["Body"] as body:
                    data: bytes = body.read()
                if not _is_whole(data, answer, ours=not key.startswith(UPLOADS)):
                    if answer["Metadata"].keys() & {SHA256, PART_BYTES}:
                        raise ObjectDamaged("the bucket's object is not what was put there")
                    raise StorageUnavailable("the bucket answered with something else than the object")
        return data

    def _tried_enough(self, state: RetryCallState) -> bool:
        """Whether to stop trying. An object counts as damaged only after a second read."""
        damaged = state.outcome is not None and isinstance(state.outcome.exception(), ObjectDamaged)
        return state.attempt_number >= (max(self._attempts, 2) if damaged else self._attempts)

    def size(self, key: str) -> int | None:
        head = self._head(key)
        return None if head is None else head["ContentLength"]

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002 nothing of it is on this machine
        return None

    def url(self, key: str) -> str | None:
        """A URL from which anyone can get the object for a while. It is made here, without a request to the server."""
        return self._presigned("get_object", key)

    def upload_target(self, key: str, content_type: str, nbytes: int) -> UploadTarget | None:
        wanted = {"ContentType": content_type, "ContentLength": nbytes, **encryption(self.settings)}
        headers = {HEADERS[name]: str(value) for name, value in wanted.items()}
        return UploadTarget(self._presigned("put_object", key, **wanted), headers)

    def list(self, prefix: str) -> Iterator[str]:
        start = len(self.settings.prefix)
        for page in self._pages(prefix):
            yield from (each["Key"][start:] for each in page.get("Contents", []))

    def children(self, prefix: str) -> Sequence[str]:
        start = len(self._path(prefix))
        pages = self._pages(prefix, Delimiter="/")
        return sorted(each["Prefix"][start:-1] for page in pages for each in page.get("CommonPrefixes", []))

    def delete(self, key: str) -> None:
        with in_our_words():
            self._client.delete_object(Bucket=self.settings.name, Key=self._path(key))

    def delete_prefix(self, prefix: str) -> None:
        check_prefix(prefix, to_delete=True)
        kept: list[str] = []  # an answer of success names the objects that could not be deleted
        for page in self._pages(prefix):
            if objects := [{"Key": each["Key"]} for each in page.get("Contents", [])]:
                with in_our_words():
                    answer = self._client.delete_objects(
                        Bucket=self.settings.name, Delete={"Objects": objects, "Quiet": True}
                    )
                kept += [str(each.get("Code")) for each in answer.get("Errors", []) if each.get("Code") not in NO_KEY]
        self._abandon(prefix)
        if kept:
            raise StorageUnavailable(f"the bucket kept {len(kept)} objects to delete: {kept[0]}")

    def abandon(self, older_than_s: float) -> None:
        """Abort uploads in parts whose client died or lost the answer with the upload's id."""
        for prefix in KINDS:  # other applications may have uploads in this bucket
            self._abandon(prefix, older_than_s)

    def _abandon(self, prefix: str, older_than_s: float | None = None) -> None:
        with in_our_words():
            # Of any age, if none is given: the server's clock is not ours.
            since = None if older_than_s is None else datetime.now(UTC) - timedelta(seconds=older_than_s)
            uploads = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.settings.name, Prefix=self._path(prefix)
            )
            for each in [each for page in uploads for each in page.get("Uploads", [])]:
                if since is not None and each["Initiated"] > since:
                    continue
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self.settings.name, Key=each["Key"], UploadId=each["UploadId"]
                    )
                except self._client.exceptions.NoSuchUpload:
                    pass  # another process aborted it

    def _presigned(self, operation: str, key: str, **wanted: Any) -> str:
        wanted = {"Bucket": self.settings.name, "Key": self._path(key), **wanted}
        with in_our_words():
            url: str = self._public.generate_presigned_url(
                operation, Params=wanted, ExpiresIn=self.settings.presigned_url_expires_s
            )
        return url

    def _head(self, key: str) -> Any:
        try:
            with in_our_words(NO_KEY | {"404", "NotFound"}):  # an answer without a body has no other code
                return self._client.head_object(Bucket=self.settings.name, Key=self._path(key), ChecksumMode="ENABLED")
        except FileNotFoundError:
            return None

    def _pages(self, prefix: str, **options: Any) -> Iterator[Any]:
        check_prefix(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.settings.name, Prefix=self._path(prefix), **options
        )
        with in_our_words():
            yield from pages

    def _path(self, key: str) -> str:
        return self.settings.prefix + key

    def _extra(self, key: str, about: ObjectMetadata, metadata: dict[str, str]) -> dict[str, Any]:
        settings = self.settings
        extra: dict[str, Any] = {
            "Metadata": metadata,
            "ContentType": mimetypes.guess_type(key)[0] or "application/octet-stream",
            "CacheControl": settings.cache_control,
        }
        if about.file_name is not None:
            extra["ContentDisposition"] = f'inline; filename="{about.file_name}"'
        if settings.tags and about.tags:
            extra["Tagging"] = urlencode(about.tags)
        return {**extra, **encryption(settings)}

    @cached_property
    def _public(self) -> Any:
        return connect(self.settings, self.settings.public_endpoint_url or self.settings.endpoint_url)


def _is_whole(data: bytes, answer: Mapping[str, Any], *, ours: bool) -> bool:
    """Whether an answer is the object that was put. Only files that clients upload directly lack this metadata."""
    said: Mapping[str, str] = answer["Metadata"]
    stated: str | None = answer.get("ChecksumSHA256")
    if SHA256 in said:
        if "-" in said[SHA256]:
            return True  # uploaded in parts by an older version, which did not record their size
        return sha256_of(io.BytesIO(data)) == said[SHA256]
    if PART_BYTES in said:
        return stated in (None, sha256_of_parts(io.BytesIO(data), int(said[PART_BYTES])))
    return not ours
