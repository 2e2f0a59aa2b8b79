"""The one clock that leases, retries, limits and retention go by: the database's.

Many processes on many machines read and write these times, and their clocks differ. So each time is written and
compared within a statement, as `NOW`; a process is told seconds that are left, never a moment. The time at which the
API accepted a job is its own; it orders, and is compared with nothing finer than a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, Float, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jobs.database import Database


class _Now(FunctionElement[float]):
    # With a bare ColumnElement, SQLAlchemy would compile each statement anew, which takes longer than to run it.
    inherit_cache = True
    type = Float()


NOW: ColumnElement[float] = _Now()
"""The database's time when the statement runs, in seconds since the epoch."""


@compiles(_Now, "postgresql")
def _now_of_postgresql(_now: _Now, _compiler: SQLCompiler, **_: object) -> str:
    # Not now(), which stands still in a transaction. In a query of its own, so that an index can serve a comparison:
    # the function may change while a statement runs, but the query is run once.
    return "(SELECT extract(epoch FROM clock_timestamp())::double precision)"


@compiles(_Now, "sqlite")
def _now_of_sqlite(_now: _Now, _compiler: SQLCompiler, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # exact to a millisecond; it is the time of the only machine


_READ = select(NOW)


def read_now(connection: Connection) -> float:
    """The database's time in seconds since the epoch."""
    now: float = connection.execute(_READ).scalar_one()
    return now


class DatabaseClock:
    """A time that the database's clock has passed for certain, known without asking it.

    A statement may wait, for a connection or on its way, and be run when leases have expired that could not be renewed
    for the same reason. Its sender means those that had expired when it was sent.
    """

    def __init__(self, database: Database, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._elapsed = elapsed
        self._ahead: float | None = None

    def read(self, connection: Connection) -> None:
        """Read the database's clock, which may have been set since the last time."""
        now = read_now(connection)
        self._ahead = now - self._elapsed()  # after the answer: the database's clock may only be later

    def passed(self) -> float:
        """A time that has passed, in seconds since the epoch. Asks the database if it has never been read."""
        if self._ahead is None:
            with self._database.read() as connection:
                self.read(connection)
        assert self._ahead is not None
        return self._ahead + self._elapsed()
