"""Who picks the next job: one statement picks a job of a model and leases it, so no two conductors claim the same job.

The first of four candidates that exists is claimed. Shortened, the statement is::

    UPDATE jobs SET status = 'in_progress', attempts = attempts + 1, lease_token = :token, ...
    WHERE id = coalesce(
        -- abandoned: the job whose lease expired first, because its conductor died or lost the database
        (SELECT id FROM jobs WHERE model = :of AND lease_token IS NOT NULL AND lease_expires_at < now
            AND lease_expires_at < :expired_by AND attempts < :max_attempts ORDER BY lease_expires_at LIMIT 1),
        -- denoised: the first that was requeued after its denoise; it needs no denoiser, so there is room for it
        (SELECT id FROM due WHERE NOT fresh AND checkpoint ->> 'version' = '1' AND checkpoint ->> 'final' = 'true'
            LIMIT 1),
        -- begun: the first that was requeued, if there is room for it
        (SELECT id FROM (SELECT id, queue_rank FROM due WHERE NOT fresh LIMIT 1) WHERE ahead(queue_rank) < :capacity),
        -- new: the first that has not had its turn, if there is room for it
        (SELECT id FROM (SELECT id, queue_rank FROM due WHERE fresh LIMIT 1) WHERE ahead(queue_rank) < :capacity))
    RETURNING *

`due` are the jobs that may be tried now, in order of turn::

    SELECT * FROM jobs WHERE model = :of AND status = 'queued' AND not_before <= now ORDER BY queue_rank, id

`ahead(turn)` is the number of jobs that have a denoiser or will want one before a job with this turn::

    SELECT count(*) FROM jobs WHERE model = :of AND status = 'in_progress' AND lease_expires_at >= now
        AND stage IN ('text_encode', 'image_encode', 'denoise')
        AND (stage = 'denoise' AND replica IS NOT NULL OR queue_rank <= turn)

Each candidate is looked up only if the ones above it do not exist, in an index that leaves out finished jobs, so the
size of the history costs nothing. `now` is the database's clock, the only one that all conductors share. PostgreSQL
skips rows that another claim has locked; SQLite has one writer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Float, Integer, Select, String, bindparam, case, func, or_, select
from sqlalchemy.sql.dml import ReturningUpdate

from jobs.allocation import HAS_DENOISER
from jobs.changes import changing
from jobs.clock import NOW
from jobs.lifecycle import AHEAD_OF_DENOISE, Status
from jobs.schema import jobs
from jobs.stored import FORMAT

_OF_MODEL = jobs.c.model == bindparam("of", type_=String)


@cache
def claim_statement() -> ReturningUpdate[Any]:
    """The statement that claims a job of a model by lease, for `jobs.changes.carry_out`.

    Its parameters: `of` (the model), `owner`, `token`, `lease_s`, `expired_by` (a lease that expired before then is
    abandoned), `max_attempts`, `capacity` and `begins_with` (the first stage). It is cached, because building it takes
    longer than running it.
    """
    candidates = (_abandoned_job(), _denoised_job(), _begun_job(), _new_job())
    return changing(
        jobs.c.id == func.coalesce(*(candidate.scalar_subquery() for candidate in candidates)),
        status=Status.IN_PROGRESS,
        stage=bindparam("begins_with", type_=String),
        step=None,
        replica=None,
        progress=case((jobs.c.progress < 1, 1), else_=jobs.c.progress),
        attempts=jobs.c.attempts + 1,
        started_at=func.coalesce(jobs.c.started_at, NOW),
        lease_owner=bindparam("owner"),
        lease_token=bindparam("token"),
        lease_expires_at=NOW + bindparam("lease_s", type_=Float),
        from_states=(Status.QUEUED, Status.IN_PROGRESS),
    )


def abandoned(expired_by: float | BindParameter[float]) -> tuple[ColumnElement[bool], ...]:
    """The condition that a job's lease has expired without renewal, before `expired_by` by the database's clock."""
    expires_at = jobs.c.lease_expires_at
    return jobs.c.lease_token.is_not(None), expires_at < NOW, expires_at < expired_by


def _abandoned_job() -> Select[Any]:
    """The job whose lease expired first, if it has attempts left; it is claimed whatever the capacity."""
    # An expression instead of the column: else SQLite would read a model's whole history instead of the few leases.
    of_model = jobs.c.model.concat("") == bindparam("of", type_=String)
    has_attempts = jobs.c.attempts < bindparam("max_attempts", type_=Integer)
    expired = abandoned(bindparam("expired_by", type_=Float))
    return _locked(select(jobs.c.id).where(of_model, *expired, has_attempts).order_by(jobs.c.lease_expires_at))


def _denoised_job() -> Select[Any]:
    """The first requeued job whose denoise is finished: it needs no denoiser and does not wait for room."""
    known = jobs.c.checkpoint["version"].as_integer() == FORMAT
    return _first_due(~jobs.c.fresh, known, jobs.c.checkpoint["final"].as_boolean())


def _begun_job() -> Select[Any]:
    """The first requeued job. When there is no room for it, it does not block a new job with an earlier turn."""
    return _if_there_is_room(_first_due(~jobs.c.fresh))


def _new_job() -> Select[Any]:
    """The first job that has not had its turn."""
    return _if_there_is_room(_first_due(jobs.c.fresh))


def _first_due(*conditions: ColumnElement[bool]) -> Select[Any]:
    """The first queued job of the model, in order of turn, that matches the conditions and may be tried now."""
    due = (_OF_MODEL, jobs.c.status == Status.QUEUED, jobs.c.not_before <= NOW)
    return _locked(select(jobs.c.id).where(*due, *conditions).order_by(jobs.c.queue_rank, jobs.c.id))


def _locked(query: Select[Any]) -> Select[Any]:
    """The first row of a query, locked; rows that another claim has locked are skipped."""
    return query.limit(1).with_for_update(skip_locked=True)


def _if_there_is_room(candidate: Select[Any]) -> Select[Any]:
    """The candidate, unless `capacity` jobs of the model have a denoiser or will want one before it."""
    first = candidate.add_columns(jobs.c.queue_rank).subquery()
    live = (_OF_MODEL, jobs.c.status == Status.IN_PROGRESS, jobs.c.lease_expires_at >= NOW)
    goes_before = or_(HAS_DENOISER, jobs.c.queue_rank <= first.c.queue_rank)
    ahead = select(func.count()).where(*live, jobs.c.stage.in_(AHEAD_OF_DENOISE), goes_before).correlate(first)
    return select(first.c.id).where(ahead.scalar_subquery() < bindparam("capacity", type_=Integer))
