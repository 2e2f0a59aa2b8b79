"""Runs one job through its stages. It holds references and small values, never a tensor."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError, TaskCancelledError
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.events import emit
from deployments.orchestration.denoiser_pool import DenoiserPool
from deployments.orchestration.lease import Lease
from deployments.stages.messages import CheckpointRef, DenoiseRequest, Ending, Finished, Progress, Started, Stopped
from jobs.record import Checkpoint, Job
from pipelines.errors import LatentsLost
from pipelines.output import Output
from pipelines.requests import Parameters, read_parameters
from pipelines.stages import Stage
from storage.keys import input_key

# Draining a stream takes as long as a step, so it must not occupy the threads that write to the job store.
_DRAINS = ThreadPoolExecutor(64, thread_name_prefix="drain")


CAN_MIGRATE = (Stage.DENOISE, Stage.PUBLISH)
"""The stages that can outlast the time a replica has to stop: denoising, and a wait for the artifact store."""


@dataclass(frozen=True, slots=True)
class Route:
    """The deployments that one model's jobs run through; None where the model's family has no such stage."""

    publisher: DeploymentHandle[Any]
    denoise: DeploymentHandle[Any]
    decode: DeploymentHandle[Any]
    text_encode: DeploymentHandle[Any] | None = None
    image_encode: DeploymentHandle[Any] | None = None

    @property
    def first(self) -> Stage:
        """The stage that a job of the model begins with."""
        return Stage.IMAGE_ENCODE if self.text_encode is None else Stage.TEXT_ENCODE


class Migrated(Exception):
    """Raised when a replica that was told to stop has given the job back, or was killed because it took too long.

    A denoiser has committed its step before.
    """


class JobRun:
    """Runs one job. `seconds` and `result_metadata` grow as stages finish; `replica` is the one that works now."""

    def __init__(self, job: Job, route: Route, lease: Lease, denoiser_pool: DenoiserPool) -> None:
        self.job = job
        self.route = route
        self.lease = lease
        self.denoiser_pool = denoiser_pool
        self.parameters: Parameters = read_parameters(job.parameters)
        self.seconds: dict[str, float] = {}
        self.result_metadata: dict[str, Any] = dict(job.result_metadata)
        self.stage: Stage | None = None
        self.replica: str | None = None
        self._response: Any = None  # of a stage that can be migrated
        self._started = False
        self._left_denoiser = False
        self._forgiven: set[type[BaseException]] = set()
        self._migrating = False

    async def run(self) -> None:
        """Encode, denoise, decode and publish. Drop each reference as soon as the next stage has its value."""
        job, committed = self.job, self.job.checkpoint
        if committed is not None and committed.final:
            # An earlier attempt finished the denoise: use its committed latents and do not render them again.
            rendered = await self._decode(self._committed(committed))
        else:
            rendered = await self._decode(await self._latents(committed))
        await self.lease.advance(Stage.PUBLISH)
        while True:
            try:
                await self._stage(Stage.PUBLISH, self.route.publisher, job, rendered)
            except Migrated:
                continue
            return

    def waits_in_vain(self) -> bool:
        """Whether the assigned denoiser is gone although it has not begun this job."""
        waits = self._response is not None and not self._started
        return waits and self.replica not in self.denoiser_pool.denoisers(self.job.model)

    def preempt(self) -> None:
        """Give this job's denoiser, if it has one, to a job of a higher class."""
        if self.stage is Stage.DENOISE:
            self.migrate()

    def migrate(self) -> None:
        """Migrate the job to another replica, which continues a denoise at the next step, or publishes the files.

        The other stages finish before a stopping replica must be gone, and so does the end of a denoise.
        """
        ending = self.stage is Stage.DENOISE and self._left_denoiser
        if self._response is not None and not self._migrating and not ending:
            self._migrating = True
            self._response.cancel()

    def _committed(self, checkpoint: Checkpoint) -> CheckpointRef:
        self.seconds[Stage.DENOISE] = checkpoint.seconds
        self.result_metadata.update(checkpoint.result_metadata)
        return CheckpointRef(checkpoint.key)

    async def _latents(self, checkpoint: Checkpoint | None) -> ObjectRef[Any] | CheckpointRef:
        """Encode and denoise, continuing from a checkpoint if there is one."""
        job, route = self.job, self.route
        text = image = None
        if route.text_encode is not None:
            text = await self._stage(Stage.TEXT_ENCODE, route.text_encode, job.prompt, self.parameters)
        if job.has_image and route.image_encode is not None:
            if route.first is not Stage.IMAGE_ENCODE:
                await self.lease.advance(Stage.IMAGE_ENCODE)
            image = await self._stage(Stage.IMAGE_ENCODE, route.image_encode, input_key(job), self.parameters)
        while True:
            self._left_denoiser = False
            await self.lease.advance(Stage.DENOISE)
            self.replica = await self.denoiser_pool.denoiser(job.model, self.lease.token)
            request = DenoiseRequest(job.id, job.model, self.lease.token, self.replica, checkpoint)
            self.result_metadata.pop("resumed_at_step", None)
            try:
                latents = await self._stage(Stage.DENOISE, route.denoise, self.parameters, text, image, request)
            except Migrated:
                checkpoint = await self.lease.checkpoint()
                if checkpoint is not None and checkpoint.final:
                    return self._committed(checkpoint)  # the denoise had finished before it could be stopped
                continue
            if checkpoint is not None and "resumed_at_step" in self.result_metadata:
                self.seconds[Stage.DENOISE] = round(self.seconds[Stage.DENOISE] + checkpoint.seconds, 4)
            return latents

    async def _leave_denoiser(self) -> None:
        """Free the denoiser, which may belong to another job from now on."""
        self._left_denoiser = True
        await self.lease.advance(Stage.DECODE)
        self.denoiser_pool.freed()

    async def _decode(self, latents: Any) -> ObjectRef[Any]:
        output = Output.model_validate(self.job.output)
        if not self._left_denoiser:
            await self._leave_denoiser()
        try:
            return await self._stage(Stage.DECODE, self.route.decode, self.job.model, latents, self.parameters, output)
        except RayTaskError as error:
            if not isinstance(cause_of(error), LatentsLost):
                raise
        await self.lease.forget_checkpoint()
        return await self._decode(await self._latents(None))

    async def _stage(self, stage: Stage, handle: DeploymentHandle[Any], *inputs: Any) -> Any:
        """Run one stage; returns the reference of its value, which this process never reads. None if it has no value.

        When cancelled, this ends only after the stage has: what the stage commits while stopping is still written
        under this lease.
        """
        response = handle.options(method_name="run", stream=True).remote(*inputs)
        references = None
        self.stage, self._started = stage, False
        self._response = response if stage is Stage.DENOISE else None
        try:
            references = await response._to_object_ref_gen()
            async for reference in references:
                match await reference:
                    case Started(replica):
                        self.replica, self._started = replica, True
                        self._response = response if stage in CAN_MIGRATE else None
                        await self.lease.report(stage, replica)
                    case Progress(step, num_steps):
                        assert self.replica is not None
                        at = step if stage is Stage.DENOISE else None
                        await self.lease.report(stage, self.replica, step / num_steps, at)
                    case Ending():
                        await self._leave_denoiser()
                    case Finished() as finished:
                        # Not `anext`: that would fetch and read the value here, only to learn that it exists.
                        value = await asyncio.to_thread(next, references, None)
                        if value is None and stage is not Stage.PUBLISH:
                            raise AssertionError(f"{stage} has finished without a value")
                        self._finished(stage, finished)
                        async for _ in references:
                            raise AssertionError("a stage's value is the last item of its stream")
                        return value
                    case other:
                        raise AssertionError(f"{stage} sent {type(other).__name__} before it had finished")
        except BaseException as error:
            response.cancel()
            if references is not None:
                await _drain(references)
            if stage is Stage.DENOISE and isinstance(error, ActorDiedError):
                self.denoiser_pool.lost(self.replica)
            taken_back = self._migrating and _was_taken_back(error)
            if taken_back or self._is_forgiven(error):
                emit("job.migrated", job_id=self.job.id, model=self.job.model, stage=stage, replica=self.replica)
                raise Migrated from error
            raise
        finally:
            self._response, self._migrating = None, False
        raise AssertionError(f"the stream of {stage} ended without a value")

    def _is_forgiven(self, error: BaseException) -> bool:
        """Whether a denoise ended through no fault of the job, so that the job is kept; once for each reason.

        There are two reasons. The denoiser died before it began this job. Or the denoiser stopped by itself because it
        found the job's lease expired: after an outage of the store it may have looked before the conductor could renew.
        If that happens twice, the denoiser's clock is wrong.
        """
        reason = None
        if isinstance(error, ActorDiedError) and not self._started:
            reason = ActorDiedError
        elif isinstance(cause_of(error), Stopped):
            reason = Stopped
        if self.stage is not Stage.DENOISE or reason is None or reason in self._forgiven:
            return False
        self._forgiven.add(reason)
        return True

    def _finished(self, stage: Stage, finished: Finished) -> None:
        labels = {"model": self.job.model, "stage": stage}
        self.seconds[stage] = round(finished.seconds, 4)
        self.result_metadata.update(finished.result_metadata)
        metrics.stage_seconds().observe(finished.seconds, labels)
        if finished.nbytes:
            metrics.stage_output_bytes().observe(finished.nbytes, labels)
        emit(
            "stage.finished",
            job_id=self.job.id,
            model=self.job.model,
            stage=stage,
            seconds=self.seconds[stage],
            nbytes=finished.nbytes,
        )


def cause_of(error: BaseException) -> BaseException:
    """The original error of a stage, without Ray's wrapper."""
    cause: BaseException = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
    return cause


def _was_taken_back(error: BaseException) -> bool:
    """Whether a call ended the way a canceled call does: here, before it had a replica, or on the replica."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()  # the call was canceled, not this job run
    return isinstance(error, RayTaskError | RayActorError | TaskCancelledError)


async def _drain(references: Any) -> None:
    """Wait for the end of a cancelled stream, when the stage's thread has stopped; return early if cancelled again.

    Items still in the stream are skipped unread: a stage that had just finished has put its value there.
    """

    def pass_over() -> None:
        for _ in references:
            pass

    await asyncio.gather(asyncio.get_running_loop().run_in_executor(_DRAINS, pass_over), return_exceptions=True)
