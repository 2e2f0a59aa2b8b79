"""Which job gets a denoiser, and which gives one up: one order for all conductors, because the store keeps it.

A job that is encoded waits for a denoiser under its lease, in its denoise, without a replica. Each conductor serves its
own in order of their turn (`jobs.priority`), and leaves what is free to those of a higher class that others hold. A job
that was given back keeps the turn that it had: what it gave up a denoiser for goes first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update

from jobs.changes import OLD_TURN
from jobs.database import Database, take_turns
from jobs.lifecycle import AHEAD_OF_DENOISE, Leg, Status
from jobs.priority import Priority
from jobs.schema import jobs

HAS_DENOISER: ColumnElement[bool] = and_(jobs.c.leg == Leg.DENOISE, jobs.c.replica.is_not(None))
_TURN = OLD_TURN.label("turn")
_CLASS = {priority.value: place for place, priority in enumerate(Priority)}


class Turns:
    """The denoisers of each model, shared by any number of conductors. Methods block for the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def assign(self, model: str, denoisers: Collection[str], tokens: Collection[str]) -> dict[str, str]:
        """Give free denoisers to the caller's jobs whose turn it is; returns the replica of each, by lease token.

        Args:
            denoisers: ids of the model's replicas that take calls.
            tokens: leases of the caller's jobs that wait for one.
        """
        query = (
            select(jobs.c.lease_token, jobs.c.replica, jobs.c.priority, _TURN)
            .where(jobs.c.model == model, jobs.c.status == Status.IN_PROGRESS, jobs.c.leg == Leg.DENOISE)
            .where(or_(jobs.c.replica.is_not(None), jobs.c.lease_expires_at >= time.time()))
            .order_by(OLD_TURN, jobs.c.id)
        )
        with self._database.write() as connection:
            take_turns(connection, f"denoisers of {model}")
            rows = connection.execute(query).all()
            free = sorted(set(denoisers) - {row.replica for row in rows})
            waiting = [row for row in rows if row.replica is None]
            mine: dict[str, str] = {}
            for row in waiting:
                if row.lease_token in tokens and len(free) - len(mine) > _left_to_others(row, waiting, tokens):
                    mine[row.lease_token] = free[len(mine)]
            for token, replica in mine.items():
                connection.execute(update(jobs).where(jobs.c.lease_token == token).values(replica=replica))
        return mine

    def yielding(self, model: str, denoisers: int, after_s: float) -> set[str]:
        """Leases of the jobs that are to give their denoiser to one of a higher class which has waited `after_s`.

        One job for each that waits and will not get a free denoiser: of the lowest class, the one with most left to do.
        Never one whose turn comes first all the same, since its class has aged, and none that is done in `after_s`.
        Every conductor gets the same answer until the denoisers have changed hands.
        """
        now = time.time()
        of = jobs.c.model == model
        left_s = (jobs.c.cost_s * (100 - jobs.c.progress) / 100).label("left_s")
        at_work = select(jobs.c.lease_token, jobs.c.priority, _TURN, left_s).where(
            of, jobs.c.status == Status.IN_PROGRESS, HAS_DENOISER
        )
        waiting = (
            select(jobs.c.priority, _TURN)
            .where(of, jobs.c.created_at <= now - after_s, jobs.c.priority != Priority.LOW)
            .where(
                or_(
                    and_(jobs.c.status == Status.QUEUED, jobs.c.not_before <= now),
                    and_(
                        jobs.c.status == Status.IN_PROGRESS, jobs.c.leg.in_(AHEAD_OF_DENOISE), ~HAS_DENOISER,
                        jobs.c.lease_expires_at >= now,
                    ),
                )
            )
            .order_by(OLD_TURN, jobs.c.id)
        )  # fmt: skip
        with self._database.read() as connection:
            working = connection.execute(at_work).all()
            if denoisers < 1 or not working:
                return set()
            # No more than all could change hands.
            asking = connection.execute(waiting.limit(denoisers)).all()
        return _victims([row for row in working if row.left_s >= after_s], asking[max(denoisers - len(working), 0) :])


def _left_to_others(row: Any, waiting: Sequence[Any], tokens: Collection[str]) -> int:
    """How many free denoisers a job leaves to those of other conductors: one for each of a higher class before it.

    They come for them in a moment. Within a class whoever asks first is served: it is the one whose job has just ended.
    """
    return sum(
        other.lease_token not in tokens and other.turn < row.turn and _CLASS[other.priority] < _CLASS[row.priority]
        for other in waiting
    )


def _victims(working: Sequence[Any], asking: Sequence[Any]) -> set[str]:
    last_first = sorted(working, key=lambda row: (-_CLASS[row.priority], -row.left_s, row.lease_token))
    victims: set[str] = set()
    for each in asking:
        for row in last_first:
            lower = _CLASS[row.priority] > _CLASS[each.priority]
            if lower and row.turn > each.turn and row.lease_token not in victims:
                victims.add(row.lease_token)
                break
    return victims
