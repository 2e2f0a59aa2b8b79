"""Lets clients send input files straight to the artifact store, so that the bytes do not pass through the API.

A client asks for an upload, sends the file to the URL that it gets, and names the upload in `input_reference`. Any
caller who knows an upload's id may use it; ids cannot be guessed. A file is checked when a job uses it, and deleted
after a day.

A bucket refuses a file of another size than was announced by itself. Without one any replica of the API may get the
file, so what was announced lies in the store, beside the place of the file.
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.configuration.settings import Settings
from deployments.http.auth import Caller
from deployments.http.create_fields import refused
from deployments.http.errors import PayloadTooLarge
from deployments.http.limits import limits_of, too_many
from jobs import admission
from jobs.database import Database
from jobs.ids import UPLOAD_KEPT_S, is_outdated, is_upload_id, new_upload_id
from pipelines.errors import InvalidRequest
from storage.artifacts import ArtifactStore, UploadTarget
from storage.keys import upload_key, upload_prefix


class BeginUpload(BaseModel):
    """The body of POST /v1/uploads."""

    model_config = ConfigDict(extra="forbid")

    bytes: Annotated[int, Field(ge=1)]
    """The file's size; another size is refused."""
    mime_type: Annotated[str, Field(pattern=r"^image/[a-z0-9.+-]{1,64}$")]
    """The file's type."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The SHA-256 of the file, in hexadecimal; a file with another one is refused."""


def parse_upload(fields: dict[str, Any]) -> BeginUpload:
    """Validate the fields of an upload request. Raises InvalidRequest."""
    try:
        return BeginUpload.model_validate(fields)
    except ValidationError as error:
        raise refused(error, BeginUpload) from None


class Upload(BaseModel):
    """Where to send a file, and what to call it afterwards."""

    id: str
    object: Literal["upload"] = "upload"
    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: int


class Uploads:
    """Makes, receives and reads uploads. All requests of one API replica share one instance. Methods block."""

    def __init__(self, settings: Settings, database: Database, artifacts: ArtifactStore) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._max_bytes = settings.max_body_bytes
        # One connection to the job store at a time, whatever the threads: reads and cancels need the others.
        self._counting = threading.Lock()

    def begin(self, asked: BeginUpload, caller: Caller, here: str) -> Upload:
        """Create an upload target for a file: in the bucket, or under `here`, this service's own address.

        Raises:
            PayloadTooLarge, TooManyRequests
        """
        if asked.bytes > self._max_bytes:
            raise PayloadTooLarge(f"a file must have at most {self._max_bytes} bytes", param="bytes")
        self._count(caller)
        upload_id = new_upload_id()
        target = self._artifacts.upload_target(upload_key(upload_id), asked.mime_type, asked.bytes)
        if target is None or asked.sha256 is not None:
            self._artifacts.put(announced_key(upload_id), asked.model_dump_json().encode())
        if target is None:
            headers = {"content-type": asked.mime_type, "content-length": str(asked.bytes)}
            target = UploadTarget(f"{here.rstrip('/')}/v1/uploads/{upload_id}", headers)
        expires_at = int(time.time() + UPLOAD_KEPT_S)
        return Upload(id=upload_id, url=target.url, headers=dict(target.headers), expires_at=expires_at)

    def receive(self, upload_id: str, caller: Caller, data: bytes) -> None:
        """Store a file that was sent to this service. Sent again, it replaces the one before.

        Raises:
            InvalidRequest: it is not the file that was announced, and nothing is stored.
            TooManyRequests
        """
        if not is_upload_id(upload_id) or is_outdated(upload_id):
            raise InvalidRequest(
                "this is no id of an upload of the last day; POST /v1/uploads gives one", param="upload_id"
            )
        if self._artifacts.url(upload_key(upload_id)) is not None:
            raise InvalidRequest("send the file to the url that POST /v1/uploads gave", param="upload_id")
        self._count(caller)
        announced = self._announced(upload_id)
        if announced is None:
            raise InvalidRequest("there is no such upload; POST /v1/uploads gives one", param="upload_id")
        if len(data) != announced.bytes:
            raise InvalidRequest(
                f"the file has {len(data)} bytes, and {announced.bytes} were announced; send all of it, or ask for "
                "another upload",
                param="bytes",
            )
        _check_digest(data, announced, param="sha256")
        self._artifacts.put(upload_key(upload_id), data)

    def read(self, upload_id: str, *, param: str) -> bytes:
        """The bytes of an uploaded file.

        Raises:
            InvalidRequest: there is no such file, or it is too large or another one than was announced; with `param` as
                the field at fault.
        """
        key = upload_key(upload_id)
        size = None if is_outdated(upload_id) else self._artifacts.size(key)
        if size is None:
            raise InvalidRequest("there is no such upload: send the file first", param=param, code="upload_not_found")
        if size > self._max_bytes:
            raise InvalidRequest(f"the uploaded file must have at most {self._max_bytes} bytes", param=param)
        data = self._artifacts.get(key)
        announced = self._announced(upload_id)
        if announced is not None:
            _check_digest(data, announced, param=param)
        return data

    def _announced(self, upload_id: str) -> BeginUpload | None:
        """What was said of the file, as far as it is known: a bucket knows all but its digest itself."""
        try:
            return BeginUpload.model_validate_json(self._artifacts.get(announced_key(upload_id)))
        except FileNotFoundError:
            return None

    def _count(self, caller: Caller) -> None:
        """Count an upload as a request: it costs no computing, but it takes storage."""
        try:
            with self._counting:
                admission.count_request(self._database, caller.name, limits_of(self._settings, caller))
        except admission.Refused as reached:
            raise too_many(reached) from None


def announced_key(upload_id: str) -> str:
    """The key of what was said of a file before it was sent. It goes when the upload does."""
    return upload_prefix(upload_id) + "announced.json"


def _check_digest(data: bytes, announced: BeginUpload, *, param: str) -> None:
    if announced.sha256 is not None and hashlib.sha256(data).hexdigest() != announced.sha256:
        raise InvalidRequest("the file's SHA-256 is not the one that was announced; send it again", param=param)
