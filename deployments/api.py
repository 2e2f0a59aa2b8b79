"""The HTTP API: stateless, any number of replicas. It refuses every bad request that can be detected without a GPU."""

# No postponed annotations here: Serve rebuilds the routes from the methods' signatures and needs the types themselves.

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from deployments.configuration.api_keys import Scope, anonymous_allowed
from deployments.configuration.names import deployment_names
from deployments.configuration.sense import ONGOING
from deployments.configuration.settings import Settings, data_dir, database_url
from deployments.http import openapi
from deployments.http.auth import Authenticator, Caller, bearer, caller_of
from deployments.http.body import read_body, read_file
from deployments.http.cached import Cached
from deployments.http.contents import Contents
from deployments.http.ending import Ending, no_such_video
from deployments.http.error_handler import install
from deployments.http.errors import NotFound, NotImplementedHere, NotReady, Unavailable
from deployments.http.failed_starts import FailedStarts
from deployments.http.heads import is_head
from deployments.http.in_hand import InHand, in_threads
from deployments.http.known import video_of
from deployments.http.middleware import install_middleware
from deployments.http.notifying import Notifying
from deployments.http.origin import Origins
from deployments.http.overload import HeldOpen, Lane
from deployments.http.prefer import parse_prefer
from deployments.http.queue_view import QueueView
from deployments.http.readiness import STALE_S, Readiness, answer, readiness
from deployments.http.schemas import DeletedVideo, Model, ModelList, Video, VideoList
from deployments.http.sse import EventStream, last_seen
from deployments.http.store_metrics import exposition
from deployments.http.submission import CreateRequest, Submission
from deployments.http.threads import switch_soon
from deployments.http.unbroken import Unbroken
from deployments.http.uploads import BeginUpload, Upload, Uploads, parse_upload
from deployments.http.waiting import Waiting
from deployments.http.watcher import Watcher
from jobs.database import UNREACHABLE, open_database
from jobs.ids import is_job_id
from jobs.lifecycle import Status
from jobs.pins import Pins
from jobs.record import Job
from jobs.retention import Retention
from jobs.stage_failures import StageFailures
from jobs.store import JobStore
from pipelines.errors import InvalidRequest, KinorayError
from pipelines.version import VERSION
from pipelines.weights.pin import Commits
from storage.owner import require_ours
from storage.store import open_store

T = TypeVar("T")

log = logging.getLogger("ray.serve")

# Threads of the lanes that use the job store: together with one each for creates, the watcher, probes and metrics they
# are fewer than the connections of an engine.
READERS, ENDERS, STREAMERS = 4, 2, 2
STORING = 16
"""The number of uploads and first frames that may wait for the artifact store at once."""

# How long a client should wait before it polls again: short at first, then longer, since each poll takes a little of
# the CPU time that a render on a CPU needs.
POLL_AFTER_MS, LONG_JOB_POLL_AFTER_MS, LONG_JOB_S = 250, 500, 2.0

app = FastAPI(title="Kinoray", description="Video generation on a Ray cluster.", version=VERSION)
install(app)
install_middleware(app)
openapi.describe(app)
BEARER = [bearer()]


def _poll_after(response: Response, job: Job) -> None:
    """Tell the openai client how long to wait before it polls again."""
    if not job.ended:
        is_long = job.started_at is None or time.time() - job.started_at > LONG_JOB_S
        response.headers["openai-poll-after-ms"] = str(LONG_JOB_POLL_AFTER_MS if is_long else POLL_AFTER_MS)


