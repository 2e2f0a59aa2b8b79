"""What a job run writes of its job's position, and what of it reaches the store."""

from __future__ import annotations

import asyncio

from deployments.orchestration.lease import Lease
from deployments.orchestration.write_batcher import WriteBatcher
from jobs.changes import Position
from pipelines.stages import Stage
from tests.unit.conftest import Jobs

LEASE_S = 60.0


def test_a_report_that_replaces_the_beginning_of_the_last_stage_begins_it_too(jobs: Jobs) -> None:
    accepted = jobs.accept()
    job, _ = jobs.take()

    async def run() -> None:
        positions: WriteBatcher[Position] = WriteBatcher(lambda values: jobs.leases.move(values, LEASE_S))
        lease = Lease(jobs.leases, positions, job)
        await lease.advance(Stage.DECODE, 70)
        lease.report(Stage.PUBLISH, 80, "p0")
        assert positions._writing is not None
        await positions._writing
        assert jobs.get(accepted).stage == Stage.DECODE, "a report alone begins no stage"
        lease.begin(Stage.PUBLISH, 90)
        lease.report(Stage.PUBLISH, 91, "p1")
        assert positions._writing is not None
        await positions._writing

    asyncio.run(run())
    stored = jobs.get(accepted)
    assert (stored.stage, stored.replica, stored.progress) == (Stage.PUBLISH, "p1", 91)
