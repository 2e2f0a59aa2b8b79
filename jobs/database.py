"""The database behind the job store, chosen by one URL: SQLite for one machine, PostgreSQL for a cluster."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    Connection,
    Engine,
    Table,
    Update,
    and_,
    bindparam,
    create_engine,
    event,
    inspect,
    make_url,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from jobs.transient import sort_out

MIGRATIONS = Path(__file__).parent / "migrations"
READ_ONLY = "kinoray_read_only"
# Any number works, as long as every process that migrates a database uses the same one.
MIGRATION_LOCK = 7_041_776
IDLE_S = 5.0
"""A connection that has been idle for this many seconds is tested before use."""
_USED_AT = "used_at"
LOCKED_S = 4.0
"""Seconds that a transaction on SQLite waits for earlier ones."""

UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
"""The errors of a transaction when the database cannot be reached, is locked, full or, after a failover, read-only, or
when no connection is left. The transaction may be retried. `jobs.transient` sees to it that no other error is one of
these, such as that of a statement that names no column."""
_PATIENCE = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""Timeouts after which a PostgreSQL server whose machine vanished counts as unreachable; the URL may override them."""


class DatabaseUnusable(RuntimeError):
    """The URL names no usable database, or the database's tables are not those of this version."""


def open_database(url: str) -> Database:
    """Open a database whose tables are those of this version; this migrates SQLite's tables.

    Raises:
        DatabaseUnusable: the tables of PostgreSQL are not those of this version.
    """
    database = Database(url)
    try:
        if database.is_sqlite:
            database.migrate()
        else:
            database.require_current()
    except BaseException:
        database.close()
        raise
    return database


def insert_into(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT in a database's dialect, which supports `on_conflict`."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def update_each(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...] = ()
) -> None:
    """Update existing rows in one round trip, each to its own values.

    Args:
        rows: the new values and the `keys` of each row; all name the same columns.
        keys: the columns that identify a row, by default the primary key.
    """
    if rows:
        given = [{f"its_{name}": value for name, value in row.items()} for row in rows]
        keys = keys or tuple(table.primary_key.columns.keys())
        connection.execute(_update_each(table, keys, tuple(rows[0])), given)


@cache
def _update_each(table: Table, keys: tuple[str, ...], names: tuple[str, ...]) -> Update:
    which = and_(*(table.c[name] == bindparam(f"its_{name}") for name in keys))
    values: dict[str, Any] = {name: bindparam(f"its_{name}") for name in names if name not in keys}
    return update(table).where(which).values(values)


def insert_if_absent(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless one with its primary key exists; returns whether it was inserted.

    On PostgreSQL this waits for other transactions that insert the same key; SQLite has one writer.
    """
    statement = (
        insert_into(connection.dialect.name, table)
        .values(**values)
        .on_conflict_do_nothing()
        .returning(*table.primary_key)
    )
    return connection.execute(statement).first() is not None


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")


def serialize(connection: Connection, what: str) -> None:
    """Wait until other transactions that do the same have ended; without this, PostgreSQL runs them concurrently."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"what": what})


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


class Database:
    """Transactions on one database, from any thread.

    Raises:
        DatabaseUnusable: the URL is neither SQLite's nor PostgreSQL's. The message omits it: it may hold a password.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise DatabaseUnusable("the job store's URL cannot be read") from None
        backend = parsed.get_backend_name()
        if backend not in ("sqlite", "postgresql", "postgres"):
            raise DatabaseUnusable(f"the job store may be sqlite:/// or postgresql://, but not {backend}://")
        self.is_sqlite = backend == "sqlite"
        self._reading = {READ_ONLY: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        if self.is_sqlite:
            Path(parsed.database or "").parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(parsed, connect_args={"timeout": LOCKED_S}, hide_parameters=True)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            patience = {name: value for name, value in _PATIENCE.items() if name not in parsed.query}
            self.engine = create_engine(parsed, connect_args=patience, hide_parameters=True)
            event.listen(self.engine, "checkin", _note_use)
            event.listen(self.engine, "checkout", partial(_replace_if_closed, self.engine))
        event.listen(self.engine, "handle_error", sort_out, retval=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections; a later transaction would open new ones."""
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: it does not wait for writers and does not block them.

        Each statement is a transaction of its own and sees what is committed by then, which saves two round trips.
        """
        with self.engine.connect().execution_options(**self._reading) as connection:
            yield connection

    def migrate(self) -> tuple[str | None, str]:
        """Migrate the tables to this version; returns the revision before and after.

        Concurrent calls by several processes migrate once.

        Raises:
            DatabaseUnusable: a newer version has made the tables.
        """
        from alembic import command
        from alembic.script import ScriptDirectory

        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            before = _revision(connection)
            config = _alembic()
            _require_known(before, ScriptDirectory.from_config(config))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            after = _revision(connection)
            assert after is not None
            return before, after

    def has(self, table: Table) -> bool:
        """Whether a table is there."""
        with self.read() as connection:
            return inspect(connection).has_table(table.name)

    def ensure(self, table: Table) -> None:
        """Migrate a SQLite store that has not this table: a replica may be the first to open it."""
        if self.is_sqlite and not self.has(table):
            self.migrate()

    def require_current(self) -> None:
        """Raise DatabaseUnusable unless the tables are those of this version."""
        from alembic.script import ScriptDirectory

        scripts = ScriptDirectory.from_config(_alembic())
        head = scripts.get_current_head()
        with self.read() as connection:
            found = _revision(connection)
        _require_known(found, scripts)
        if found != head:
            raise DatabaseUnusable(
                f"the job store is at revision {found}, this version needs {head}; run `./kinoray migrate`"
            )


def _alembic() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _require_known(revision: str | None, scripts: Any) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseUnusable(
            f"the job store is at revision {revision}, which only a newer Kinoray knows; run that one"
        )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver itself would begin transactions lazily and deferred; `_begin_sqlite` begins them instead.
    connection.isolation_level = None
    # SQLite's timeout does not apply here: while another process creates the file, this fails at once as locked.
    Retrying(
        retry=retry_if_exception_type(sqlite3.OperationalError),
        stop=stop_after_delay(LOCKED_S),
        wait=wait_random(0.001, 0.02),
        reraise=True,
    )(connection.execute, "PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _replace_if_closed(engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Test a connection before use if the server may have closed it in the meantime."""
    if time.monotonic() - record.info.get(_USED_AT, math.inf) > IDLE_S:
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _begin_sqlite(connection: Connection) -> None:
    # Immediate: a deferred transaction that reads first and writes later can fail instead of waiting its turn.
    if not connection.get_execution_options().get(READ_ONLY, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
