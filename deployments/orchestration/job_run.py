"""One job through the legs, holding references and small facts, never a tensor."""

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
from deployments.orchestration.denoiser_pool import WaitingRoom
from deployments.orchestration.lease import Lease
from deployments.stages.messages import Committed, Ending, Finished, Progress, Started, Stopped, Ticket
from jobs.lifecycle import Leg
from jobs.record import Job
from pipelines.errors import LatentsLost
from pipelines.output import Output
from pipelines.requests import Parameters, read_parameters
from storage.keys import input_key

# A drain takes as long as a step: it must not take the threads that write to the job store.
_DRAINS = ThreadPoolExecutor(64, thread_name_prefix="drain")


HANDED_OVER = (Leg.DENOISE, Leg.PUBLISH)
"""The legs that may take longer than a replica has to stop: a render, and a wait for the artifact store."""


@dataclass(frozen=True, slots=True)
class Route:
    """The deployments that one model's jobs run through; None where its family has no such leg."""

    publisher: DeploymentHandle[Any]
    denoise: DeploymentHandle[Any]
    decode: DeploymentHandle[Any]
    text: DeploymentHandle[Any] | None = None
    image: DeploymentHandle[Any] | None = None


class HandedOver(Exception):
    """A replica that was told to stop has given the job back, or was killed because it took too long to.

    A denoiser has committed its step before.
    """


