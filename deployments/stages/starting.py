"""Starts the stage of a replica, or has the replica refuse its calls with the reason why the stage cannot start.

Serve starts a replica again whose constructor raises. Where none has started since the deployment, it gives up after
`min(max_constructor_retry_count, 3 x replicas)` failures; elsewhere it never does. So a stage that fails raises twice,
in case the fault was a passing one. The third time in a row (`GIVEN_UP_AT`) its replica comes up without weights. That
stops the restarting just before Serve gives up, and jobs fail at once with a sentence instead of waiting.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from ray import serve

from deployments.application import Application, look
from deployments.configuration.settings import database_url
from deployments.events import emit
from jobs.database import Database
from jobs.stage_failures import GIVEN_UP_AT, StageFailure, StageFailures
from pipelines.errors import KinorayError, StageUnavailable

log = logging.getLogger("ray.serve")

T = TypeVar("T")


class Record(Protocol):
    """What a start needs of `jobs.stage_failures.StageFailures`."""

    def failed(self, deployment: str, message: str, at: float, *, deployed_at: float) -> int: ...

    def refuses(self, deployment: str, replica: str) -> bool: ...

    def started(self, deployment: str) -> None: ...

    def of(self, deployment: str, *, deployed_at: float) -> StageFailure | None: ...


class Submits(Protocol):
    """What a start needs of `deployments.stages.worker.Worker`."""

    def run(self, work: Callable[..., T], *args: Any) -> T: ...

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]: ...


@dataclass(frozen=True, slots=True)
class Here:
    """The replica that starts, and its surroundings."""

    deployment: str
    replica: str
    look: Callable[[], Application]
    record: Callable[[], AbstractContextManager[Record]]
    """Opens the record of failed starts, which is closed again: replicas of a large service would otherwise hold a
    connection each, for something that they hardly ever need."""
    forget: Callable[[str], None]
    """Clears a deployment's failures from the record."""


def here() -> Here:
    """This process's replica."""
    context = serve.get_replica_context()
    replica: str = context.replica_id.unique_id
    return Here(context.deployment, replica, look, open_record, forget_failures)


@contextmanager
def open_record() -> Iterator[StageFailures]:
    """The record of failed starts in the job store. A replica may be the first to open a SQLite store."""
    url = database_url()
    with Database(url) as database:
        record = StageFailures(database)
        if database.is_sqlite and not record.has_table():
            database.migrate()
        yield record


def forget_failures(deployment: str) -> None:
    """Clear a deployment's failures, at the cost of two small queries if there are none."""
    with Database(database_url()) as database:
        record = StageFailures(database)
        if record.has_table():
            record.started(deployment)


class Starting(Generic[T]):
    """A replica's stage, which has started or cannot. Everything but `check` runs in the worker's thread."""

    def __init__(self, worker: Submits, load: Callable[[], T], here: Here) -> None:
        """
        Args:
            load: loads the stage. It is called again if the reason for a refusal may be gone.

        Raises:
            Exception: what `load` raised, so that Serve starts the replica again.
        """
        self._worker, self._load, self._here = worker, load, here
        self._stage: T | None = None
        self._refusal: str | None = None
        self._looking: Future[None] | None = None
        worker.run(self._begin)

    def stage(self) -> T:
        """The stage, for a call. Raises StageUnavailable with the reason why it could not be loaded."""
        self._look_again()
        if self._refusal is not None:
            raise StageUnavailable(self._refusal)
        return cast("T", self._stage)

    def check(self) -> None:
        """Have a replica that refuses look whether it still has to. Serve calls this as a health check."""
        if self._refusal is not None and (self._looking is None or self._looking.done()):
            self._looking = self._worker.submit(self._look_again)

    def _begin(self) -> None:
        error = self._try()
        if error is None:
            return
        if not self._may_refuse(error):
            raise error
        self._refusal = sentence_of(error)
        del error  # its frames hold what was already loaded
        _free_memory()

    def _look_again(self) -> None:
        """Load again if another replica could, or the application was deployed again, since this one gave up."""
        if self._refusal is None or self._still_counts():
            return
        error = self._try()
        if error is None:
            self._refusal = None
            return
        self._may_refuse(error)
        self._refusal = sentence_of(error)
        del error
        _free_memory()

    def _try(self) -> Exception | None:
        """Load the stage; returns what went wrong, after having said it in the log."""
        try:
            self._stage = self._load()
        except Exception as error:  # a family's code may be somebody else's
            # Serve's logger adds the deployment and the replica.
            emit("stage.failed", level=logging.ERROR, sentence=sentence_of(error))
            return error
        try:
            self._here.forget(self._here.deployment)
        except Exception as error:  # the stage is there, and a record that is out of date does no harm
            log.warning("earlier failures of %s could not be cleared: %s", self._here.deployment, sentence_of(error))
        return None

    def _may_refuse(self, error: Exception) -> bool:
        """Record the failure; returns whether this replica is to refuse its calls from now on."""
        its, replica = self._here.deployment, self._here.replica
        try:
            now = self._here.look()
            with self._here.record() as record:
                failures = record.failed(its, sentence_of(error), time.time(), deployed_at=now.deployed_at)
                found = record.of(its, deployed_at=now.deployed_at)
                others = now.running.get(its, frozenset()) - {replica}
                healthy = others - (found.refusing if found is not None else frozenset())
                # Where another replica works, this one fails for a reason of its own, such as its node's.
                refuses = (failures >= GIVEN_UP_AT and not healthy) or self._refusal is not None
                return refuses and record.refuses(its, replica)
        except Exception:  # must not hide why the stage could not be loaded
            log.exception("that %s could not start was not recorded", its)
            return False

    def _still_counts(self) -> bool:
        """Whether the record still has failures of this deployment."""
        try:
            now = self._here.look()
            with self._here.record() as record:
                return record.of(self._here.deployment, deployed_at=now.deployed_at) is not None
        except Exception:  # neither controller nor job store say otherwise
            log.exception("whether %s still cannot start could not be read", self._here.deployment)
            return True


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def sentence_of(error: Exception) -> str:
    """What an error says, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, KinorayError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
