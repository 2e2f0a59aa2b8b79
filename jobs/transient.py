"""Tells an outage of the database from a fault of ours, by the database's own codes.

The drivers' classes do not: SQLite's calls a missing column an OperationalError, as it calls a locked file, and both
drivers have classes that mix what passes with what is wrong. What passes is tried again, for ever if need be. What is
wrong would be tried for ever in vain, so it is raised as an error of another class.
"""

from __future__ import annotations

import sqlite3

import psycopg
from psycopg import errors
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

_OF_SQLITE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,  # too many raced for a lock
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,  # a file system that has been remounted after a fault
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)
_OF_POSTGRESQL = (
    "08",  # the connection
    "40",  # rolled back for another transaction
    "53",  # disk, memory or connections used up
    "57",  # an operator's or administrator's doing: shutdown, restart, a canceled query
    "58",  # the server's own system calls
    "55006",  # an object in use
    "55P03",  # a lock that is not to be had
    "25006",  # read-only: after a failover another server may write
    "25P03",  # idle within a transaction for too long
)
"""SQLSTATEs, or the classes that they begin with."""


def is_transient(error: BaseException | None) -> bool:
    """Whether a driver's error may pass, so that the transaction is worth another try."""
    if isinstance(error, sqlite3.Error):
        code: int | None = getattr(error, "sqlite_errorcode", None)  # none where the driver itself objects
        return code is not None and code & 0xFF in _OF_SQLITE  # an extended code has more in its higher bits
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(_OF_POSTGRESQL)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)  # there is no connection


def sort_out(context: ExceptionContext) -> BaseException | None:
    """The error to raise instead of SQLAlchemy's; None for its own. For its event `handle_error`."""
    original, raised = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, errors.ReadOnlySqlTransaction):
        context.is_disconnect = True  # drop all connections to that server
    kind: type[DBAPIError] | None = None
    if is_transient(original):
        kind = None if isinstance(raised, OperationalError | InterfaceError) else OperationalError
    elif isinstance(raised, OperationalError | InterfaceError):
        kind = ProgrammingError
    if kind is None:
        return None
    invalidated = isinstance(raised, DBAPIError) and raised.connection_invalidated
    return kind(context.statement, None, original, hide_parameters=True, connection_invalidated=invalidated)
