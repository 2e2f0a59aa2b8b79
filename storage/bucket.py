"""Artifacts in a bucket: Amazon S3, or anything that speaks its protocol.

Checksums go from end to end. Every request carries SHA-256 of what it sends, which the server compares with what
arrives; afterwards the server is asked for the object's checksum, and only then is it stored. An object appears whole
or not at all, since that is when an upload is complete; a failed one is aborted.
"""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
from urllib3.exceptions import HTTPError

from storage.checksum import sha256_of, size_of
from storage.errors import StorageUnavailable
from storage.settings import MIB, BucketSettings
from storage.store import UPLOADS, About, Target, check_prefix

ATTEMPTS = 3
CONNECT_S, READ_S = 5, 20
HURRIED_S, HURRIED_ATTEMPTS = 5, 2
"""The patience of one for whom somebody waits, or who has somewhere else to put it."""
SHA256 = "sha256"
"""The name of our own copy of an object's checksum, for servers that do not state one."""

HEADERS = {
    "ContentType": "content-type",
    "ContentLength": "content-length",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
"""boto3's names of what a presigned upload has to send, and the protocol's."""

mimetypes.add_type("image/webp", ".webp")

UNFINISHED_S = 3600.0
"""An upload that began so long ago and is not complete is nobody's any more."""

_NO_KEY = frozenset({"NoSuchKey"})
# The last two: what is no answer of S3's, such as a load balancer's page, and what s3transfer then misses in it.
_FAULTS = (BotoCoreError, ClientError, Boto3Error, HTTPClientError, HTTPError, ResponseParserError, KeyError)


class BucketStore:
    """One bucket, or what is under a prefix of it. Thread-safe; methods block. `hurried` gives up soon.

    Raises, beside what the interface says:
        StorageUnavailable: the server cannot be reached, is overloaded, refuses, or does not keep what it is sent.
    """

    def __init__(self, settings: BucketSettings, *, hurried: bool = False) -> None:
        self.settings = settings
        self._attempts = 1 if hurried else ATTEMPTS
        self._client = connect(settings, settings.endpoint_url, hurried=hurried)
        self._transfer = transfer_config(settings)

    def put(self, key: str, data: bytes | Path, about: About | None = None) -> None:
        multipart = size_of(data) >= self._transfer.multipart_threshold
        checksum = sha256_of(data, self._transfer.multipart_chunksize if multipart else None)
        if self._holds(key, size_of(data), checksum):
            return  # a repeat, which changes nothing
        if multipart:
            self._abort_unfinished(key, UNFINISHED_S)
        extra = self._extra(key, about or About(), checksum)
        if isinstance(data, bytes):
            upload = partial(self._client.upload_fileobj, io.BytesIO(data))
        else:
            upload = partial(self._client.upload_file, str(data))
        with in_our_words():
            upload(Bucket=self.settings.name, Key=self._path(key), ExtraArgs=extra, Config=self._transfer)
        if not self._holds(key, size_of(data), checksum):
            raise StorageUnavailable("the bucket does not hold what it was sent")

    def get(self, key: str) -> bytes:
        for attempt in Retrying(
            retry=retry_if_exception_type(StorageUnavailable), stop=stop_after_attempt(self._attempts), reraise=True
        ):  # boto3 begins nothing anew that breaks off while it is read
            with attempt, in_our_words():
                answer = self._client.get_object(Bucket=self.settings.name, Key=self._path(key))
                with answer["Body"] as body:
                    data: bytes = body.read()
                self._verify(key, data, answer["Metadata"].get(SHA256))
        return data

    def _verify(self, key: str, data: bytes, stated: str | None) -> None:
        """Refuse what is not the object that was put. Only what clients upload by themselves has no checksum of ours;
        one of parts cannot be repeated, as their size may have been another."""
        own = stated is not None or key.startswith(UPLOADS)
        if not own or (stated is not None and "-" not in stated and sha256_of(data, None) != stated):
            raise StorageUnavailable("the bucket answered with something else than the object")

    def size(self, key: str) -> int | None:
        head = self._head(key)
        return None if head is None else head["ContentLength"]

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002 nothing of it is on this machine
        return None

    def url(self, key: str) -> str | None:
        """An address from which anybody can get an object for a while. Made here, without asking the server."""
        return self._presigned("get_object", key)

    def upload_target(self, key: str, content_type: str, nbytes: int) -> Target | None:
        wanted = {"ContentType": content_type, "ContentLength": nbytes, **encryption(self.settings)}
        headers = {HEADERS[name]: str(value) for name, value in wanted.items()}
        return Target(self._presigned("put_object", key, **wanted), headers)

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
        for page in self._pages(prefix):
            if objects := [{"Key": each["Key"]} for each in page.get("Contents", [])]:
                with in_our_words():
                    answer = self._client.delete_objects(
                        Bucket=self.settings.name, Delete={"Objects": objects, "Quiet": True}
                    )
                if answer.get("Errors"):
                    raise StorageUnavailable(f"the bucket kept objects to delete: {answer['Errors'][0].get('Code')}")
        self._abort_unfinished(prefix, 0.0)

    def _abort_unfinished(self, prefix: str, older_than_s: float) -> None:
        """Give up uploads that were begun and never completed, because their client died or missed an answer."""
        since = datetime.now(UTC) - timedelta(seconds=older_than_s)
        with in_our_words():
            uploads = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.settings.name, Prefix=self._path(prefix)
            )
            for each in [each for page in uploads for each in page.get("Uploads", []) if each["Initiated"] <= since]:
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self.settings.name, Key=each["Key"], UploadId=each["UploadId"]
                    )
                except self._client.exceptions.NoSuchUpload:
                    pass  # somebody else gave it up

    def _presigned(self, operation: str, key: str, **wanted: Any) -> str:
        wanted = {"Bucket": self.settings.name, "Key": self._path(key), **wanted}
        with in_our_words():
            url: str = self._public.generate_presigned_url(
                operation, Params=wanted, ExpiresIn=self.settings.presigned_url_expires_s
            )
        return url

    def _holds(self, key: str, size: int, checksum: str) -> bool:
        """Whether an object is there whose content is what the checksum says, by the server's word if it has one."""
        head = self._head(key)
        if head is None or head["ContentLength"] != size:
            return False
        stated: str | None = head.get("ChecksumSHA256")
        if stated is None or ("-" in stated) != ("-" in checksum):  # it states none, or one of another form
            stated = head["Metadata"].get(SHA256)
        return stated == checksum

    def _head(self, key: str) -> Any:
        try:
            with in_our_words(_NO_KEY | {"404", "NotFound"}):  # an answer without a body has no other word
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

    def _extra(self, key: str, about: About, checksum: str) -> dict[str, Any]:
        settings = self.settings
        extra: dict[str, Any] = {
            "ChecksumAlgorithm": "SHA256",
            "Metadata": {SHA256: checksum},
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


def transfer_config(settings: BucketSettings) -> TransferConfig:
    """From which size on, and how, an object goes in parts."""
    return TransferConfig(
        multipart_threshold=settings.multipart_threshold_mib * MIB,
        multipart_chunksize=settings.part_mib * MIB,
        max_concurrency=settings.parallel_parts,
    )


def encryption(settings: BucketSettings) -> dict[str, str]:
    """What every upload says about how it is to be kept."""
    wanted = {"ServerSideEncryption": settings.encryption, "SSEKMSKeyId": settings.kms_key_id}
    return {name: value for name, value in wanted.items() if value is not None}


def connect(settings: BucketSettings, endpoint_url: str | None, *, hurried: bool = False) -> Any:
    """boto3's client for a bucket's server. It calls nobody yet."""
    config = Config(
        signature_version="s3v4",
        connect_timeout=HURRIED_S if hurried else CONNECT_S,
        read_timeout=HURRIED_S if hurried else READ_S,
        retries={"mode": "standard", "total_max_attempts": HURRIED_ATTEMPTS if hurried else ATTEMPTS},
        max_pool_connections=2 * settings.parallel_parts + 10,
        s3={"addressing_style": "path" if settings.path_style else "auto"},
    )
    with in_our_words():
        # A session of its own: the default one is not safe to share between threads.
        session = boto3.session.Session(region_name=settings.region)
        region = session.region_name or "us-east-1"
        return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


@contextmanager
def in_our_words(missing: Collection[str] = _NO_KEY) -> Iterator[None]:
    """Raise StorageUnavailable for what boto3 raises, whose words may hold keys and accounts.

    Raises:
        FileNotFoundError: for an answer with one of the codes in `missing`.
    """
    try:
        yield
    except _FAULTS as error:
        cause = _innermost(error)
        if isinstance(cause, ClientError):
            code = str(cause.response.get("Error", {}).get("Code"))
            if code in missing:
                raise FileNotFoundError("no such key") from None
            raise StorageUnavailable(f"the bucket answered {code}") from None
        raise StorageUnavailable(f"the bucket cannot be used: {type(cause).__name__}") from None


def _innermost(error: BaseException) -> BaseException:
    """What boto3 wrapped into an error of its own, down to the server's answer if there was one."""
    inner = error.__cause__ or error.__context__
    return _innermost(inner) if isinstance(inner, _FAULTS) and not isinstance(error, ClientError) else error
