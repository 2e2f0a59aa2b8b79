"""An operator's commands for the job store. They report each error in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import make_url

from deployments.configuration.settings import database_url, require_data_dir, uses_data_dir
from jobs.costs import mean_seconds
from jobs.database import UNREACHABLE, Database, DatabaseUnusable, open_database
from jobs.pins import Pins
from jobs.record import Job
from jobs.store import JobStore
from pipelines.errors import ConfigError
from pipelines.stages import Stage


def job_store_name() -> str:
    """The job store's URL without its password."""
    return make_url(database_url()).render_as_string(hide_password=True)


def check_job_store() -> None:
    """Open the store once, before starting anything that needs it.

    Raises:
        ConfigError: the store cannot be reached, or is not at this version's revision.
    """
    with _one_sentence(), open_database(database_url()):
        pass


def migrate_job_store() -> tuple[str | None, str]:
    """Migrate the store to this version; returns the revision before and after. Raises ConfigError."""
    with _one_sentence(), Database(database_url()) as database:
        return database.migrate()


def latest_jobs(limit: int) -> list[Job]:
    """The jobs in the store, newest first. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        return JobStore(database).page(after=None, limit=limit, newest_first=True, api_key=None)[0]


def dead_jobs(limit: int) -> list[Job]:
    """The dead-lettered jobs, whose every attempt ended in a fault, newest first. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        return JobStore(database).dead(limit)


def redrive(job_id: str) -> None:
    """Queue a dead-lettered job again. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        if not JobStore(database).redrive(job_id):
            raise ConfigError(f"no dead job {job_id}; `./kinoray jobs --dead` lists them")


def measured_seconds(model: str) -> dict[Stage, float]:
    """The recent mean seconds of each stage of a model's finished jobs. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        lines = JobStore(database).lines(model)
    means = mean_seconds(lines)
    return {stage: means[stage] for stage in lines}


@contextmanager
def opened() -> Iterator[Database]:
    """The job store. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        yield database


@contextmanager
def pins() -> Iterator[Pins]:
    """The commits to which weights are pinned. Raises ConfigError."""
    with _one_sentence(), open_database(database_url()) as database:
        yield Pins(database)


@contextmanager
def _one_sentence() -> Iterator[None]:
    if uses_data_dir():
        require_data_dir()
    try:
        yield
    except DatabaseUnusable as error:
        raise ConfigError(str(error)) from None
    except UNREACHABLE as error:
        # The driver's message names the host and port but no password.
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise ConfigError(f"the job store cannot be reached; see KINORAY_DATABASE_URL: {reason}") from None
