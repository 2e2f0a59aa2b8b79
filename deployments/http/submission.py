"""Turns a create request into an accepted job. It refuses every bad request before anything is stored."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from deployments.configuration.settings import Settings, webhook_secret
from deployments.events import emit
from deployments.http.auth import Caller
from deployments.http.create_fields import CreateFields, parse_create
from deployments.http.errors import KeyReused, NotFound, Overloaded, PerhapsAccepted
from deployments.http.images import IMAGE_FIELD, Images
from deployments.http.in_hand import in_threads, reserve
from deployments.http.limits import limits_of, too_many
from deployments.http.unbroken import Unbroken
from deployments.http.uploads import Uploads
from deployments.outbound import Outbound
from deployments.outbound import Refused as UrlRefused
from jobs import acceptance
from jobs.acceptance import OutcomeUnknown
from jobs.admission import KeyReused as KeyStandsForAnother
from jobs.admission import Refused, Repeatable
from jobs.arrivals import Arrivals
from jobs.database import Database
from jobs.ids import is_upload_id, new_job_id
from jobs.priority import Priority
from jobs.record import Job
from jobs.stored import ResultMetadata
from pipelines.errors import InvalidRequest, KinorayError
from pipelines.families import graph_of
from pipelines.output import Output
from pipelines.pictures.read import Limits, Picture
from pipelines.requests import read_parameters, resolve, said_by
from pipelines.shape import Asked, odd_sides
from pipelines.strict import read_stored
from pipelines.vocabulary import unknown_words
from storage.artifacts import ArtifactStore
from storage.keys import input_key, job_folder, job_prefix
from storage.store import delete_or_leave

log = logging.getLogger("ray.serve")

MOST_HAVE = 4 * 2**20
"""The bytes of a picture that is not there yet."""
SHAPE = {"size": ("width", "height"), "seconds": ("num_frames",)}
"""Alternative fields, each with the fields that it stands for."""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A create request as it was received, not yet validated."""

    fields: dict[str, Any]
    image: bytes | str | None  # a file, the URL of one, or the id of an upload
    caller: Caller
    idempotency_key: str | None = None
    remix_of: Job | None = None

    @property
    def has_image(self) -> bool:
        """Whether there is one to be read."""
        return self.image is not None or (self.remix_of is not None and self.remix_of.has_image)


