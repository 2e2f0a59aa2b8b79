"""The conductor's own wires: what it claims and when, and what it does with what it learns of its jobs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployments import conductor
from deployments.orchestration.job_run import plan_of
from deployments.orchestration.takeover_guard import TakeoverGuard
from jobs.changes import Position
from jobs.database import open_database, sqlite_url
from jobs.leases import Leases
from jobs.lifecycle import Status
from jobs.record import Job
from jobs.stored import Checkpoint, Fingerprint, ResultMetadata
from pipelines.stages import Stage
from storage.keys import prefixes_of
from tests.unit.api_world import until
from tests.unit.conductor_world import Claim, run_conductor
from tests.unit.conftest import Jobs
from tests.unit.job_world import CARD, PARAMETERS

MANY = 6
"""Jobs of another conductor: more than there is room for with one denoiser."""


@pytest.fixture
def folder(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A KINORAY_DATA with a job store."""
    shutil.copy(migrated_sqlite, tmp_path / "jobs.sqlite3")
    return tmp_path


def claimed_by_another(folder: Path, *, denoised: bool = False) -> None:
    """Many jobs of a conductor that died, or that requeued them `denoised` when it stopped."""
    with open_database(sqlite_url(folder / "jobs.sqlite3")) as database:
        jobs = Jobs(database)
        for _ in range(MANY):
            jobs.accept(model=CARD.id, parameters=PARAMETERS.model_dump(mode="json"))
        claimed = jobs.leases.claim(CARD.id, owner="another", lease_s=60.0, max_attempts=3, capacity=MANY, most=MANY)
        tokens = {job.lease_token: job for job in claimed if job.lease_token is not None}
        assert len(tokens) == MANY
        if not denoised:
            jobs.leases.renew(tokens, lease_s=-1.0)
            return
        for token, job in tokens.items():
            assert jobs.leases.commit(token, "denoise", finished_latents(job), {"denoise"})
            assert jobs.leases.release(token)


def finished_latents(job: Job) -> Checkpoint:
    plan = plan_of(CARD, job)
    (node,) = (each for each in plan if each.name == "denoise")
    fingerprint = Fingerprint(input=plan.digest(node, job.model, job.prompt), revision="r1", state="s1")
    return Checkpoint(
        key="latents", step=8, final=True, seconds=5.0, fingerprint=fingerprint, result_metadata=ResultMetadata()
    )


def test_a_search_asks_for_as_many_jobs_as_there_is_room_for_and_at_least_for_one(folder: Path) -> None:
    async def run() -> None:
        async with run_conductor(folder, denoisers=2) as world:
            world.stages[Stage.TEXT_ENCODE].waits = True
            world.accept(6)
            assert (await world.search()).claims == [Claim(4, 4)], "two are denoised, and two more wait for that"
            assert (await world.search()).claims == [Claim(1, 0)], "one that needs no denoiser would be taken"

    asyncio.run(run())


def test_a_search_asks_for_sixteen_jobs_at_once_and_goes_on_while_there_are_so_many(folder: Path) -> None:
    async def run() -> None:
        async with run_conductor(folder, denoisers=20) as world:
            world.stages[Stage.TEXT_ENCODE].waits = True
            world.accept(18)
            assert (await world.search()).claims == [Claim(16, 16), Claim(16, 2)]

    asyncio.run(run())


def test_all_jobs_of_a_dead_conductor_are_taken_over_without_a_pause(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_by_another(folder)

    async def run() -> None:
        async with run_conductor(folder) as world:
            world.stages[Stage.TEXT_ENCODE].waits = True
            monkeypatch.setattr(TakeoverGuard, "trusted", lambda _: True)
            search = await world.search()
            assert search.claims == [Claim(2, 2), *[Claim(1, 1)] * (MANY - 2), Claim(1, 0)]

    asyncio.run(run())


def test_all_denoised_jobs_of_a_stopped_conductor_are_claimed_without_a_pause(folder: Path) -> None:
    claimed_by_another(folder, denoised=True)

    async def run() -> None:
        async with run_conductor(folder) as world:
            first, *_ = world.conductor.searches
            assert first.claimed == MANY
            await until(lambda: len(world.stages[Stage.DECODE].calls) == MANY)
            assert world.stages[Stage.DENOISE].calls == []

    asyncio.run(run())


def test_while_the_artifact_store_takes_no_video_no_job_is_claimed_and_none_gets_a_denoiser(folder: Path) -> None:
    async def run() -> None:
        async with run_conductor(folder, max_unpublished=1) as world:
            text, denoise, publish = (
                world.stages[stage] for stage in (Stage.TEXT_ENCODE, Stage.DENOISE, Stage.PUBLISH)
            )
            pool = world.conductor.denoiser_pool
            text.waits = publish.waits = True
            rendered, encoded = world.accept(2)
            await world.search()
            await until(lambda: len(text.calls) == 2)
            text.calls[0].finish()
            await until(lambda: len(publish.calls) == 1)
            text.calls[1].finish()
            await until(lambda: bool(pool._waiting[CARD.id]))
            pool.freed()
            await pool.assign()
            assert world.jobs.get(encoded).replica is None
            assert len(denoise.calls) == 1, "only of the video that is not stored"
            (queued,) = world.accept()
            assert (await world.search()).claims == []

            text.waits = publish.waits = False
            publish.calls[0].finish()
            await world.until_completed(rendered, encoded)
            await until(lambda: not world.conductor.held)
            await world.search()
            await world.until_completed(queued)

    asyncio.run(run())


def test_a_canceled_job_is_stopped_within_a_second_though_its_stage_reports_nothing(folder: Path) -> None:
    async def run() -> tuple[list[str], Job]:
        async with run_conductor(folder) as world:
            denoise = world.stages[Stage.DENOISE]
            denoise.waits = True
            (job,) = world.accept()
            await world.search()
            await until(lambda: bool(denoise.calls))
            assert world.jobs.store.cancel(job.id)
            assert not denoise.calls[0].canceled
            await until(lambda: denoise.calls[0].canceled)
            await until(lambda: not world.conductor.held)
            assert world.jobs.get(job).status is Status.FAILED
        return world.publisher.discarded, job

    assert conductor.CHECK_EVERY_S < 1
    discarded, job = asyncio.run(run())
    assert discarded == list(prefixes_of(job)), "nothing that it stored stays"


def test_nothing_is_written_of_a_job_once_it_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invalid: list[set[str]] = []
    move = Leases.move

    def recorded(self: Leases, positions: Mapping[str, Position], lease_s: float) -> set[str]:
        valid = move(self, positions, lease_s)
        invalid.append(positions.keys() - valid)
        return valid

    monkeypatch.setattr(Leases, "move", recorded)
    monkeypatch.setattr(conductor, "GATHER_S", 3600)  # until the next write that something waits for

    async def run() -> None:
        async with run_conductor(folder) as world:
            for _ in range(2):
                (job,) = world.accept()
                await world.search()
                await world.until_completed(job)
                await until(lambda: not world.conductor.held)

    asyncio.run(run())
    assert len(invalid) >= 4, "each has begun to be denoised and decoded"
    assert not any(invalid), "the end of the first job has dropped that it was being published"
