"""A canceled job's stage stops soon, also if it reports nothing: the real store and a stage that only works."""

from __future__ import annotations

import asyncio
import time

import pytest

from deployments.conductor import CHECK_EVERY_S
from deployments.orchestration.lease import Lease
from deployments.orchestration.queue_wait import first_wait_s
from deployments.orchestration.renewal import Renewal
from deployments.orchestration.takeover_guard import TakeoverGuard
from deployments.orchestration.write_batcher import WriteBatcher
from deployments.stages.messages import Started
from jobs.changes import Position
from jobs.lifecycle import Status
from pipelines.stages import Stage
from tests.unit.conftest import Jobs
from tests.unit.job_world import CARD, PARAMETERS, PATIENCE_S, World

LEASE_S = 60.0


@pytest.mark.usefixtures("no_metrics")
@pytest.mark.parametrize("how", ["canceled", "deleted"])
def test_a_stage_that_reports_nothing_learns_of_it_without_a_renewal(jobs: Jobs, how: str) -> None:
    accepted = jobs.accept(model=CARD.id, parameters=PARAMETERS.model_dump(mode="json"))
    job, token = jobs.take(model=CARD.id)

    async def run() -> None:
        world = World({Stage.TEXT_ENCODE: [[Started("t1")]]}, job)  # and then it is silent
        positions: WriteBatcher[Position] = WriteBatcher(lambda values: jobs.leases.move(values, LEASE_S))
        world.run._lease = Lease(jobs.leases, positions, job)
        running = asyncio.create_task(world.run.run())

        def lost(_: str) -> None:
            running.cancel()

        renewal = Renewal(
            jobs.leases,
            TakeoverGuard(LEASE_S),
            lease_s=LEASE_S,
            max_attempts=3,
            held=lambda: [token],
            on_lost=lost,
        )
        call = await world.until_called(Stage.TEXT_ENCODE)
        await renewal.check()
        assert not running.done()
        assert not call.canceled.is_set()
        assert jobs.store.cancel(accepted.id) if how == "canceled" else jobs.store.delete(accepted.id)
        await renewal.check()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.cancelled()
        assert call.canceled.is_set()
        assert world.stages.log[-1] == "text_encode drained"

    asyncio.run(run())
    assert CHECK_EVERY_S < 1, "the check and what follows from it take the rest of a second"


def test_the_wait_in_the_queue_counts_once(jobs: Jobs) -> None:
    jobs.accept(created_at=time.time() - 100)
    first, token = jobs.take()
    waited_s = first_wait_s(first)
    assert waited_s == pytest.approx(100, abs=30)
    assert jobs.leases.release(token, for_s=-1.0)  # as one that has waited for the artifact store
    again, token = jobs.take()
    assert (again.attempts, first_wait_s(again)) == (1, None)
    assert jobs.leases.release(token)
    again, token = jobs.take()
    assert (again.attempts, first_wait_s(again)) == (1, None)
    assert jobs.leases.retry(token, 1, "once more", 3) is Status.QUEUED
