"""boto3's client for a bucket's server, and the translation of its errors into ours."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from storage.errors import StorageUnavailable
from storage.settings import MIB, BucketSettings

ATTEMPTS = 3
CONNECT_S, READ_S = 5, 20
FAIL_FAST_S, FAIL_FAST_ATTEMPTS = 5, 2
"""Timeout in seconds and number of attempts of a fail-fast client: its caller has someone waiting, or can store the
data elsewhere."""

NO_KEY = frozenset({"NoSuchKey"})
CONDITION = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"})
"""Codes for a conditional upload that stores nothing: the object exists, is being uploaded by another client, or the
server does not support conditions."""
# The last two are for answers that are not S3's, such as a load balancer's page, and for the keys that s3transfer then
# misses in them.
_FAULTS = (BotoCoreError, ClientError, Boto3Error, HTTPClientError, HTTPError, ResponseParserError, KeyError)


def transfer_config(settings: BucketSettings) -> TransferConfig:
    """The settings for uploads in parts: from which size on, and how."""
    return TransferConfig(
        multipart_threshold=settings.multipart_threshold_mib * MIB,
        multipart_chunksize=settings.part_mib * MIB,
        max_concurrency=settings.parallel_parts,
        preferred_transfer_client="classic",  # the other client hides the checksums of parts
    )


def encryption(settings: BucketSettings) -> dict[str, str]:
    """The encryption options of every upload."""
    wanted = {"ServerSideEncryption": settings.encryption, "SSEKMSKeyId": settings.kms_key_id}
    return {name: value for name, value in wanted.items() if value is not None}


def connect(settings: BucketSettings, endpoint_url: str | None, *, fail_fast: bool = False) -> Any:
    """boto3's client for a bucket's server. This sends no request yet."""
    config = Config(
        signature_version="s3v4",
        connect_timeout=FAIL_FAST_S if fail_fast else CONNECT_S,
        read_timeout=FAIL_FAST_S if fail_fast else READ_S,
        retries={"mode": "standard", "total_max_attempts": FAIL_FAST_ATTEMPTS if fail_fast else ATTEMPTS},
        max_pool_connections=2 * settings.parallel_parts + 10,
        s3={"addressing_style": "path" if settings.path_style else "auto"},
    )
    with in_our_words():
        # A session of its own: the default one is not safe to share between threads.
        session = boto3.session.Session(region_name=settings.region)
        region = session.region_name or "us-east-1"
        return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


@contextmanager
def in_our_words(missing: Collection[str] = NO_KEY, present: Collection[str] = ()) -> Iterator[None]:
    """Translate boto3's errors into StorageUnavailable, because their messages may contain keys and accounts.

    Raises:
        FileNotFoundError: for an answer with one of the codes in `missing`.
        FileExistsError: for an answer with one of the codes in `present`.
    """
    try:
        yield
    except _FAULTS as error:
        cause = _innermost(error)
        if isinstance(cause, ClientError):
            code = str(cause.response.get("Error", {}).get("Code"))
            if code in missing:
                raise FileNotFoundError("no such key") from None
            if code in present:
                raise FileExistsError("there may be such a key") from None
            raise StorageUnavailable(f"the bucket answered {code}") from None
        raise StorageUnavailable(f"the bucket cannot be used: {type(cause).__name__}") from None


def _innermost(error: BaseException) -> BaseException:
    """The innermost error that boto3 wrapped into its own: the server's answer if there was one."""
    inner = error.__cause__ or error.__context__
    return _innermost(inner) if isinstance(inner, _FAULTS) and not isinstance(error, ClientError) else error