# Serve pickles the class by value when it decorates it, with what the module holds by then: so helpers come first.
@serve.deployment(name="Api", max_ongoing_requests=ONGOING, graceful_shutdown_timeout_s=20)
@serve.ingress(app)
class Api:
    """Serves OpenAI's Videos API, and the additional routes that an operator needs."""

    def __init__(self, settings: Settings, conductor: DeploymentHandle[Any]) -> None:
        switch_soon()
        self.settings = settings
        self.cards = settings.cards()
        self.notifying = Notifying(lambda: conductor.notify.remote())
        self.store = open_store(settings.bucket, data_dir(), fail_fast=True)
        database = open_database(database_url())
        require_ours(self.store, Retention(database).store_id())
        self.jobs = JobStore(database)
        self.deployments = deployment_names(self.cards)
        self.failed_starts, self.pins = FailedStarts(StageFailures(database)), Pins(database)
        self.in_hand = InHand(settings.max_creates_at_once, settings.max_bytes_at_once)
        self.reads = Lane("reads", READERS, settings.max_reads_at_once)
        self.changes = Lane("changes", ENDERS, settings.max_reads_at_once)
        self.contents = Contents(self.store, settings.max_reads_at_once)
        self.unbroken = Unbroken()
        self.ending = Ending(self.jobs, self.store, self.changes, self.unbroken, settings.max_reads_at_once)
        self.held_open = HeldOpen(settings.max_held_open)
        self.files = ThreadPoolExecutor(STORING, thread_name_prefix="files")
        self.uploads = Uploads(settings, database, self.store)
        self.submission = Submission(settings, database, self.store, self.uploads, self.files, self.notifying.of_job)
        self.queue = QueueView(self.jobs)
        watcher = Watcher(self.jobs.versions)
        streams = Lane("streams", STREAMERS)
        self.waiting = Waiting(self.jobs, watcher, streams)
        self.event_stream = EventStream(self.jobs, watcher, streams, self.held_open)
        self.ready = Cached(self._readiness, "readiness")
        self.commits = Cached(self._commits, "weights' commits")
        self.exposition = Cached(lambda: exposition(self.jobs), "metrics")
        host = _get_global_client().http_config.host or ""
        anonymous = anonymous_allowed(settings.allow_anonymous, settings.api_keys, host)
        self.authenticator = Authenticator(settings.api_keys, anonymous)
        self.origins = Origins(
            settings.allowed_hosts, anonymous=anonymous, listens_on=host, cors_origins=settings.cors_origins
        )

    @app.post("/v1/videos", openapi_extra=openapi.create_body(), dependencies=BEARER, responses=openapi.CREATES)
    async def create(
        self,
        request: Request,
        response: Response,
        prefer: Annotated[str | None, Header()] = None,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Video:
        """Accept a job. Once this answers, the job is stored and will be rendered."""
        caller = caller_of(request, self.authenticator, "submit")
        job = await self._create(request, caller, idempotency_key)
        return await self._answer(request, job, response, prefer)

    @app.post(
        "/v1/videos/sync", openapi_extra=openapi.create_body(), dependencies=BEARER, response_class=FileResponse,
        responses=openapi.SYNC,
    )  # fmt: skip
    async def sync(self, request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        """Make a video and answer with its mp4, or with the Video if that takes too long.

        Disconnecting cancels it, unless the request has an Idempotency-Key, with which it can be sent again.
        """
        caller = caller_of(request, self.authenticator, "submit")
        left = self.ending.abandon if idempotency_key is None else None
        with self.held_open.one():
            job = await self._create(request, caller, idempotency_key, left=left)
            try:
                job = await self.waiting.until_ended(job, self.settings.sync_timeout_s)
            except asyncio.CancelledError:
                if left is not None:
                    self.unbroken.detach(left(job), f"the cancellation of {job.id}")
                raise
        if job.ended and job.status is not Status.COMPLETED:
            raise KinorayError(f"{job.id} failed: {job.error_message}", code=job.error_code)
        if job.ended:
            try:
                return await self.contents.answer(job, "video")
            except NotFound:
                raise
            except Exception as error:
                # The video is made, so nobody may be told to make it again; its content can be fetched later.
                log.warning("%s is answered without its file: %s", job.id, error)
        shown = await self._known(request, job)
        return JSONResponse(shown.model_dump(mode="json"), 202)

    @app.get("/v1/videos", dependencies=BEARER, responses=openapi.LISTS)
    async def list(
        self,
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """Jobs by time of creation."""
        caller = caller_of(request, self.authenticator, "read")
        if after is not None and not is_job_id(after):
            raise InvalidRequest("after must be the id of a video", param="after")
        owner = None if caller.sees_all else caller.name
        newest_first = order == "desc"

        def page() -> VideoList:
            jobs, more = self.jobs.page(after=after, limit=limit, newest_first=newest_first, api_key=owner)
            data = [self._shown(request, job) for job in jobs]
            ends = (data[0].id, data[-1].id) if data else (None, None)
            return VideoList(data=data, first_id=ends[0], last_id=ends[1], has_more=more)

        return await self.reads.run(page)

    @app.get("/v1/videos/{video_id}", dependencies=BEARER, responses=openapi.READS)
    async def retrieve(self, request: Request, video_id: str, response: Response) -> Video:
        """A job as it stands, with true step progress."""
        caller = caller_of(request, self.authenticator, "read")

        def found() -> tuple[Job, Video]:
            job = self._found(caller, video_id)
            return job, self._shown(request, job)

        job, shown = await self.reads.run(found)
        _poll_after(response, job)
        return shown

    @app.get(
        "/v1/videos/{video_id}/content", dependencies=BEARER, response_class=FileResponse, responses=openapi.CONTENT
    )
    async def content(
        self, request: Request, video_id: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
    ) -> Response:
        """The finished mp4, its poster or its spritesheet; supports Range."""
        job = await self._job(request, video_id, "read")
        if job.status is not Status.COMPLETED:
            raise NotReady(f"the video is {job.status}; its content exists once it is completed", param="video_id")
        return await self.contents.answer(job, variant, request.headers)

    @app.get(
        "/v1/videos/{video_id}/events", dependencies=BEARER, response_class=StreamingResponse, responses=openapi.EVENTS
    )
    async def events(
        self, request: Request, video_id: str, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Every change of a job as server-sent events: a snapshot first, closed once it has ended."""
        job = await self._job(request, video_id, "read")
        seen = last_seen(last_event_id)
        if job.ended and seen is not None and seen >= job.version:
            return Response(status_code=204)  # this tells a browser's EventSource not to reconnect
        if is_head(request.scope):
            return self.event_stream.none()
        return self.event_stream.of(job, seen, lambda now: self._shown(request, now).model_dump(mode="json"))

    @app.post(
        "/v1/videos/{video_id}/remix",
        openapi_extra=openapi.create_body(),
        dependencies=BEARER,
        responses=openapi.REMIXES,
    )
    async def remix(
        self,
        request: Request,
        video_id: str,
        response: Response,
        prefer: Annotated[str | None, Header()] = None,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Video:
        """A new video with the seed, shape, settings and image of another, except for the fields given."""
        source = await self._job(request, video_id, "read")
        caller = caller_of(request, self.authenticator, "submit")
        job = await self._create(request, caller, idempotency_key, remix_of=source)
        return await self._answer(request, job, response, prefer)

    @app.post("/v1/videos/{video_id}/cancel", dependencies=BEARER, responses=openapi.READS)
    async def cancel(self, request: Request, video_id: str) -> Video:
        """Stop a live job at its next step, which frees its GPU. A job that has ended is answered as it is."""
        caller = caller_of(request, self.authenticator, "submit")
        job = await self.ending.cancel(await self.changes.run(self._found, caller, video_id))
        return await video_of(job, partial(self.changes.finish, self._shown, request))

    @app.delete("/v1/videos/{video_id}", dependencies=BEARER, responses=openapi.READS)
    async def delete(self, request: Request, video_id: str) -> DeletedVideo:
        """Forget a job and everything it stored; a live one is stopped at its next step."""
        caller = caller_of(request, self.authenticator, "submit")
        job = await self.changes.run(self._found, caller, video_id)
        await self.ending.delete(job)
        return DeletedVideo(id=job.id)

    @app.post(
        "/v1/uploads", openapi_extra=openapi.json_body(BeginUpload), dependencies=BEARER,
        responses=openapi.UPLOADS,
    )  # fmt: skip
    async def begin_upload(self, request: Request) -> Upload:
        """Get a URL to send a video's first frame to. Then name the upload's id in `input_reference`."""
        caller = caller_of(request, self.authenticator, "submit")
        with self.in_hand.enter(request.headers) as place:
            fields, _ = await read_body(request, self.settings.max_body_bytes)
            place.read()
            asked = parse_upload(fields)
            return await in_threads(self.files, self.uploads.begin, asked, caller, str(request.base_url))

    @app.put(
        "/v1/uploads/{upload_id}", openapi_extra=openapi.file_body(), dependencies=BEARER, status_code=204,
        responses=openapi.UPLOADS,
    )  # fmt: skip
    async def receive_upload(self, request: Request, upload_id: str) -> None:
        """Send the file here if the service has no bucket."""
        caller = caller_of(request, self.authenticator, "submit")
        with self.in_hand.enter(request.headers) as place:
            data = await read_file(request, self.settings.max_body_bytes)
            place.read(slow=True)
            await in_threads(self.files, self.uploads.receive, upload_id, caller, data)

    @app.post("/v1/videos/edits", include_in_schema=False)
    @app.post("/v1/videos/extensions", include_in_schema=False)
    @app.post("/v1/videos/characters", include_in_schema=False)
    @app.get("/v1/videos/characters/{character_id}", include_in_schema=False)
    async def not_implemented(self, request: Request) -> None:
        """Calls of OpenAI's client that no model here can serve: they get a clear error, not an unknown route."""
        caller_of(request, self.authenticator, "submit")
        raise NotImplementedHere("no model of this service can do that; GET /v1/models lists what they can")

    @app.get("/v1/models", dependencies=BEARER, responses=openapi.answers(401, 403))
    async def models(self, request: Request) -> ModelList:
        """The models this service runs, with their limits and defaults, and where their weights are from."""
        caller_of(request, self.authenticator, "read")
        now, commits = await self.ready.get(), await self.commits.get()
        unavailable = {} if now is None else now.value.unavailable
        pinned = {} if commits is None else commits.value
        return ModelList(data=[Model.of(card, pinned, unavailable.get(card.id)) for card in self.cards.values()])

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """This process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses=openapi.LOADING)
    async def readyz(self, response: Response) -> dict[str, Any]:
        """200 once every stage could run at once, but for those that cannot start if they leave a model that can run.

        A stage that load scaled to zero counts as ready. The answer is a second old at most; it is 503 and says how old
        if Serve's controller or the job store has not answered for longer than five seconds.
        """
        response.status_code, body = answer(await self.ready.get())
        return body

    @app.get("/metrics", response_class=PlainTextResponse, responses=openapi.METRICS)
    async def metrics(self) -> Response:
        """Cluster-wide metrics from the job store, for Prometheus."""
        known = await self.exposition.get()
        if known is None or known.age_s > STALE_S:
            raise Unavailable("the job store cannot be reached; scrape again in a moment")
        text, kind = known.value
        return Response(text, media_type=kind)

    async def _create(
        self,
        request: Request,
        caller: Caller,
        idempotency_key: str | None,
        remix_of: Job | None = None,
        left: Callable[[Job], Coroutine[Any, Any, None]] | None = None,
    ) -> Job:
        """Accept a job. If the client leaves while it is being stored, `left` is run with it once it is."""
        with self.in_hand.enter(request.headers) as place:
            fields, image = await read_body(request, self.settings.max_body_bytes)
            asked = CreateRequest(fields, image, caller, idempotency_key, remix_of)
            place.read(slow=asked.has_image)
            return await self.submission.accept(asked, left)

    async def _answer(self, request: Request, job: Job, response: Response, prefer: str | None) -> Video:
        wait_s = parse_prefer(prefer, self.settings.max_wait_s)
        if wait_s is not None and not self.held_open.full:
            response.headers["preference-applied"] = f"wait={wait_s:.0f}"
            with self.held_open.one():
                job = await self.waiting.until_ended(job, wait_s)
        _poll_after(response, job)
        return await self._known(request, job)

    async def _known(self, request: Request, job: Job) -> Video:
        """The Video of a job that this request has accepted."""

        async def show(job: Job) -> Video:
            if not job.ended and self.queue.is_fresh(job):
                return self._shown(request, job)  # waits for nothing
            return await self.reads.finish(self._shown, request, job)

        return await video_of(job, show)

    async def _job(self, request: Request, job_id: str, scope: Scope) -> Job:
        """A job that the caller may see. Raises NotFound for any other."""
        caller = caller_of(request, self.authenticator, scope)
        return await self.reads.run(self._found, caller, job_id)

    def _found(self, caller: Caller, job_id: str) -> Job:
        """The same; blocks for the job store."""
        job = self.jobs.get(job_id) if is_job_id(job_id) else None
        if job is None or not caller.sees(job.api_key):
            raise no_such_video()
        return job

    def _readiness(self) -> Readiness:
        return readiness(self.deployments, self.failed_starts)

    def _commits(self) -> Commits:
        """The commits that are recorded; none while the job store cannot be reached, as it is not needed otherwise."""
        try:
            return self.pins.commits()
        except UNREACHABLE:
            return {}

    def _shown(self, request: Request, job: Job) -> Video:
        """A job as this request's sender sees it."""
        return Video.of(job, self.queue.place(job), self.contents.urls(job, request.scope["root_path"]))
