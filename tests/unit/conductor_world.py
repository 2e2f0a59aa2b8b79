"""The conductor with its real job store, without Ray Serve around it: its stages are doubles that do as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployments import conductor, metrics
from deployments.configuration.names import deployment_names
from deployments.configuration.settings import Settings
from deployments.orchestration.replicas import Replicas
from deployments.orchestration.stage_call import Reference, Stream
from deployments.stages.messages import Event, Request, Stopped
from jobs.database import open_database, sqlite_url
from jobs.lifecycle import Status
from jobs.record import Job
from pipelines.stages import Stage
from tests.unit.api_world import until
from tests.unit.conftest import Jobs, Quiet
from tests.unit.job_world import CARD, FINISHED, PARAMETERS, task_error

_DEPLOYMENT: Any = conductor.Conductor
_CONDUCTOR: Any = _DEPLOYMENT.func_or_class


class _Gauge(Quiet):
    def set(self, value: float) -> None: ...


@dataclass
class Call(Stream):
    """One call of a stage, which reports nothing before its end."""

    stage: Stage
    request: Request
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    canceled: bool = False

    def finish(self) -> None:
        """Let a call finish that has to wait."""
        self.goes_on.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        await self.goes_on.wait()
        if self.canceled:
            raise task_error(Stopped())
        yield FINISHED

    async def value(self) -> Reference | None:
        return None if self.stage is Stage.PUBLISH else Reference(f"<{self.stage}>")

    def cancel(self) -> None:
        self.canceled = True
        self.goes_on.set()

    async def drain(self) -> None: ...


@dataclass
class StageDouble:
    """The replicas of a stage. A call finishes at once, unless it `waits`: then once it is told to."""

    stage: Stage
    waits: bool = False
    calls: list[Call] = field(default_factory=list)

    def call(self, request: Request, *_outputs: object, **_named: object) -> Stream:
        call = Call(self.stage, request)
        if not self.waits:
            call.finish()
        self.calls.append(call)
        return call


class PublisherDouble(StageDouble):
    """The publisher, whose handle a conductor also asks to delete files."""

    def __init__(self) -> None:
        super().__init__(Stage.PUBLISH)
        self.discard = self
        self.discarded: list[str] = []

    async def remote(self, prefixes: Collection[str]) -> None:
        self.discarded += prefixes


@dataclass(frozen=True, slots=True)
class Claim:
    """How many jobs the conductor asked the store for, and how many it got."""

    most: int
    claimed: int


@dataclass
class Search:
    """The claims that a conductor makes without a pause between them."""

    claims: list[Claim] = field(default_factory=list)
    ended: bool = False

    @property
    def claimed(self) -> int:
        return sum(each.claimed for each in self.claims)


class Watched(_CONDUCTOR):
    """The conductor, which keeps what it claims. It looks for jobs when it starts and when it is notified."""

    def __init__(self, *given: Any) -> None:
        self.searches: list[Search] = []
        super().__init__(*given)

    async def _claim_all(self) -> None:
        self.searches.append(Search())
        await super()._claim_all()

    def _claim(self, model: str, capacity: int, most: int) -> list[Job]:
        claimed: list[Job] = super()._claim(model, capacity, most)
        self.searches[-1].claims.append(Claim(most, len(claimed)))
        return claimed

    def __del__(self) -> None:
        """Nothing: only Serve awaits what the conductor's own returns."""


@dataclass
class ConductorWorld:
    """One replica of the conductor, and everything it meets."""

    conductor: Any
    stages: dict[Stage, StageDouble]
    publisher: PublisherDouble
    jobs: Jobs

    def accept(self, count: int = 1) -> list[Job]:
        """Store jobs, of which the conductor learns at its next search."""
        parameters = PARAMETERS.model_dump(mode="json")
        return [self.jobs.accept(model=CARD.id, parameters=parameters) for _ in range(count)]

    async def rests(self) -> None:
        """Wait until the conductor waits to be notified."""
        searches = self.conductor.searches
        await until(lambda: bool(searches) and searches[-1].ended)

    async def search(self) -> Search:
        """Have the conductor look for jobs, once."""
        await self.rests()
        searches, before = self.conductor.searches, len(self.conductor.searches)
        await self.conductor.notify()
        await until(lambda: len(searches) > before and searches[before].ended)
        found: Search = searches[before]
        return found

    async def until_completed(self, *jobs: Job) -> None:
        await until(lambda: all(self.jobs.get(job).status is Status.COMPLETED for job in jobs))


@asynccontextmanager
async def run_conductor(folder: Path, denoisers: int = 1, **settings: Any) -> AsyncIterator[ConductorWorld]:
    """A replica that knows its denoisers, with its job store in `folder`; `settings` as in the application's `args`.

    Its leases outlast every test, so that it learns nothing from a renewal.
    """
    given = Settings(**{"models": (CARD.id,), "lease_s": 3600, **settings})
    names = deployment_names(given.cards())[CARD.id]
    running = {names[Stage.DENOISE]: tuple(f"d{number}" for number in range(denoisers))}
    publisher = PublisherDouble()
    stages = {stage: StageDouble(stage) for stage in names}

    async def until_notified(event: asyncio.Event, _at_most_s: float | None) -> None:
        made.searches[-1].ended = True
        await event.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINORAY_DATA", str(folder))
        patch.delenv("KINORAY_DATABASE_URL", raising=False)
        patch.setattr(conductor, "this_replica", lambda: "c1")
        patch.setattr(conductor, "listen", lambda *_: None)
        patch.setattr(conductor, "look", lambda: Replicas(running, frozenset()))
        patch.setattr(conductor, "RayStage", lambda handle: handle)
        patch.setattr(conductor, "until_set", until_notified)
        for name in ("jobs_total", "queue_wait_seconds", "stage_seconds", "stage_output_bytes"):
            patch.setattr(metrics, name, Quiet)
        for name in ("unpublished_jobs", "unpublished_bytes"):
            patch.setattr(metrics, name, _Gauge)
        made = Watched(given, {CARD.id: stages}, publisher)
        try:
            with open_database(sqlite_url(folder / "jobs.sqlite3")) as database:
                world = ConductorWorld(made, {**stages, Stage.PUBLISH: publisher}, publisher, Jobs(database))
                await until(lambda: len(made.denoiser_pool.denoisers(CARD.id)) == denoisers)
                await world.rests()
                yield world
        finally:
            await _CONDUCTOR.__del__(made)