class Submission:
    """Accepts create requests. All requests of one API replica share one instance."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        artifacts: ArtifactStore,
        uploads: Uploads,
        files: Executor,
        on_accepted: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._cards = settings.cards()
        self._database = database
        self._artifacts = artifacts
        self._files = files
        self._uploads = uploads
        self._outbound = Outbound(settings.outbound_allow)
        self._sends_webhooks = webhook_secret() is not None
        self._images = Images(Limits(settings.max_image_pixels, settings.max_image_aspect_ratio))
        # One of these threads writes for all that wait.
        self._accepting = ThreadPoolExecutor(settings.max_creates_at_once, thread_name_prefix="accept")
        self._arrivals = Arrivals(database)
        self._unbroken = Unbroken()
        self._on_accepted = on_accepted

    async def accept(
        self, request: CreateRequest, left: Callable[[Job], Coroutine[Any, Any, None]] | None = None
    ) -> Job:
        """Validate a request, then store its image and the job with its place in the queue. The job will be rendered.

        A request that is canceled before anything is stored leaves nothing. Later it cannot be undone: the job is
        accepted, and `left` is run with it.

        Raises:
            InvalidRequest, NotFound, TooManyRequests, KeyReused: nothing is stored.
            PerhapsAccepted: the job may be stored.
        """
        _check_key(request.idempotency_key)
        body = parse_create(request.fields if request.remix_of is None else _remixed(request.fields, request.remix_of))
        image = await self._image(request)
        job = self._job(body, request, image)
        storing = self._unbroken.begin(self._accept(job, None if image is None else image.png, request))
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            if left is not None:
                self._unbroken.detach(_and_then(storing, left), f"the cancellation of {job.id}")
            raise

    async def _accept(self, job: Job, image: bytes | None, request: CreateRequest) -> Job:
        # A job without an image needs no artifact store, and must not wait behind jobs that do.
        threads = self._accepting if image is None else self._files
        accepted = await in_threads(threads, self._store, job, image, request)
        self._on_accepted()  # here, as the client may have left
        if accepted.id == job.id:
            size = f"{job.parameters['width']}x{job.parameters['height']}"
            emit("job.accepted", job_id=job.id, model=job.model, size=size, cost_s=round(accepted.cost_s, 2))
        return accepted

    def _job(self, body: CreateFields, request: CreateRequest, image: Picture | None) -> Job:
        model = body.model or self._settings.models[0]
        card = self._cards.get(model)
        if card is None:
            known = ", ".join(self._cards)
            raise InvalidRequest(f"no such model here; there are {known}", param="model", code="model_not_found")
        if body.webhook_url is not None:
            if not self._sends_webhooks:
                raise InvalidRequest(
                    "this service sends no webhooks: its operator must set KINORAY_WEBHOOK_SECRET", param="webhook_url"
                )
            self._outbound.check_url(body.webhook_url, param="webhook_url")
        asked = body.asked()
        if request.remix_of is not None:
            asked = _kept_shape(asked, request.remix_of, request.fields)
        has_image = image is not None
        parameters = resolve(body.generation(), card, asked=asked, has_image=has_image)
        graph = graph_of(card, parameters, has_image)
        size = asked.size or (parameters.width, parameters.height)
        job_id, now, bucket = new_job_id(), time.time(), self._settings.bucket
        return Job(
            id=job_id,
            model=model,
            prompt=body.prompt or "",
            parameters=parameters.model_dump(mode="json"),
            created_at=now,
            has_image=has_image,
            user=body.user,
            api_key=request.caller.name,
            priority=Priority(body.priority),
            work={stage.value: work for stage, work in graph.work().items()},
            output=Output.of(body).shaped(asked, parameters).model_dump(),
            webhook_url=body.webhook_url,
            expires_in_s=body.expires_in or self._settings.expires_in_s,
            remixed_from=request.remix_of.id if request.remix_of else None,
            folder=None if bucket is None else job_folder(bucket.folders, job_id=job_id, model=model, accepted_at=now),
            result_metadata=ResultMetadata(
                prompt_used=False if body.prompt and not card.TAKES_PROMPT else None,
                image_notes=image.notes or None if image is not None else None,
                warnings=(*odd_sides(*size), *unknown_words(body.prompt or "", card)) or None,
            ),
        )

    async def _image(self, request: CreateRequest) -> Picture | None:
        source = request.remix_of
        if request.image is not None:
            given = await self._referred(request.image) if isinstance(request.image, str) else request.image
            picture = await in_threads(self._images.threads, self._images.read, given)
            reserve(len(picture.png))
            return picture
        if source is None or not source.has_image:
            return None
        try:
            png = await _got(in_threads(self._files, self._artifacts.get, input_key(source)))
        except FileNotFoundError:
            raise NotFound(
                "the video's image is gone; send it again", param=IMAGE_FIELD, code="video_expired"
            ) from None
        return Picture(png, source.result_metadata.image_notes or ())

    async def _referred(self, reference: str) -> bytes:
        if is_upload_id(reference):
            read = partial(self._uploads.read, reference, param=IMAGE_FIELD)
            return await _got(in_threads(self._files, read))
        return await _got(self._fetch(reference))

    async def _fetch(self, url: str) -> bytes:
        self._outbound.check_url(url, param=IMAGE_FIELD)
        try:
            return await self._outbound.fetch(url, self._settings.max_body_bytes)
        except UrlRefused as refused:
            raise InvalidRequest(f"the image cannot be fetched: {refused}", param=IMAGE_FIELD) from None

    def _store(self, job: Job, image: bytes | None, request: CreateRequest) -> Job:
        """Store the image, then the job, or neither. The job is accepted once it is stored."""
        repeatable, limits = _repeatable(request), limits_of(self._settings, request.caller)
        keep_image = False
        try:
            if image is not None:
                self._artifacts.put(input_key(job), image)
            accepted = acceptance.accept(self._database, job, limits, repeatable, admit=self._arrivals.accept)
            keep_image = accepted.id == job.id
        except Refused as refused:
            raise too_many(refused) from None
        except KeyStandsForAnother:
            raise KeyReused("this Idempotency-Key was sent with another request; choose a new one") from None
        except OutcomeUnknown as unknown:
            keep_image = True  # if the job was not accepted, the sweeper deletes its image
            log.warning("the job store went away while it took %s", job.id)
            raise PerhapsAccepted(job.id, repeatable=repeatable is not None) from unknown
        finally:
            if image is not None and not keep_image:
                delete_or_leave(self._artifacts, job_prefix(job))
        return accepted


async def _got(reading: Coroutine[Any, Any, bytes]) -> bytes:
    """What is read, which counts as much as most pictures have until it is there. Raises Overloaded."""
    try:
        reserve(MOST_HAVE)
    except Overloaded:
        reading.close()
        raise
    data = await reading
    reserve(len(data) - MOST_HAVE)
    return data


async def _and_then(storing: asyncio.Task[Job], left: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
    try:
        job = await storing
    except KinorayError:
        return  # there is none
    await left(job)


def _remixed(fields: dict[str, Any], source: Job) -> dict[str, Any]:
    """The source's request, overridden by the fields given now. The seed stays unless it is given.

    What an older version did not know keeps that version's meaning, and the card gives its lists again.
    """
    if "model" in fields:
        raise InvalidRequest("a remix is made by the model of its source; leave model out", param="model")
    said_otherwise = {name for field in fields for name in SHAPE.get(field, ())}
    kept_shape = _kept_shape(Asked(), source, fields)
    said_otherwise |= {"width", "height"} if kept_shape.size else set()
    said_otherwise |= {"num_frames"} if kept_shape.num_frames else set()
    kept = {name: value for name, value in said_by(_parameters(source)).items() if name not in said_otherwise}
    return {**kept, "prompt": source.prompt, "model": source.model, **fields}


def _kept_shape(asked: Asked, source: Job, fields: Mapping[str, Any]) -> Asked:
    """What a remix says of its file, and what its source said where the fields given now do not."""
    output = read_stored(Output, source.output)
    said = {name for name, value in fields.items() if value is not None}
    if output.width and output.height and not said & {"size", "width", "height"}:
        asked = replace(asked, size=(output.width, output.height))
    if output.num_frames and not said & {"seconds", "num_frames"}:
        asked = replace(asked, num_frames=output.num_frames)
    return asked


def _check_key(key: str | None) -> None:
    if key is not None and not 1 <= len(key) <= 255:
        raise InvalidRequest("Idempotency-Key must have 1 to 255 characters", param="Idempotency-Key")


def _repeatable(request: CreateRequest) -> Repeatable | None:
    """The key and fingerprint of a request that may be repeated. Hashing a large image takes its time."""
    if request.idempotency_key is None:
        return None
    given = request.image.encode() if isinstance(request.image, str) else request.image
    image = hashlib.sha256(given).hexdigest() if given is not None else None
    source = request.remix_of.id if request.remix_of else None
    said = json.dumps([request.fields, image, source], sort_keys=True)
    return Repeatable(request.idempotency_key, hashlib.sha256(said.encode()).hexdigest())


def _parameters(source: Job) -> Mapping[str, Any]:
    try:
        return read_parameters(source.parameters).model_dump(mode="json")
    except (KeyError, ValidationError):
        return source.parameters  # of a family that is not installed here: its model is refused by name
