"""The outbox of webhooks: the transaction that ends a job writes one, and it is sent until delivered or given up.

A restart loses no webhook. A receiver may see a webhook twice and recognises the repeat by its id.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import uuid_utils
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, not_, select, update

from jobs.clock import NOW
from jobs.database import Database
from jobs.lifecycle import event_of
from jobs.record import Job
from jobs.schema import webhooks

SENDING_S = 60.0
"""Seconds for which a delivery belongs to the process that took it."""
BACKOFF_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 3 * 3600.0, 6 * 3600.0, 12 * 3600.0)
"""Seconds between tries; a delivery is given up after the last one, about a day after the first."""
KEEP_S = 7 * 24 * 3600.0
_RECEIVER = re.compile(r"[^/]*//[^/?#]*")


@dataclass(frozen=True, slots=True)
class Delivery:
    id: str
    job_id: str
    url: str
    payload: str
    attempts: int  # this one included
    created_at: float


def enqueue(connection: Connection, job: Job) -> None:
    """Add the webhook of a job's end to the outbox, in the format of OpenAI's webhooks."""
    delivery_id = f"evt_{uuid_utils.uuid7().hex}"
    data: dict[str, object] = {"id": job.id, "model": job.model, "status": job.status}
    if job.error_code is not None:
        data["error"] = {"code": job.error_code, "message": job.error_message or ""}
    payload = {
        "id": delivery_id, "object": "event", "created_at": int(time.time()),
        "type": f"video.{event_of(job.status, job.error_code)}", "data": data,
    }  # fmt: skip
    row = {
        "id": delivery_id, "job_id": job.id, "url": job.webhook_url, "payload": json.dumps(payload, sort_keys=True),
        "created_at": NOW, "attempts": 0, "next_at": NOW,
    }  # fmt: skip
    connection.execute(insert(webhooks).values(**row))


class Outbox:
    """The due deliveries. Any number of senders may share them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, limit: int, per_receiver: int, sending: Iterable[str]) -> list[Delivery]:
        """Take due deliveries; no other sender takes them for the next minute.

        Args:
            limit: the most deliveries to take, 1 or more.
            per_receiver: the most deliveries to one receiver at a time, including those of `sending`.
            sending: the URLs of the deliveries that the caller has taken and not settled yet.
        """
        having = Counter(map(_receiver, sending))
        full = [receiver for receiver, count in having.items() if count >= per_receiver]
        due = (
            select(webhooks.c.id, webhooks.c.url)
            .where(webhooks.c.delivered_at.is_(None), webhooks.c.next_at <= NOW)
            .where(*(not_(_is_to(receiver)) for receiver in full))
            .order_by(webhooks.c.next_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self._database.write() as connection:
            ids = []
            for row in connection.execute(due):
                having[_receiver(row.url)] += 1
                if having[_receiver(row.url)] <= per_receiver:
                    ids.append(row.id)
            if not ids:
                return []
            taken = (
                update(webhooks)
                .where(webhooks.c.id.in_(ids))
                .values(attempts=webhooks.c.attempts + 1, next_at=NOW + SENDING_S)
                .returning(*(webhooks.c[field.name] for field in fields(Delivery)))
            )
            return [Delivery(*row) for row in connection.execute(taken)]

    def delivered(self, delivery: Delivery) -> None:
        # The receiver has it, so this holds even if another sender has taken the delivery meanwhile.
        self._update(webhooks.c.id == delivery.id, delivered_at=NOW, error=None)

    def failed(self, delivery: Delivery, error: str) -> bool:
        """Schedule another try, with jitter, or give up after the last one; returns whether it will be retried."""
        if delivery.attempts > len(BACKOFF_S):
            self.give_up(delivery, error)
            return False
        wait = BACKOFF_S[delivery.attempts - 1] * random.uniform(0.75, 1.25)
        self._update(_still_mine(delivery), next_at=NOW + wait, error=error)
        return True

    def give_up(self, delivery: Delivery, error: str) -> None:
        """Give up a delivery; it is not retried."""
        self._update(_still_mine(delivery), delivered_at=NOW, error=error)

    def forget_old(self) -> None:
        """Delete deliveries that were settled more than a week ago."""
        with self._database.write() as connection:
            connection.execute(delete(webhooks).where(webhooks.c.delivered_at < NOW - KEEP_S))

    def _update(self, which: ColumnElement[bool], **values: object) -> None:
        with self._database.write() as connection:
            connection.execute(update(webhooks).where(which).values(**values))


def _receiver(url: str) -> str:
    """Scheme, host and port of a URL, as written in it."""
    match = _RECEIVER.match(url)
    return match[0] if match else url


def _is_to(receiver: str) -> ColumnElement[bool]:
    """`_receiver(url) == receiver` as an SQL condition."""
    begins = func.substr(webhooks.c.url, 1, len(receiver)) == receiver
    return and_(begins, func.substr(webhooks.c.url, len(receiver) + 1, 1).in_(("", "/", "?", "#")))


def _still_mine(delivery: Delivery) -> ColumnElement[bool]:
    # A slow sender must not undo what a later sender has settled.
    untaken = webhooks.c.attempts == delivery.attempts
    return and_(webhooks.c.id == delivery.id, untaken, webhooks.c.delivered_at.is_(None))
