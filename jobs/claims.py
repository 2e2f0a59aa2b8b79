"""Which job a conductor claims next, as one statement, so that no two claim the same."""

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
from jobs.changes import OLD_TURN, changing
from jobs.lifecycle import AHEAD_OF_DENOISE, Status
from jobs.schema import jobs


@cache
def claim_statement() -> ReturningUpdate[Any]:
    """Take a job of a model by lease, for `jobs.changes.carry_out`.

    Its parameters: `of` (the model), `owner`, `token`, `now`, `lease_s`, `expired_by` (a lease that ran out before then
    is abandoned), `max_attempts`, `capacity` and `begins_with` (the
    first stage). Made once, as making it takes longer than carrying it out.
    """
    now, model = bindparam("now", type_=Float), bindparam("of", type_=String)
    of = jobs.c.model == model
    due = (of, jobs.c.status == Status.QUEUED, jobs.c.not_before <= now)
    # An expression and not the column: SQLite would else read a model's whole history instead of the few leases.
    held_of = jobs.c.model.concat("") == model
    may_try = jobs.c.attempts < bindparam("max_attempts", type_=Integer)
    left = _first([jobs.c.lease_expires_at], held_of, *abandoned(bindparam("expired_by", type_=Float)), may_try)
    turn: list[ColumnElement[Any] | UnaryExpression[Any]] = [jobs.c.queue_rank, jobs.c.id]
    denoised = _first(turn, *due, jobs.c.queue_rank < 0, jobs.c.checkpoint["final"].as_boolean())
    live = (jobs.c.status == Status.IN_PROGRESS, jobs.c.lease_expires_at >= now)
    ahead = (of, *live, jobs.c.stage.in_(AHEAD_OF_DENOISE))

    def if_there_is_room(first: Select[Any]) -> Select[Any]:
        head = first.add_columns(OLD_TURN.label("turn")).subquery()
        before = select(func.count()).where(*ahead, or_(HAS_DENOISER, head.c.turn >= OLD_TURN)).correlate(head)
        return select(head.c.id).where(before.scalar_subquery() < bindparam("capacity", type_=Integer))

    # One that was given back goes first, but where it has no room it holds up no other with an earlier turn.
    begun = if_there_is_room(_first(turn, *due, jobs.c.queue_rank < 0))
    new = if_there_is_room(_first(turn, *due, jobs.c.queue_rank >= 0))
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
    """The id of the first such job. PostgreSQL passes over what another claim has in hand; SQLite has one writer.

    Each order is that of an index that leads there past no finished job: a history costs nothing.
    """
    query = select(jobs.c.id).where(*conditions).order_by(*order).limit(1)
    return query.with_for_update(skip_locked=True)


def abandoned(now: float | BindParameter[float]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Held under a lease that nobody renews any more."""
    return jobs.c.lease_token.is_not(None), jobs.c.lease_expires_at < now
