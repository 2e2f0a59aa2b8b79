"""A job and everything its run meets: doubles for the stages, the lease and the denoiser pool of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError

from deployments.orchestration.job_run import JobRun, plan_of
from deployments.orchestration.lease import LeaseLost
from deployments.orchestration.stage_call import Reference, Stream
from deployments.stages.messages import (
    DenoiseRequest,
    Ending,
    Event,
    Finished,
    Progress,
    Started,
    Stopped,
)
from jobs.record import Job
from jobs.stored import Checkpoint, Checkpoints, Fingerprint, ResultMetadata
from pipelines.catalogue import get_card
from pipelines.graph import Graph
from pipelines.stages import Stage
from tests.unit.conftest import new_job

CARD = get_card("ltx-tiny")
PARAMETERS = CARD.default_parameters()
FINISHED = Finished(1.0, 10, ResultMetadata())
PATIENCE_S = 60

Script = list[Event | BaseException | Callable[[], None]]
"""What a stage answers: events in order, an error that ends the call, something to do. A call that has come to the end
of its script without `Finished` waits until it is canceled."""


class Enough(Exception):
    """The test has seen what it wanted."""


def task_error(cause: Exception) -> RayTaskError:
    """What the caller of a replica gets, an error of two classes."""
    wrapped: RayTaskError = RayTaskError("run", "", cause).as_instanceof_cause()
    return wrapped


def died() -> ActorDiedError:
    return ActorDiedError()


@dataclass
class Call(Stream):
    """One call of a stage, by its script."""

    script: Script
    inputs: tuple[object, ...]
    named: dict[str, object]
    log: list[str]
    name: str
    canceled: asyncio.Event = field(default_factory=asyncio.Event)
    after_cancel: BaseException | None = None
    cancels: int = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        for item in self.script:
            await asyncio.sleep(0)
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Started | Progress | Ending | Finished):
                yield item
            else:
                item()
        await self.canceled.wait()
        raise self.after_cancel or task_error(Stopped())

    async def value(self) -> Reference | None:
        return None if self.name in ("publish", "nothing") else Reference(f"<{self.name}>")

    def cancel(self) -> None:
        self.canceled.set()
        self.cancels += 1

    async def drain(self) -> None:
        self.log.append(f"{self.name} drained")

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        self.after_cancel = error
        self.canceled.set()


@dataclass
class Stages:
    """All stages of a model. Each call takes the next script of its stage; without one it just finishes."""

    scripts: dict[Stage, list[Script]] = field(default_factory=dict)
    calls: list[tuple[Stage, Call]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    without_value: Stage | None = None

    def handles(self) -> Mapping[Stage, Any]:
        return {stage: _Handle(self, stage) for stage in Stage}

    def of(self, stage: Stage) -> list[Call]:
        return [call for made, call in self.calls if made is stage]

    def requests(self) -> list[DenoiseRequest]:
        return [each for call in self.of(Stage.DENOISE) for each in call.inputs if isinstance(each, DenoiseRequest)]


@dataclass
class _Handle:
    stages: Stages
    stage: Stage

    def call(self, *inputs: object, **named: object) -> Stream:
        scripts = self.stages.scripts.get(self.stage, [])
        plain: Script = [Started(f"{self.stage}-1"), FINISHED]
        script = scripts.pop(0) if scripts else plain
        name = next((each.node for each in inputs if isinstance(each, DenoiseRequest)), self.stage.value)
        name = "nothing" if self.stage is self.stages.without_value else name
        call = Call(script, inputs, named, self.stages.log, name)
        self.stages.calls.append((self.stage, call))
        self.stages.log.append(call.name)
        self.stages.called.set()
        return call


@dataclass
class Lease:
    """A lease that is valid until `lost`."""

    log: list[str]
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    lost: bool = False
    reports: list[tuple[Stage, int, int | None]] = field(default_factory=list)
    advances: list[tuple[Stage, int]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    token: str = "t1"

    async def estimate(self) -> Mapping[Stage, float]:
        return dict.fromkeys(Stage, 10.0)

    async def advance(self, stage: Stage, percent: int) -> None:
        if self.lost:
            raise LeaseLost
        self.begin(stage, percent)

    def begin(self, stage: Stage, percent: int) -> None:
        self.advances.append((stage, percent))
        self.log.append(f"-> {stage}")

    def report(self, stage: Stage, percent: int, replica: str, step: int | None = None) -> None:  # noqa: ARG002
        self.reports.append((stage, percent, step))

    async def checkpoint(self, node: str) -> Checkpoint | None:
        return self.checkpoints.get(node)

    async def forget_checkpoint(self, node: str) -> None:
        self.forgotten.append(node)


@dataclass
class Pool:
    """Gives the denoisers d1, d2, ... in turn."""

    log: list[str]
    given: int = 0
    running: set[str] = field(default_factory=lambda: {"d1", "d2", "d3"})
    lost_ones: list[str | None] = field(default_factory=list)

    async def denoiser(self, model: str, token: str) -> str:  # noqa: ARG002
        self.given += 1
        return f"d{self.given}"

    def denoisers(self, model: str) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(sorted(self.running))

    def freed(self) -> None:
        self.log.append("freed")

    def lost(self, replica: str | None) -> None:
        self.lost_ones.append(replica)


@dataclass
class World:
    """A job and everything it meets."""

    scripts: dict[Stage, list[Script]] = field(default_factory=dict)
    job: Job = field(default_factory=lambda: a_job())
    graph: Graph | None = None

    def __post_init__(self) -> None:
        self.stages = Stages(self.scripts)
        self.lease = Lease(self.stages.log)
        self.pool = Pool(self.stages.log)
        self.plan = self.graph or plan_of(CARD, self.job)
        self.run = JobRun(self.job, lambda _: self.plan, self.stages.handles(), self.lease, self.pool)

    def finish(self, then: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run the job to its end, beside something else."""

        async def both() -> None:
            running = asyncio.create_task(self.run.run())
            if then is not None:
                await then()
            await running

        asyncio.run(asyncio.wait_for(both(), PATIENCE_S))

    async def until_called(self, stage: Stage, times: int = 1) -> Call:
        """Wait until a stage has been called, and its call has come to the end of its script."""
        while len(self.stages.of(stage)) < times:
            self.stages.called.clear()
            await self.stages.called.wait()
        call = self.stages.of(stage)[-1]
        for _ in range(4 * len(call.script) + 8):
            await asyncio.sleep(0)
        return call


def a_job(**values: Any) -> Job:
    claimed = {"stage": Stage.TEXT_ENCODE, "lease_token": "t1", "model": CARD.id}
    return new_job(**{**claimed, "parameters": PARAMETERS.model_dump(mode="json"), **values})


def commit(world: World, node: str = "denoise", *, step: int = 3, final: bool = False, **parts: str) -> Checkpoint:
    """What a denoiser would have committed."""
    nodes = {each.name: each for each in world.plan}
    digest = world.plan.digest(nodes[node], world.job.model, world.job.prompt)
    fingerprint = Fingerprint(**{"input": digest, "revision": "r1", "state": "s1", **parts})
    metadata = ResultMetadata(device="cuda") if final else ResultMetadata()
    return Checkpoint(
        key=f"{node}@{step}", step=step, final=final, seconds=5.0, fingerprint=fingerprint, result_metadata=metadata
    )


def resumed(world: World, **checkpoints: Checkpoint) -> World:
    """The same job, claimed again with what was committed before."""
    job = replace(
        world.job, checkpoint=Checkpoints(nodes={name.replace("_", "."): each for name, each in checkpoints.items()})
    )
    return World(world.scripts, job, world.graph)