class Relay:
    """Runs one job. `seconds` and `facts` fill up as legs finish; `replica` is the one that works now."""

    def __init__(self, job: Job, route: Route, lease: Lease, waiting_room: WaitingRoom) -> None:
        self.job = job
        self.route = route
        self.lease = lease
        self.waiting_room = waiting_room
        self.parameters: Parameters = read_parameters(job.parameters)
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, Any] = dict(job.facts)
        self.leg: Leg | None = None
        self.replica: str | None = None
        self._response: Any = None  # of a leg that can be handed over
        self._started = False
        self._left_denoiser = False
        self._forgiven: set[type[BaseException]] = set()
        self._handing_over = False

    async def run(self) -> None:
        """Encode, denoise, decode, publish. Each reference is dropped as soon as the next leg has its value."""
        job, committed = self.job, self.job.checkpoint
        if committed is not None and committed["final"]:
            # An earlier attempt got that far: what it committed is not rendered again.
            rendered = await self._decode(self._committed(committed))
        else:
            rendered = await self._decode(await self._latents(committed))
        await self.lease.advance(Leg.PUBLISH)
        while True:
            try:
                await self._leg(Leg.PUBLISH, "publish", self.route.publisher, job, rendered)
            except HandedOver:
                continue
            return

    def waits_in_vain(self) -> bool:
        """Whether the denoiser that it was given is gone before it has begun."""
        waits = self._response is not None and not self._started
        return waits and self.replica not in self.waiting_room.denoisers(self.job.model)

    def make_way(self) -> None:
        """Give up its denoiser, if it has one, to a job of a higher class."""
        if self.leg is Leg.DENOISE:
            self.hand_over()

    def hand_over(self) -> None:
        """The replica that works on this job is about to stop: let another go on, from the next step or with the files.

        The other legs are over before a replica has to be gone, and so is the end of a denoise.
        """
        ending = self.leg is Leg.DENOISE and self._left_denoiser
        if self._response is not None and not self._handing_over and not ending:
            self._handing_over = True
            self._response.cancel()

    def _committed(self, checkpoint: dict[str, Any]) -> Committed:
        self.seconds["denoise"] = checkpoint["seconds"]
        self.facts.update(checkpoint["facts"])
        return Committed(checkpoint["key"])

    async def _latents(self, checkpoint: dict[str, Any] | None) -> ObjectRef[Any] | Committed:
        """Encode and denoise, from a checkpoint if there is one."""
        job, route = self.job, self.route
        text = image = None
        if route.text is not None:
            text = await self._leg(Leg.ENCODE, "text", route.text, job.prompt, self.parameters)
        if job.has_image and route.image is not None:
            image = await self._leg(Leg.ENCODE, "image", route.image, input_key(job), self.parameters)
        while True:
            self._left_denoiser = False
            await self.lease.advance(Leg.DENOISE)
            self.replica = await self.waiting_room.denoiser(job.model, self.lease.token)
            ticket = Ticket(job.id, job.model, self.lease.token, self.replica, checkpoint)
            self.facts.pop("resumed_at_step", None)
            try:
                latents = await self._leg(Leg.DENOISE, "denoise", route.denoise, self.parameters, text, image, ticket)
            except HandedOver:
                checkpoint = await self.lease.checkpoint()
                if checkpoint is not None and checkpoint["final"]:
                    return self._committed(checkpoint)  # it was done before it could be stopped
                continue
            if checkpoint is not None and "resumed_at_step" in self.facts:
                self.seconds["denoise"] = round(self.seconds["denoise"] + checkpoint["seconds"], 4)
            return latents

    async def _leave_denoiser(self) -> None:
        """Its denoiser is another job's from now on."""
        self._left_denoiser = True
        await self.lease.advance(Leg.DECODE)
        self.waiting_room.freed()

    async def _decode(self, latents: Any) -> ObjectRef[Any]:
        output = Output.model_validate(self.job.output)
        if not self._left_denoiser:
            await self._leave_denoiser()
        try:
            return await self._leg(
                Leg.DECODE, "decode", self.route.decode, self.job.model, latents, self.parameters, output
            )
        except RayTaskError as error:
            if not isinstance(cause_of(error), LatentsLost):
                raise
        await self.lease.forget_checkpoint()
        return await self._decode(await self._latents(None))

    async def _leg(self, leg: Leg, name: str, handle: DeploymentHandle[Any], *inputs: Any) -> Any:
        """Run one leg; returns the reference of its value, which this process never reads. None if it has no value.

        Cancelled, it ends when the leg has: what the leg commits on its way out is still in this lease's name.
        """
        response = handle.options(method_name="run", stream=True).remote(*inputs)
        references = None
        self.leg, self._started = leg, False
        self._response = response if leg is Leg.DENOISE else None
        try:
            references = await response._to_object_ref_gen()
            async for reference in references:
                match await reference:
                    case Started(replica):
                        self.replica, self._started = replica, True
                        self._response = response if leg in HANDED_OVER else None
                        await self.lease.report(leg, replica)
                    case Progress(step, num_steps):
                        assert self.replica is not None
                        at = step if leg is Leg.DENOISE else None
                        await self.lease.report(leg, self.replica, step / num_steps, at)
                    case Ending():
                        await self._leave_denoiser()
                    case Finished() as finished:
                        # Not `anext`: it would fetch and read the value here to know that it is there.
                        value = await asyncio.to_thread(next, references, None)
                        if value is None and leg is not Leg.PUBLISH:
                            raise AssertionError(f"{name} has finished without a value")
                        self._finished(name, finished)
                        async for _ in references:
                            raise AssertionError("a leg's value is the last item of its stream")
                        return value
                    case other:
                        raise AssertionError(f"{name} sent {type(other).__name__} before it had finished")
        except BaseException as error:
            response.cancel()
            if references is not None:
                await _drain(references)
            if leg is Leg.DENOISE and isinstance(error, ActorDiedError):
                self.waiting_room.lost(self.replica)
            taken_back = self._handing_over and _was_taken_back(error)
            if taken_back or self._is_forgiven(error):
                emit("job.handed_over", job_id=self.job.id, model=self.job.model, leg=leg, replica=self.replica)
                raise HandedOver from error
            raise
        finally:
            self._response, self._handing_over = None, False
        raise AssertionError(f"the stream of {name} ended without a value")

    def _is_forgiven(self, error: BaseException) -> bool:
        """Whether a denoise ended for no fault of the job's, so that the job is held; once for each reason.

        Its denoiser died before it came to this job. Or it stopped by itself, since it found the job's lease run out:
        after an outage of the store it may have looked before the conductor could renew; twice, its clock is wrong.
        """
        reason = None
        if isinstance(error, ActorDiedError) and not self._started:
            reason = ActorDiedError
        elif isinstance(cause_of(error), Stopped):
            reason = Stopped
        if self.leg is not Leg.DENOISE or reason is None or reason in self._forgiven:
            return False
        self._forgiven.add(reason)
        return True

    def _finished(self, name: str, finished: Finished) -> None:
        labels = {"model": self.job.model, "leg": name}
        self.seconds[name] = round(finished.seconds, 4)
        self.facts.update(finished.facts)
        metrics.leg_seconds().observe(finished.seconds, labels)
        if finished.nbytes:
            metrics.handover_bytes().observe(finished.nbytes, labels)
        emit(
            "leg.finished",
            job_id=self.job.id,
            model=self.job.model,
            leg=name,
            seconds=self.seconds[name],
            nbytes=finished.nbytes,
        )


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in a leg, as itself; Ray wraps it."""
    cause: BaseException = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
    return cause


def _was_taken_back(error: BaseException) -> bool:
    """Whether a call ended as one does that was canceled: here, before it had a replica, or there."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()  # it is not this job that was canceled
    return isinstance(error, RayTaskError | RayActorError | TaskCancelledError)


async def _drain(references: Any) -> None:
    """Wait for the end of a cancelled stream, after which the leg's thread has stopped; cancelled again, go.

    What is still in it is passed over unread: a leg that had just finished has put its value there.
    """

    def pass_over() -> None:
        for _ in references:
            pass

    await asyncio.gather(asyncio.get_running_loop().run_in_executor(_DRAINS, pass_over), return_exceptions=True)
