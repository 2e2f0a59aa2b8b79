"""An operator's setup of a bucket: create it, set its expiry rules, and check the service's permissions in it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storage.artifacts import KEEP, KEEP_DAYS
from storage.client import connect, encryption, in_our_words
from storage.errors import StorageUnavailable
from storage.keys import CHECKPOINTS, VIDEOS
from storage.settings import BucketSettings

UNFINISHED_DAYS, CHECKPOINT_DAYS = 1, 7
RULE = "kinoray"
"""The ids of our rules begin with this word; other rules stay unchanged."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of the check of one permission that the service needs."""

    permission: str
    problem: str | None  # a sentence; None when it works


class BucketSetup:
    """One bucket, used with the credentials of this process. Methods block."""

    def __init__(self, settings: BucketSettings) -> None:
        self.settings = settings
        self._client = connect(settings, settings.endpoint_url)

    def init(self) -> list[str]:
        """Create the bucket unless it exists, and set its rules; returns what was done, in sentences.

        Raises:
            StorageUnavailable: one of these steps is not allowed, or the server cannot be reached.
        """
        done = []
        if not self._exists():
            with in_our_words():
                self._client.create_bucket(**self._named(), **self._location())
            done.append(f"made the bucket {self.settings.name}")
        rules = self._with_others("lifecycle_configuration", "Rules", self._rules())
        origins = self._with_others("cors", "CORSRules", [_CORS])
        with in_our_words():
            self._client.put_bucket_lifecycle_configuration(**self._named(), LifecycleConfiguration={"Rules": rules})
            self._client.put_bucket_cors(**self._named(), CORSConfiguration={"CORSRules": origins})
        done.append("gave it lifecycle rules, a backstop for what the service deletes by itself")
        done.append("let pages of any origin read what they have a URL for")
        return done

    def check(self) -> Iterator[Finding]:
        """Try every operation of the service on a test object, which is deleted afterwards.

        Raises:
            StorageUnavailable: the server cannot be reached, or does not know the credentials.
        """
        if not self._exists():  # some servers would create it with the first object
            yield Finding("the bucket", f"there is no bucket {self.settings.name}; --init makes it")
            return
        key = {**self._named(), "Key": f"{self.settings.prefix}.kinoray-check-{uuid.uuid4().hex}"}
        client, upload = self._client, "none"
        kept = {"ChecksumAlgorithm": "SHA256", **encryption(self.settings)}

        def look() -> None:
            client.list_objects_v2(**self._named(), Prefix=self.settings.prefix, MaxKeys=1)

        def begin() -> None:
            nonlocal upload
            upload = client.create_multipart_upload(**key, **kept)["UploadId"]

        tries: list[tuple[str, str, Callable[[], Any]]] = [
            ("s3:ListBucket", "old files cannot be found", look),
            ("s3:PutObject", "nothing can be stored", lambda: client.put_object(**key, **kept, Body=b"x")),
            (
                "s3:PutObjectTagging", "set tags: false to do without",
                lambda: client.put_object(**key, **kept, Tagging="a=b"),
            ),
            ("s3:GetObject", "images, checkpoints and videos cannot be read", lambda: client.get_object(**key)),
            ("s3:PutObject in parts", "large videos cannot be stored", begin),
            (
                "s3:ListBucketMultipartUploads", "uploads that failed stay and cost money",
                lambda: client.list_multipart_uploads(**self._named(), Prefix=key["Key"]),
            ),
            (
                "s3:AbortMultipartUpload", "uploads that failed stay and cost money",
                lambda: client.abort_multipart_upload(**key, UploadId=upload),
            ),
            ("s3:DeleteObject", "nothing can be deleted", lambda: client.delete_object(**key)),
        ]  # fmt: skip
        for permission, without, attempt in tries:
            problem = None
            try:
                with in_our_words({"NoSuchKey", "NoSuchUpload"}):
                    attempt()
            except FileNotFoundError:
                pass  # the operation is allowed; only the object to try it on could not be created
            except StorageUnavailable as error:
                problem = f"{permission} is missing, so {without} ({error})"
            yield Finding(permission, problem)

    def _exists(self) -> bool:
        try:
            with in_our_words({"404", "NoSuchBucket", "NotFound"}):
                self._client.head_bucket(**self._named())
        except FileNotFoundError:
            return False
        return True

    def _rules(self) -> list[dict[str, Any]]:
        prefix = self.settings.prefix
        mine = hashlib.sha256(prefix.encode()).hexdigest()[:8]  # an id has at most 255 characters
        rules: list[dict[str, Any]] = [
            {
                "ID": f"{RULE}-{mine}-unfinished",
                "Filter": {"Prefix": prefix},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_DAYS},
            },
            {
                "ID": f"{RULE}-{mine}-checkpoints",
                "Filter": {"Prefix": prefix + CHECKPOINTS},
                "Expiration": {"Days": CHECKPOINT_DAYS},
            },
        ]
        for days in KEEP_DAYS:
            tagged = {"Prefix": prefix + VIDEOS, "Tags": [{"Key": KEEP, "Value": f"{days}d"}]}
            rules.append({"ID": f"{RULE}-{mine}-{days}d", "Filter": {"And": tagged}, "Expiration": {"Days": days + 1}})
        return [{**rule, "Status": "Enabled"} for rule in rules]

    def _with_others(self, what: str, name: str, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Our rules together with other owners' rules: a bucket has one list of each kind, written only as a whole."""
        mine = {rule["ID"] for rule in ours}
        try:
            with in_our_words({"NoSuchLifecycleConfiguration", "NoSuchCORSConfiguration"}):
                there: list[dict[str, Any]] = getattr(self._client, f"get_bucket_{what}")(**self._named())[name]
        except FileNotFoundError:
            there = []
        return [*(rule for rule in there if rule.get("ID") not in mine), *ours]

    def _named(self) -> dict[str, str]:
        return {"Bucket": self.settings.name}

    def _location(self) -> dict[str, Any]:
        """The region option for `create_bucket`: Amazon requires it for every region except us-east-1."""
        region = self._client.meta.region_name
        if self.settings.endpoint_url is not None or region == "us-east-1":
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": region}}


_CORS = {
    "ID": RULE,
    "AllowedMethods": ["GET", "HEAD", "PUT"],
    "AllowedOrigins": ["*"],
    "AllowedHeaders": ["*"],
    "ExposeHeaders": ["ETag", "Content-Length", "Content-Range"],
    "MaxAgeSeconds": 3600,
}
