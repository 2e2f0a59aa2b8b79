"""What a long history costs the job store: `make bench-jobs`, on both databases.

Each operation is timed against a store with next to nothing in it, and against one with 100,000 finished and 10,000
queued jobs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import insert

from jobs.admission import Limits, accept
from jobs.database import Database, open_database, sqlite_url
from jobs.ids import new_job_id
from jobs.leases import Leases, Rendered
from jobs.lifecycle import Status
from jobs.record import Job
from jobs.schema import jobs
from jobs.store import JobStore
from jobs.stored import ResultMetadata
from tests.harness.databases import create_database, run_postgres

FINISHED, QUEUED = 100_000, 10_000
ROUNDS = 300
BOUND = 2.0
MODEL = "ltx-tiny"
CAPACITY = 8
LIMITS = Limits(max_queued=2 * QUEUED)


def main() -> None:
    """Print the table; exit with 1 when a ratio is above the bound."""
    worst = 0.0
    print("| database | operation | empty store | 100,000 finished, 10,000 queued | ratio | bound |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, run_postgres() as administrator:
        urls = {
            "SQLite": [sqlite_url(Path(folder) / f"{name}.sqlite3") for name in ("empty", "full")],
            "PostgreSQL": [create_database(administrator, name) for name in ("empty", "full")],
        }
        for database, (empty_url, full_url) in urls.items():
            for url, is_full in ((empty_url, False), (full_url, True)):
                with Database(url) as opened:
                    opened.migrate()
                    if is_full:
                        _fill(opened)
                if is_full and database == "PostgreSQL":
                    _vacuum(url)
            empty, full = _measure(empty_url), _measure(full_url)
            for operation in empty:
                ratio = full[operation] / empty[operation]
                worst = max(worst, ratio)
                milliseconds = f"{empty[operation] * 1000:.2f} ms | {full[operation] * 1000:.2f} ms"
                print(f"| {database} | {operation} | {milliseconds} | {ratio:.2f} | <= {BOUND:.0f} |", flush=True)
    print(f"Medians of {ROUNDS}, one after the other.")
    if worst > BOUND:
        raise SystemExit("a bound is missed")


def _measure(url: str) -> dict[str, float]:
    """Median seconds of each operation."""
    with open_database(url) as database:
        store, leases = JobStore(database), Leases(database)

        def claim() -> None:
            (claimed,) = leases.claim(MODEL, owner="bench", lease_s=60, max_attempts=3, capacity=CAPACITY)
            leases.complete({claimed.lease_token or "": Rendered({}, ResultMetadata())})

        return {
            "insert": _median(lambda: accept(database, _job(), LIMITS)),
            "claim and complete": _median(claim),
            "list page": _median(lambda: store.page(after=None, limit=20, newest_first=True)),
        }


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _fill(database: Database) -> None:
    rows = [asdict(_job(Status.COMPLETED)) for _ in range(FINISHED)] + [asdict(_job()) for _ in range(QUEUED)]
    with database.write() as connection:
        for start in range(0, len(rows), 5000):
            connection.execute(insert(jobs), rows[start : start + 5000])


def _vacuum(url: str) -> None:
    """What the server's autovacuum does within a minute of so many inserts: an index then answers by itself."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE jobs")


def _job(status: Status = Status.QUEUED) -> Job:
    return Job(
        id=new_job_id(), model=MODEL, prompt="a red circle moves left on a black background",
        parameters={"width": 64, "height": 64, "seed": 1}, created_at=time.time(), status=status,
        progress=100 if status is Status.COMPLETED else 0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
