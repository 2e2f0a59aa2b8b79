"""One job through the legs, holding references and small facts, never a tensor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.events import emit
from deployments.leg import Finished, Progress
from jobs.lifecycle import Leg
from jobs.record import Job
from pipelines.requests import read_parameters
from storage.store import input_key

OnProgress = Callable[[Leg, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """The deployments that one model's jobs run through; None where its family has no such leg."""

    text: DeploymentHandle[Any] | None
    image: DeploymentHandle[Any] | None
    denoiser: DeploymentHandle[Any]
    decoder: DeploymentHandle[Any]
    publisher: DeploymentHandle[Any]


class Relay:
    """Runs one job. `seconds` and `facts` fill up as legs finish."""

    def __init__(self, job: Job, route: Route, on_progress: OnProgress) -> None:
        self.job = job
        self.route = route
        self.on_progress = on_progress
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, Any] = dict(job.facts)

    async def run(self) -> None:
        """Encode, denoise, decode, publish. Each reference is dropped as soon as the next leg has its value."""
        job, route = self.job, self.route
        parameters = read_parameters(job.parameters)
        await self.on_progress(Leg.ENCODE, 0)
        text = image = None
        if route.text is not None:
            text = await self._leg(Leg.ENCODE, "text", route.text, job.prompt, parameters)
        if job.has_image and route.image is not None:
            image = await self._leg(Leg.ENCODE, "image", route.image, input_key(job.id), parameters)
        await self.on_progress(Leg.DENOISE, 0)
        latents = await self._leg(Leg.DENOISE, "denoise", route.denoiser, parameters, text, image)
        del text, image
        await self.on_progress(Leg.DECODE, 0)
        mp4 = await self._leg(Leg.DECODE, "decode", route.decoder, latents, parameters)
        del latents
        await self.on_progress(Leg.PUBLISH, 0)
        started = time.perf_counter()
        await _to_its_end(route.publisher.publish.remote(job.id, mp4))
        self._finished("publish", Finished(time.perf_counter() - started, 0, {}))

    async def _leg(self, leg: Leg, name: str, handle: DeploymentHandle[Any], *inputs: Any) -> ObjectRef[Any]:
        """Run one leg; returns the reference of its value, which this process never reads."""
        response = handle.options(method_name="run", stream=True).remote(*inputs)
        try:
            references = await response._to_object_ref_gen()
            async for reference in references:
                event = await reference
                if isinstance(event, Finished):
                    value = await anext(references)
                    self._finished(name, event)
                    async for _ in references:
                        raise AssertionError("a leg's value is the last item of its stream")
                    return value
                assert isinstance(event, Progress)
                await self.on_progress(leg, event.step / event.num_steps)
        except BaseException:
            response.cancel()
            raise
        raise AssertionError(f"the stream of {name} ended without a value")

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


async def _to_its_end(call: Awaitable[Any]) -> Any:
    """Await a call that cannot be taken back. Cancelled, wait for its end, so that what follows comes after it."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
