"""What a conductor asks the job store all the time is compiled once: to compile it takes longer than to run it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.interfaces import CacheStats

from jobs.stored import ResultMetadata
from pipelines.stages import Stage
from tests.unit.conftest import Jobs
from tests.unit.test_stored import checkpoint


def a_life(jobs: Jobs) -> None:
    """Everything that conductors and denoisers ask about a job from its claim to its end."""
    jobs.accept()
    jobs.claim(capacity=0)
    _, token = jobs.take()
    jobs.leases.renew({token}, 60)
    jobs.leases.fail_spent(3, "gone")
    jobs.leases.remaining_s(token)
    jobs.advance(token, Stage.DENOISE, 25)
    jobs.allocation.assign("m", ["d1"], {token})
    jobs.allocation.preempted("m", 1, 5.0)
    jobs.advance(token, Stage.DENOISE, 30, 3, "d1")
    jobs.leases.commit(token, "denoise", checkpoint(3), ["denoise"])
    jobs.leases.checkpoint(token, "denoise")
    jobs.leases.forget_checkpoint(token, "denoise")
    jobs.leases.release(token)
    _, token = jobs.take()
    jobs.leases.retry(token, 1, "once more", 3)


def compiled_from_now_on(jobs: Jobs) -> list[str]:
    """The statements that are compiled from now on, as they come."""
    compiled: list[str] = []

    def note(_c: object, _d: object, statement: str, _p: object, context: Any, _m: bool) -> None:
        if context.compiled is not None and context.cache_hit is not CacheStats.CACHE_HIT:
            compiled.append(statement)

    event.listen(jobs.database.engine, "before_cursor_execute", note)
    return compiled


def test_each_statement_about_a_job_is_compiled_once(jobs: Jobs) -> None:
    a_life(jobs)
    compiled = compiled_from_now_on(jobs)
    a_life(jobs)
    assert not compiled


def test_so_are_the_statements_about_many_jobs(jobs: Jobs) -> None:
    def complete(count: int) -> Collection[str]:
        tokens = []
        for _ in range(count):
            jobs.accept()
            tokens.append(jobs.take()[1])
        jobs.leases.renew(set(tokens), 60)
        return [token for token in tokens if jobs.complete(token, {"denoise": 1.0}, ResultMetadata())]

    complete(2)
    compiled = compiled_from_now_on(jobs)
    assert len(complete(5)) == 5
    assert not compiled
