"""Migrations, on both databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from jobs.database import MIGRATIONS, UNREACHABLE, Database, DatabaseUnusable, open_database, sqlite_url
from jobs.ids import new_job_id
from jobs.priority import Priority
from jobs.schema import metadata
from jobs.store import JobStore
from jobs.stored import ResultMetadata
from pipelines.paths import ROOT
from pipelines.stages import Stage
from tests.harness.databases import create_database
from tests.unit.conftest import Jobs

Connect = Callable[[str], Database]


def test_migrations_lead_to_the_schema_in_the_code(database: str, connect: Connect) -> None:
    with connect(database).read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_connection_that_the_server_has_closed_while_it_was_idle_is_replaced(
    postgres: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.database.IDLE_S", 0.0)
    database = connect(postgres)
    backend = text("SELECT pg_backend_pid()")
    with database.read() as connection:
        first = connection.execute(backend).scalar_one()
    with connect(postgres).read() as other:
        assert other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": first}).scalar_one()
    with database.read() as connection:
        assert connection.execute(backend).scalar_one() != first


def test_a_server_that_may_no_longer_write_is_left(postgres: str, connect: Connect) -> None:
    database = connect(postgres)
    with database.write() as connection:
        connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    change = text("CREATE TABLE written (); DROP TABLE written")
    with pytest.raises(UNREACHABLE), database.write() as connection:
        connection.execute(change)
    with database.write() as connection:  # by another connection, to whoever answers now
        connection.execute(change)


def test_a_server_that_does_not_answer_is_found_out(postgres: str) -> None:
    with Database(postgres) as patient, patient.read() as connection:
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert given["tcp_user_timeout"] == "20000"
    own = f"{postgres}{'&' if '?' in postgres else '?'}tcp_user_timeout=7000"
    with Database(own) as hasty, hasty.read() as connection:
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert given["tcp_user_timeout"] == "7000"


def test_migrating_twice_changes_nothing(empty_database: str, connect: Connect) -> None:
    before, after = connect(empty_database).migrate()
    assert before is None
    assert connect(empty_database).migrate() == (after, after)


def test_processes_that_start_together_migrate_once(empty_database: str, connect: Connect) -> None:
    databases = [connect(empty_database) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(Database.migrate, databases))
    assert sum(before is None for before, _ in outcomes) == 1


def test_a_store_made_before_there_were_migrations_is_taken_over(empty_database: str, connect: Connect) -> None:
    database = connect(empty_database)
    old = new_job_id()
    with database.write() as connection:
        upgrade(connection, "0001")
        connection.exec_driver_sql("DROP TABLE alembic_version")
        connection.execute(
            text(
                "INSERT INTO jobs (id, model, prompt, parameters, created_at, has_image, status, progress, attempts, "
                "not_before, leg_seconds, facts) VALUES (:id, 'ltx-tiny', 'p', '{\"width\": 64}', 1.0, false, "
                "'queued', 0, 0, 0, '{}', '{}')"
            ),
            {"id": old},
        )
    database.migrate()
    with database.read() as connection:
        assert {index["name"] for index in inspect(connection).get_indexes("jobs")} >= {"jobs_by_lease"}
    taken_over = JobStore(database).get(old)
    assert taken_over is not None
    assert taken_over.parameters == {"width": 64, "family": "ltx"}
    assert (taken_over.priority, taken_over.api_key, taken_over.version) == (Priority.NORMAL, "", 0)


def test_what_was_stored_under_the_old_names_of_stages_is_found_under_the_new(
    empty_database: str, connect: Connect
) -> None:
    database = connect(empty_database)
    ids = {family: new_job_id() for family in ("ltx", "svd")}
    with database.write() as connection:
        upgrade(connection, "0007")
        for family, job_id in ids.items():
            insert_old(connection, job_id, family)
    with database.write() as connection:
        upgrade(connection, "0008")
        renamed = connection.execute(text("SELECT checkpoint FROM jobs WHERE model = 'ltx'")).scalar_one()
        assert loaded(renamed)["result_metadata"] == {"device": "cpu"}
        upgrade(connection, "0007", way=command.downgrade)
        named_as_before = connection.execute(text("SELECT checkpoint FROM jobs WHERE model = 'ltx'")).scalar_one()
        assert loaded(named_as_before)["facts"] == {"device": "cpu"}
    database.migrate()
    store = JobStore(database)
    for family, encoder in (("ltx", "text_encode"), ("svd", "image_encode")):
        job = store.get(ids[family])
        assert job is not None
        assert job.stage is Stage.DENOISE
        assert job.work == {encoder: 1.0, "denoise": 4.0}
        assert job.stage_seconds == {encoder: 0.5, "denoise": 2.0}
        assert job.result_metadata == ResultMetadata(device="cpu")
        assert job.checkpoint is None, "its format is another one now"
        assert [event.data for event in store.events(job.id, 0)] == [{"status": "in_progress", "stage": "denoise"}]
        assert set(store.lines(family)) == {Stage(encoder), Stage.DENOISE}
    with database.write() as connection:
        upgrade(connection, "0007", way=command.downgrade)
        old = connection.execute(text("SELECT leg, leg_seconds, facts, checkpoint FROM jobs WHERE model = 'ltx'")).one()
        assert (old.leg, loaded(old.leg_seconds)) == ("denoise", {"text": 0.5, "denoise": 2.0})
        assert (old.checkpoint, loaded(old.facts)) == (None, {"device": "cpu"})


def insert_old(connection: Connection, job_id: str, family: str) -> None:
    """A live job as version 0007 wrote it, with what was told and learned of it."""
    part = "text" if family == "ltx" else "image"
    checkpoint = {"key": "k", "step": 3, "final": False, "seconds": 1.5, "facts": {"device": "cpu"}}
    values = {
        "id": job_id, "model": family, "parameters": {"family": family}, "work": {"encode": 1.0, "denoise": 4.0},
        "leg_seconds": {part: 0.5, "denoise": 2.0}, "facts": {"device": "cpu"}, "checkpoint": checkpoint,
        "data": {"status": "in_progress", "leg": "denoise"},
    }  # fmt: skip
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    for statement in (
        "INSERT INTO jobs (id, model, prompt, parameters, created_at, has_image, status, leg, progress, attempts, "
        "not_before, work, leg_seconds, facts, checkpoint) VALUES (:id, :model, 'p', :parameters, 1.0, false, "
        "'in_progress', 'denoise', 10, 1, 0, :work, :leg_seconds, :facts, :checkpoint)",
        "INSERT INTO job_events (job_id, version, kind, at, data) VALUES (:id, 1, 'progress', 1.0, :data)",
        "INSERT INTO leg_costs (model, leg, n, x, y, xx, xy) VALUES (:model, 'encode', 1, 1, 1, 1, 1)",
        "INSERT INTO leg_costs (model, leg, n, x, y, xx, xy) VALUES (:model, 'denoise', 1, 1, 1, 1, 1)",
    ):
        connection.execute(text(statement), given)


def test_a_job_that_was_requeued_is_known_by_a_column_and_has_its_turn_back(
    empty_database: str, connect: Connect
) -> None:
    database = connect(empty_database)
    ranks = {new_job_id(): rank for rank in (0.0, 1250.5, 600.0 - 1e12, 1250.5 - 1e12)}
    with database.write() as connection:
        upgrade(connection, "0008")
        for job_id, rank in ranks.items():
            connection.execute(
                text(
                    "INSERT INTO jobs (id, model, prompt, parameters, created_at, has_image, status, progress, "
                    "attempts, not_before, stage_seconds, result_metadata, queue_rank) VALUES (:id, 'm', 'p', '{}', "
                    "1.0, false, 'queued', 0, 0, 0, '{}', '{}', :rank)"
                ),
                {"id": job_id, "rank": rank},
            )
    with database.write() as connection:
        upgrade(connection, "0009")
        assert stored_turns(connection) == [(True, 0.0), (True, 1250.5), (False, 600.0), (False, 1250.5)]
        assert columns_by_turn(connection) == ["model", "status", "fresh", "queue_rank", "id", "cost_s"]
    with database.write() as connection:
        upgrade(connection, "0008", way=command.downgrade)
        old = connection.execute(text("SELECT id, queue_rank FROM jobs"))
        assert {row.id: row.queue_rank for row in old} == ranks
        assert columns_by_turn(connection) == ["model", "status", "queue_rank", "id", "cost_s"]


def stored_turns(connection: Connection) -> list[tuple[bool, float]]:
    rows = connection.execute(text("SELECT fresh, queue_rank FROM jobs ORDER BY id"))
    return [(bool(row.fresh), row.queue_rank) for row in rows]


def columns_by_turn(connection: Connection) -> list[str | None]:
    [index] = (each for each in inspect(connection).get_indexes("jobs") if each["name"] == "jobs_by_turn")
    return index["column_names"]


def loaded(value: Any) -> Any:
    """A JSON column as a text query gives it: PostgreSQL's driver has read it, SQLite's has not."""
    return json.loads(value) if isinstance(value, str) else value


def test_every_migration_can_be_taken_back(database: str, connect: Connect) -> None:
    opened = connect(database)
    with opened.write() as connection:
        upgrade(connection, "0001", way=command.downgrade)
        assert set(inspect(connection).get_table_names()) == {"jobs", "alembic_version"}
    opened.migrate()
    with opened.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def upgrade(connection: Connection, revision: str, way: Callable[[Config, str], None] = command.upgrade) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    way(config, revision)


def test_a_newer_database_is_left_alone(database: str, connect: Connect) -> None:
    with connect(database).write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseUnusable, match="9999, which only a newer Kinoray knows"):
        open_database(database)
    with pytest.raises(DatabaseUnusable, match="newer"):
        connect(database).migrate()


@pytest.mark.parametrize(("url", "says"), [("nonsense", "cannot be read"), ("mysql://u:secret@h/d", "not mysql://")])
def test_a_url_of_something_else_is_refused_and_not_repeated(url: str, says: str) -> None:
    with pytest.raises(DatabaseUnusable, match=says) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


def test_sqlite_migrates_itself(tmp_path: Path) -> None:
    open_database(sqlite_url(tmp_path / "jobs.sqlite3")).close()


def test_postgresql_asks_to_be_migrated(postgres: str) -> None:
    empty = create_database(postgres, "unmigrated")
    with pytest.raises(DatabaseUnusable, match=r"revision None, this version needs \d+; run `./kinoray migrate`"):
        open_database(empty)
    done = kinoray("migrate", empty)
    assert done.returncode == 0, done.stderr
    assert "was at revision none and is at" in done.stderr
    open_database(empty).close()


@pytest.mark.parametrize("verb", ["migrate", "serve"])
def test_a_database_that_is_not_there_is_one_sentence(verb: str) -> None:
    done = kinoray(verb, "postgresql://nobody:secret@127.0.0.1:9/nothing")
    assert done.returncode == 1
    assert "error: the job store cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_an_operator_lists_dead_jobs_and_drives_them_again(database: str, jobs: Jobs) -> None:
    job = jobs.accept(model="ltx-tiny")
    jobs.leases.retry(jobs.take(model="ltx-tiny")[1], 1, "it broke", 1)
    assert kinoray("jobs", database, "--dead").stdout.split("  ") == [job.id, "ltx-tiny", "failed", "1", "it broke\n"]
    driven = kinoray("retry", database, job.id)
    assert (driven.returncode, jobs.claim(model="ltx-tiny") is not None) == (0, True), driven.stderr
    again = kinoray("retry", database, job.id)
    assert (again.returncode, "no dead job" in again.stderr) == (1, True)
    assert kinoray("jobs", database).stdout.startswith(f"{job.id}  ltx-tiny  text_encode 1%  ")


def kinoray(verb: str, url: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KINORAY_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "cli", verb, *args], env=env, cwd=ROOT, capture_output=True, text=True)
