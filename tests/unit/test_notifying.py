"""How often the conductors are notified of new jobs."""

from __future__ import annotations

import asyncio
import itertools

from deployments.http.notifying import Notifying
from tests.unit.api_world import until


def test_the_first_job_is_told_at_once_and_those_that_follow_together() -> None:
    told: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        notifying = Notifying(lambda: told.append(loop.time()), every_s=0.2)
        notifying.of_job()
        assert len(told) == 1
        for _ in range(100):
            notifying.of_job()
        assert len(told) == 1
        await until(lambda: len(told) == 2)
        notifying.of_job()
        await until(lambda: len(told) == 3)

    asyncio.run(run())
    assert min(later - earlier for earlier, later in itertools.pairwise(told)) >= 0.2


def test_a_conductor_that_cannot_be_told_is_told_of_the_next_job() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise RuntimeError("no replica")

    async def run() -> None:
        notifying = Notifying(fail, every_s=0.0)
        notifying.of_job()
        notifying.of_job()
        await until(lambda: len(tries) == 2)

    asyncio.run(run())
