"""The HTTP API: stateless, any number of replicas. Everything that can be known without a GPU is refused here."""

# No postponed annotations here: Serve rebuilds the routes from the methods' signatures and needs the types themselves.

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.body import check_image, read_body
from deployments.events import emit
from deployments.facts import exposition
from deployments.http_errors import install
from deployments.readiness import missing_legs
from deployments.schemas import CreateVideo, DeletedVideo, Model, ModelList, Video, VideoList, parse_create
from deployments.settings import Settings, data_dir, database_url
from jobs.lifecycle import Status
from jobs.record import Job, is_job_id, new_job_id
from jobs.store import CANCELED, JobStore
from pipelines.errors import InvalidRequest, NotFound, NotImplementedHere, NotReady
from pipelines.requests import resolve
from storage.store import input_key, job_prefix, local_store, video_key

# How long a client should wait before it asks again: short at first, then longer, since each question costs a little of
# the processor that a render on a CPU needs.
POLL_AFTER_MS, LONG_JOB_POLL_AFTER_MS, LONG_JOB_S = 250, 500, 2.0

app = FastAPI(title="Kinoray", description="Video generation on a Ray cluster.", version="0.1.0")
install(app)

CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": CreateVideo.model_json_schema()} for kind in ("application/json", "multipart/form-data")
        },
    }
}


def _unknown() -> NotFound:
    return NotFound("no such video; it may have been deleted", param="video_id")


def _poll_after(response: Response, job: Job) -> None:
    """Tell the openai client how long to wait before it asks again."""
    if not job.ended:
        is_long = job.started_at is None or time.time() - job.started_at > LONG_JOB_S
        response.headers["openai-poll-after-ms"] = str(LONG_JOB_POLL_AFTER_MS if is_long else POLL_AFTER_MS)


