"""Which job a conductor claims next, as one statement, so that no two conductors claim the same job."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Float,
    Integer,
    Select,
    String,
    UnaryExpression,
    bindparam,
    case,
    func,
    or_,
    select,
)
from sqlalchemy.sql.dml import ReturningUpdate

from jobs.allocation import HAS_DENOISER
from jobs.changes import changing
from jobs.lifecycle import AHEAD_OF_DENOISE, Status
from jobs.schema import jobs


@cache
def claim_statement() -> ReturningUpdate[Any]:
    """The statement that claims a job of a model by lease, for `jobs.changes.carry_out`.

    Its parameters: `of` (the model), `owner`, `token`, `now`, `lease_s`, `expired_by` (a lease that expired before then
    is abandoned), `max_attempts`, `capacity` and `begins_with` (the first stage). It is cached, because building it
    takes longer than running it.
    """
    now, model = bindparam("now", type_=Float), bindparam("of", type_=String)
    of = jobs.c.model == model
    due = (of, jobs.c.status == Status.QUEUED, jobs.c.not_before <= now)
    # An expression instead of the column: else SQLite would read a model's whole history instead of the few leases.
    held_of = jobs.c.model.concat("") == model
    may_try = jobs.c.attempts < bindparam("max_attempts", type_=Integer)
    left = _first([jobs.c.lease_expires_at], held_of, *abandoned(bindparam("expired_by", type_=Float)), may_try)
    turn: list[ColumnElement[Any] | UnaryExpression[Any]] = [jobs.c.queue_rank, jobs.c.id]
    denoised = _first(turn, *due, ~jobs.c.fresh, jobs.c.checkpoint["final"].as_boolean())
    live = (jobs.c.status == Status.IN_PROGRESS, jobs.c.lease_expires_at >= now)
    ahead = (of, *live, jobs.c.stage.in_(AHEAD_OF_DENOISE))

    def if_there_is_room(first: Select[Any]) -> Select[Any]:
        head = first.add_columns(jobs.c.queue_rank).subquery()
        before = (
            select(func.count())
            .where(*ahead, or_(HAS_DENOISER, head.c.queue_rank >= jobs.c.queue_rank))
            .correlate(head)
        )
        return select(head.c.id).where(before.scalar_subquery() < bindparam("capacity", type_=Integer))

    # A requeued job goes first, but when there is no room for it, it does not block new jobs with an earlier turn.
    begun = if_there_is_room(_first(turn, *due, ~jobs.c.fresh))
    new = if_there_is_room(_first(turn, *due, jobs.c.fresh))
    return changing(
        jobs.c.id == func.coalesce(*(each.scalar_subquery() for each in (left, denoised, begun, new))),
        status=Status.IN_PROGRESS,
        stage=bindparam("begins_with", type_=String),
        step=None,
        replica=None,
        progress=case((jobs.c.progress < 1, 1), else_=jobs.c.progress),
        attempts=jobs.c.attempts + 1,
        started_at=func.coalesce(jobs.c.started_at, now),
        lease_owner=bindparam("owner"),
        lease_token=bindparam("token"),
        lease_expires_at=now + bindparam("lease_s", type_=Float),
        from_states=(Status.QUEUED, Status.IN_PROGRESS),
    )


def _first(order: list[ColumnElement[Any] | UnaryExpression[Any]], *conditions: ColumnElement[bool]) -> Select[Any]:
    """The id of the first matching job. PostgreSQL skips rows that another claim has locked; SQLite has one writer.

    Each order matches an index that skips finished jobs, so the size of the history costs nothing.
    """
    query = select(jobs.c.id).where(*conditions).order_by(*order).limit(1)
    return query.with_for_update(skip_locked=True)


def abandoned(now: float | BindParameter[float]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The condition that a job's lease has expired without renewal."""
    return jobs.c.lease_token.is_not(None), jobs.c.lease_expires_at < now
