"""Which job is claimed next, and that it is found without a look at the finished ones."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import event, text

from jobs.priority import Priority
from tests.unit.conftest import Jobs
from tests.unit.test_stored import checkpoint


def test_an_abandoned_job_is_claimed_first_then_a_denoised_one_then_a_begun_one_then_a_new_one(jobs: Jobs) -> None:
    abandoned, begun, denoised = (jobs.accept(priority=Priority.LOW) for _ in range(3))
    jobs.take(lease_s=-1)
    tokens = [jobs.take(take_over=False)[1] for _ in range(2)]
    assert jobs.leases.commit(tokens[1], "denoise", checkpoint(final=True), ["denoise"])
    assert all(jobs.leases.release(token) for token in tokens)
    new = jobs.accept(priority=Priority.HIGH)
    order = [jobs.take()[0].id for _ in range(4)]
    assert order == [abandoned.id, denoised.id, begun.id, new.id]


def test_finished_latents_in_the_format_of_another_version_are_none(jobs: Jobs) -> None:
    jobs.accept()
    _, token = jobs.take()
    with jobs.database.write() as connection:
        newer = json.dumps({"version": 2, "final": True, "nodes": {}})
        connection.execute(text("UPDATE jobs SET checkpoint = :newer"), {"newer": newer})
    assert jobs.leases.release(token)
    assert jobs.claim(capacity=0) is None, "it needs a denoiser"


def test_of_two_jobs_with_the_same_turn_the_second_counts_the_first(jobs: Jobs) -> None:
    first, second = (jobs.accept(api_key=key) for key in "ab")
    assert first.queue_rank == second.queue_rank
    assert jobs.take(capacity=1)[0].id == first.id
    assert jobs.claim(capacity=1) is None
    assert jobs.take(capacity=2)[0].id == second.id


def test_a_claim_reads_no_finished_job(jobs: Jobs) -> None:
    plan = plan_of_claim(jobs)
    if jobs.database.is_sqlite:
        of_queue, reads_all, sorts = (
            "USING INDEX jobs_by_turn (model=? AND status=? AND fresh=?)",
            "SCAN jobs",
            "B-TREE",
        )
    else:
        of_queue, reads_all, sorts = "::text = 'queued'::text) AND (fresh = ", "Seq Scan", "Sort"
    assert plan.count(of_queue) == 3, plan
    assert plan.count("jobs_by_lease_expiry") == 1, plan
    assert reads_all not in plan, plan
    assert sorts not in plan, plan


def plan_of_claim(jobs: Jobs) -> str:
    """How the database finds the job to claim."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(jobs.database.engine, "before_cursor_execute", note)
    assert jobs.claim() is None
    event.remove(jobs.database.engine, "before_cursor_execute", note)
    [(claim, parameters)] = [each for each in statements if each[0].startswith("UPDATE")]
    with jobs.database.write() as connection:
        if jobs.database.is_sqlite:
            return "\n".join(
                row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {claim}", parameters)
            )
        for way in ("seqscan", "bitmapscan", "sort"):  # it prefers them for a table that is empty
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN {claim}", parameters).scalars())