# Serve pickles the class by value when it decorates it, with what the module holds by then: helpers stand above it.
@serve.deployment(name="Api", max_ongoing_requests=200, graceful_shutdown_timeout_s=20)
@serve.ingress(app)
class Api:
    """OpenAI's Videos API, and what an operator needs beside it."""

    def __init__(self, settings: Settings, conductor: DeploymentHandle[Any]) -> None:
        self.settings = settings
        self.cards = settings.cards()
        self.conductor = conductor
        self.jobs = JobStore(database_url())
        self.store = local_store(data_dir())
        # Decoding a large image takes seconds; it must not hold up the threads that read the job store.
        self.images = ThreadPoolExecutor(1, thread_name_prefix="image")

    @app.post("/v1/videos", openapi_extra=CREATE_BODY)
    async def create(self, request: Request, response: Response) -> Video:
        """Accept a job. Once this answers, the job is stored and will be rendered."""
        fields, image = await read_body(request, self.settings.max_body_bytes)
        body = parse_create(fields)
        model = body.model or self.settings.models[0]
        card = self.cards.get(model)
        if card is None:
            known = ", ".join(self.cards)
            raise InvalidRequest(f"no such model here; there are {known}", param="model", code="model_not_found")
        parameters = resolve(body.generation(), card, seconds=body.duration(), has_image=image is not None)
        if image is not None:
            limits = self.settings.max_image_pixels, self.settings.max_image_aspect_ratio
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(self.images, check_image, image, *limits)
        job = Job(
            id=new_job_id(),
            model=model,
            prompt=body.prompt or "",
            parameters=parameters.model_dump(mode="json"),
            created_at=time.time(),
            has_image=image is not None,
            user=body.user,
            facts={"prompt_used": False} if body.prompt and not card.TAKES_PROMPT else {},
        )
        await asyncio.to_thread(self._accept, job, image)
        emit("job.accepted", job_id=job.id, model=model, size=f"{parameters.width}x{parameters.height}")
        self.conductor.nudge.remote()
        _poll_after(response, job)
        return Video.of(job)

    @app.get("/v1/videos")
    async def list(
        self,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """Jobs by time of creation."""
        if after is not None and not is_job_id(after):
            raise InvalidRequest("after must be the id of a video", param="after")
        jobs, more = await asyncio.to_thread(self.jobs.page, after=after, limit=limit, newest_first=order == "desc")
        data = [Video.of(job) for job in jobs]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=ends[0], last_id=ends[1], has_more=more)

    @app.get("/v1/videos/{video_id}")
    async def retrieve(self, video_id: str, response: Response) -> Video:
        """A job as it stands, with true step progress."""
        job = await self._job(video_id)
        _poll_after(response, job)
        return Video.of(job)

    @app.get("/v1/videos/{video_id}/content", response_class=FileResponse)
    async def content(self, video_id: str) -> FileResponse:
        """The finished mp4; supports Range."""
        job = await self._job(video_id)
        if job.status is not Status.COMPLETED:
            raise NotReady(f"the video is {job.status}; its content exists once it is completed", param="video_id")
        path = self.store.local_path(video_key(job.id))
        if path is None:
            raise _unknown()
        return FileResponse(path, media_type="video/mp4", filename=f"{job.id}.mp4", content_disposition_type="inline")

    @app.post("/v1/videos/{video_id}/cancel")
    async def cancel(self, video_id: str) -> Video:
        """Stop a live job at its next step, which frees its GPU. A job that has ended is answered as it is."""
        before = await self._job(video_id)
        job = await asyncio.to_thread(self.jobs.cancel, video_id)
        if job is None:
            raise _unknown()
        if not before.ended and job.error_code == CANCELED:
            emit("job.canceled", job_id=job.id, model=job.model)
        if before.status is Status.QUEUED and job.attempts == before.attempts:
            # No conductor had it, so none will tidy up.
            metrics.jobs_total().inc(1, {"model": job.model, "outcome": "canceled"})
            await asyncio.to_thread(self.store.delete_prefix, job_prefix(job.id))
        return Video.of(job)

    @app.delete("/v1/videos/{video_id}")
    async def delete(self, video_id: str) -> DeletedVideo:
        """Forget a job and everything it stored; a live one is stopped at its next step."""
        job = await self._job(video_id)
        if not await asyncio.to_thread(self.jobs.delete, job.id):
            raise _unknown()
        await asyncio.to_thread(self.store.delete_prefix, job_prefix(job.id))
        emit("job.deleted", job_id=job.id, model=job.model)
        return DeletedVideo(id=job.id)

    @app.post("/v1/videos/edits", include_in_schema=False)
    @app.post("/v1/videos/extensions", include_in_schema=False)
    @app.post("/v1/videos/characters", include_in_schema=False)
    @app.get("/v1/videos/characters/{character_id}", include_in_schema=False)
    async def not_implemented(self) -> None:
        """Calls of OpenAI's client that no model here can serve: said plainly, not as a route that is not there."""
        raise NotImplementedHere("no model of this service can do that; GET /v1/models lists what they can")

    @app.get("/v1/models")
    async def models(self) -> ModelList:
        """The models this service runs, with their limits and defaults."""
        return ModelList(data=[Model.of(card) for card in self.cards.values()])

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """This process is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(self, response: Response) -> dict[str, Any]:
        """200 once every model could run at once; a leg that its config scales to zero counts as ready."""
        waiting = await asyncio.to_thread(missing_legs)
        response.status_code = 503 if waiting else 200
        return {"status": "loading" if waiting else "ready", "waiting_for": waiting}

    @app.get("/metrics")
    async def metrics(self) -> Response:
        """Cluster-wide facts from the job store, for Prometheus."""
        text, kind = await asyncio.to_thread(exposition, self.jobs)
        return Response(text, media_type=kind)

    async def _job(self, job_id: str) -> Job:
        job = await asyncio.to_thread(self.jobs.get, job_id) if is_job_id(job_id) else None
        if job is None:
            raise _unknown()
        return job

    def _accept(self, job: Job, image: bytes | None) -> None:
        """Store the image, then the job, which is the moment of acceptance; or neither."""
        try:
            if image is not None:
                self.store.put(input_key(job.id), image)
            self.jobs.insert(job)
        except BaseException:
            self.store.delete_prefix(job_prefix(job.id))
            raise
