"""Starts the stage of a replica, or has the replica refuse its calls with the reason why the stage cannot start.

Serve starts a replica again whose constructor raises. Where none has started since the deployment, it gives up after
`min(max_constructor_retry_count, 3 x replicas)` failures; elsewhere it never does. So a stage that fails raises twice,
in case the fault was a passing one. The third time in a row (`GIVEN_UP_AT`) its replica comes up without weights. That
stops the restarting just before Serve gives up, and jobs fail at once with a sentence instead of waiting.

Such a replica loads again by itself, ever less often, and at once if the application is deployed again or another
replica could load. If it then still cannot although another one works, the fault is its own, such as its node's: its
health check fails so that Serve replaces it, and its calls go elsewhere.
"""

from __future__ import annotations

import logging
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
from jobs.schema import stage_failures
from jobs.stage_failures import GIVEN_UP_AT, StageFailure, StageFailures
from pipelines.errors import KinorayError, ReplicaUnavailable, StageUnavailable
from pipelines.memory import free_memory

log = logging.getLogger("ray.serve")

T = TypeVar("T")

AGAIN_AFTER_S = (60.0, 120.0, 300.0, 600.0)
"""How long a replica that refuses waits before it loads again: after each failure in turn, then always the last."""


class Record(Protocol):
    """What a start needs of `jobs.stage_failures.StageFailures`."""

    def failed(self, deployment: str, message: str, at: float, *, deployed_at: float) -> int: ...

    def record_refusal(self, deployment: str, replica: str) -> bool: ...

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
    clock: Callable[[], float] = time.monotonic
    """In seconds, from any start."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a replica refuses its calls, and what it does about it."""

    sentence: str
    failures: int
    """How often it has failed in a row at its own times."""
    again_at: float
    """When it loads again, on the replica's clock."""
    others_work: bool = False
    """Whether the fault is this replica's own, so that it is to be replaced."""


def here() -> Here:
    """This process's replica."""
    context = serve.get_replica_context()
    replica: str = context.replica_id.unique_id
    return Here(context.deployment, replica, look, open_record, forget_failures)


@contextmanager
def open_record() -> Iterator[StageFailures]:
    """The record of failed starts in the job store. A replica may be the first to open a SQLite store."""
    with Database(database_url()) as database:
        database.ensure(stage_failures)
        yield StageFailures(database)


def forget_failures(deployment: str) -> None:
    """Clear a deployment's failures, at the cost of two small queries if there are none."""
    with Database(database_url()) as database:
        if database.has(stage_failures):
            StageFailures(database).started(deployment)


class Starting(Generic[T]):
    """A replica's stage, which has started or cannot. Everything but `check` runs in the worker's thread."""

    def __init__(self, worker: Submits, load: Callable[[], T], here: Here) -> None:
        """
        Args:
            load: loads the stage. It is called again while the replica refuses its calls.

        Raises:
            Exception: what `load` raised, so that Serve starts the replica again.
        """
        self._worker, self._load, self._here = worker, load, here
        self._stage: T | None = None
        self._refusal: Refusal | None = None
        self._looking: Future[None] | None = None
        worker.run(self._begin)

    def stage(self) -> T:
        """The stage, for a call. A call never loads it: that can take longer than a call may be silent.

        Raises:
            StageUnavailable: no replica can load it; says why.
            ReplicaUnavailable: this one could not, and another one can or this one is about to try again.
        """
        refusal = self._refusal
        if refusal is None:
            return cast("T", self._stage)
        if refusal.others_work or not self._still_counts():
            raise ReplicaUnavailable(refusal.sentence)
        raise StageUnavailable(refusal.sentence)

    def check(self) -> None:
        """Have a replica that refuses load again if that is due. Serve calls this as a health check.

        Raises:
            ReplicaUnavailable: this replica cannot load the stage, others can, and Serve is to replace it.
        """
        refusal = self._refusal
        if refusal is None:
            return
        if refusal.others_work:
            raise ReplicaUnavailable(f"another replica works, but not this one: {refusal.sentence}")
        if self._looking is None or self._looking.done():
            self._looking = self._worker.submit(self._look_again)

    def _begin(self) -> None:
        error = self._try()
        if error is None:
            return
        if not self._may_refuse(error):
            raise error
        self._refuse(sentence_of(error), 0)
        del error  # its frames hold what was already loaded
        free_memory()

    def _look_again(self) -> None:
        """Load again if it is time, another replica could, or the application was deployed again."""
        before = self._refusal
        if before is None:
            return
        due = self._here.clock() >= before.again_at
        if not due and self._still_counts():
            return
        error = self._try()
        if error is None:
            self._refusal = None
            return
        others_work = self._may_refuse(error) is False
        self._refuse(sentence_of(error), before.failures + 1 if due else 0, others_work=others_work)
        del error
        free_memory()

    def _refuse(self, sentence: str, failures: int, *, others_work: bool = False) -> None:
        wait_s = AGAIN_AFTER_S[min(failures, len(AGAIN_AFTER_S) - 1)]
        self._refusal = Refusal(sentence, failures, self._here.clock() + wait_s, others_work)

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

    def _may_refuse(self, error: Exception) -> bool | None:
        """Record the failure; returns whether this replica is to refuse its calls. None: it could not be recorded.

        False of a replica that has refused already means that another one works.
        """
        its, replica = self._here.deployment, self._here.replica
        try:
            now = self._here.look()
            with self._here.record() as record:
                failures = record.failed(its, sentence_of(error), time.time(), deployed_at=now.deployed_at)
                found = record.of(its, deployed_at=now.deployed_at)
                others = now.running.get(its, frozenset()) - {replica}
                healthy = others - (found.refusing if found is not None else frozenset())
                # Where another replica works, this one fails for a reason of its own, such as its node's.
                if healthy or (failures < GIVEN_UP_AT and self._refusal is None):
                    return False
                return record.record_refusal(its, replica)
        except Exception:  # must not hide why the stage could not be loaded
            log.exception("that %s could not start was not recorded", its)
            return None

    def _still_counts(self) -> bool:
        """Whether the record still says that this replica refuses: no other has loaded the stage since."""
        try:
            now = self._here.look()
            with self._here.record() as record:
                found = record.of(self._here.deployment, deployed_at=now.deployed_at)
                return found is not None and self._here.replica in found.refusing
        except Exception:  # neither controller nor job store say otherwise
            log.exception("whether %s still cannot start could not be read", self._here.deployment)
            return True


def sentence_of(error: Exception) -> str:
    """What an error says, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, KinorayError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
