"""The usage of each API key, minute by minute: the requests it made and the seconds of computing its jobs took.

`now` is in seconds since the epoch.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, Insert, delete, func, select

from jobs.database import insert_into
from jobs.schema import usage

DAY_MINUTES = 24 * 60


def charge(connection: Connection, api_key: str, now: float, *, requests: int = 0, gpu_seconds: float = 0.0) -> None:
    """Add usage to the minute of `now`."""
    row = {"api_key": api_key, "minute": int(now // 60), "requests": requests, "gpu_seconds": gpu_seconds}
    connection.execute(_charge(connection.dialect.name), row)


@cache
def _charge(dialect: str) -> Insert:
    inserted = insert_into(dialect, usage)
    more = {name: usage.c[name] + inserted.excluded[name] for name in ("requests", "gpu_seconds")}
    return inserted.on_conflict_do_update(index_elements=list(usage.primary_key), set_=more)


def requests_per_minute(connection: Connection, api_key: str, now: float) -> float:
    """Requests in the last 60 seconds; it assumes that those of the previous minute were spread evenly over it."""
    minute, passed = int(now // 60), now % 60 / 60
    rows = connection.execute(
        select(usage.c.minute, usage.c.requests).where(usage.c.api_key == api_key, usage.c.minute >= minute - 1)
    )
    counted: dict[int, int] = {row.minute: row.requests for row in rows}
    return counted.get(minute, 0) + counted.get(minute - 1, 0) * (1 - passed)


def gpu_seconds_per_day(connection: Connection, api_key: str, now: float) -> float:
    """Seconds of computing that ended in the last 24 hours."""
    since = int(now // 60) - DAY_MINUTES
    query = select(func.sum(usage.c.gpu_seconds)).where(usage.c.api_key == api_key, usage.c.minute > since)
    return connection.execute(query).scalar_one() or 0.0


def forget_old(connection: Connection, now: float) -> None:
    """Delete usage that is too old for every limit."""
    connection.execute(delete(usage).where(usage.c.minute < now // 60 - DAY_MINUTES))
