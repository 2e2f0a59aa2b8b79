"""How a replica's stage starts, or comes to refuse its calls, without Ray."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.application import Application
from deployments.stages import starting
from deployments.stages.starting import (
    AGAIN_AFTER_S,
    Here,
    Record,
    Starting,
    forget_failures,
    open_record,
    sentence_of,
)
from deployments.stages.worker import Worker
from jobs.database import sqlite_url
from jobs.stage_failures import StageFailures
from pipelines.errors import JobFailed, ReplicaUnavailable, StageUnavailable, WeightsUnavailable
from tests.unit.conftest import Jobs

IT = "Denoiser-m"
BROKEN = WeightsUnavailable("m: model.safetensors ends in the middle; fetch it again")


class Service:
    """A deployment's replicas, a controller that knows which run, and the file that they load."""

    def __init__(self, failures: StageFailures) -> None:
        self.failures = failures
        self.deployed_at = 1764365000.25
        self.running: set[str] = set()
        self.broken: Exception | None = BROKEN
        self.loads = 0
        self.replicas = 0
        self.now = 5.0  # on every replica's clock

    def look(self) -> Application:
        return Application(self.deployed_at, {IT: frozenset(self.running)})

    @contextmanager
    def record(self) -> Iterator[StageFailures]:
        yield self.failures

    def load(self) -> str:
        self.loads += 1
        if self.broken is not None:
            raise self.broken
        return f"weights {self.loads}"

    def start(
        self, record: Callable[[], AbstractContextManager[Record]] | None = None, worker: Worker | None = None
    ) -> Starting[str]:
        """What Serve does for a replica. Raises what its constructor raises."""
        self.replicas += 1
        replica = f"r{self.replicas}"
        here = Here(IT, replica, self.look, record or self.record, self.failures.started, lambda: self.now)
        started = Starting(worker or Worker(60), self.load, here)
        self.running.add(replica)
        return started

    def start_until_it_runs(self) -> Starting[str]:
        for _ in range(10):
            try:
                return self.start()
            except WeightsUnavailable:
                continue
        raise AssertionError("it never came up")

    def count(self) -> int:
        found = self.failures.of(IT, deployed_at=self.deployed_at)
        return 0 if found is None else found.failures


def check(replica: Starting[str]) -> None:
    """A health check of Serve, and what it has begun."""
    replica.check()
    replica._worker.run(lambda: None)


@pytest.fixture
def service(jobs: Jobs) -> Service:
    return Service(StageFailures(jobs.database))


def refused(replica: Starting[str]) -> str:
    with pytest.raises(StageUnavailable) as refusal:
        replica.stage()
    assert refusal.value.code == "stage_unavailable"
    return refusal.value.message


def test_a_stage_that_loads_is_there_for_every_call(service: Service) -> None:
    service.broken = None
    replica = service.start()
    assert [replica.stage(), replica.stage()] == ["weights 1", "weights 1"]
    replica.check()
    assert service.loads == 1
    assert service.count() == 0


def test_a_passing_fault_is_tried_again_and_forgotten(service: Service) -> None:
    for _ in range(2):
        with pytest.raises(WeightsUnavailable, match="ends in the middle"):
            service.start()
    assert service.count() == 2
    service.broken = None
    assert service.start().stage() == "weights 3"
    assert service.count() == 0


def test_the_third_failure_in_a_row_ends_the_restarting_and_each_call_has_the_sentence(service: Service) -> None:
    for _ in range(2):
        with pytest.raises(WeightsUnavailable):
            service.start()
    replica = service.start()
    assert [refused(replica), refused(replica)] == [BROKEN.message] * 2
    assert service.loads == 3, "it does not try again at each call"
    found = service.failures.of(IT, deployed_at=service.deployed_at)
    assert found is not None
    assert (found.failures, found.message, found.refusing) == (3, BROKEN.message, frozenset({"r3"}))


def test_each_failure_is_an_error_in_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "ray.serve"), pytest.raises(WeightsUnavailable):
        service.start()
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.getMessage() == f"stage.failed sentence={BROKEN.message}"


def test_failures_before_the_application_was_deployed_again_do_not_count(service: Service) -> None:
    for _ in range(2):
        with pytest.raises(WeightsUnavailable):
            service.start()
    service.deployed_at += 60
    for _ in range(2):
        with pytest.raises(WeightsUnavailable):
            service.start()
    assert refused(service.start()) == BROKEN.message


def test_a_replica_does_not_refuse_where_another_one_works(service: Service) -> None:
    """What is wrong may be the node of this one: its jobs go to the other."""
    service.broken = None
    service.start()
    service.broken = BROKEN
    for _ in range(5):
        with pytest.raises(WeightsUnavailable):
            service.start()
    service.running.clear()
    assert refused(service.start()) == BROKEN.message, "the healthy one has died too"


def test_replicas_that_refuse_do_not_count_as_working(service: Service) -> None:
    service.start_until_it_runs()
    second = service.start()
    assert refused(second) == BROKEN.message
    assert service.loads == 4, "it tried the file once"


def test_a_stage_that_was_healthy_and_died_is_not_restarted_for_ever(service: Service) -> None:
    service.broken = None
    service.start()
    service.running.clear()
    service.broken = BROKEN
    assert refused(service.start_until_it_runs()) == BROKEN.message
    assert service.replicas == 4


def test_one_that_was_scaled_to_zero_tries_once_when_it_is_needed_again(service: Service) -> None:
    service.start_until_it_runs()
    service.running.clear()
    before = service.loads
    assert refused(service.start()) == BROKEN.message
    assert service.loads == before + 1
    service.running.clear()
    service.broken = None
    assert service.start().stage() == f"weights {before + 2}"
    assert service.count() == 0


def test_one_that_refuses_loads_when_another_one_could(service: Service) -> None:
    replica = service.start_until_it_runs()
    service.broken = None
    check(replica)
    assert refused(replica) == BROKEN.message, "nobody knows yet that the file is mended"
    assert service.start().stage() == "weights 4"
    with pytest.raises(ReplicaUnavailable, match="ends in the middle"):
        replica.stage()
    assert service.loads == 4, "a call does not load"
    check(replica)
    assert replica.stage() == "weights 5"


def test_one_that_refuses_loads_at_a_health_check_after_a_deployment(service: Service) -> None:
    replica = service.start_until_it_runs()
    service.broken = None
    check(replica)
    assert service.loads == 3
    service.deployed_at += 60
    check(replica)
    assert service.loads == 4
    assert replica.stage() == "weights 4"


def test_one_that_fails_again_after_a_deployment_refuses_with_the_new_sentence(service: Service) -> None:
    replica = service.start_until_it_runs()
    service.deployed_at += 60
    service.broken = ValueError("no such\nconfiguration")
    check(replica)
    assert [refused(replica), refused(replica)] == ["ValueError: no such configuration"] * 2
    check(replica)
    assert service.loads == 4
    found = service.failures.of(IT, deployed_at=service.deployed_at)
    assert found is not None
    assert (found.failures, found.refusing) == (1, frozenset({"r3"})), "and it is known to refuse"


def test_one_that_fails_where_another_one_works_by_now_is_replaced_and_fails_no_job(service: Service) -> None:
    """Its node lacks the files: it gave up within seconds, before the other one had read its own."""
    hole = service.start_until_it_runs()
    service.broken = None
    service.start()
    with pytest.raises(ReplicaUnavailable) as before:
        hole.stage()
    assert not isinstance(before.value, JobFailed)
    service.broken = BROKEN
    check(hole)
    loads = service.loads
    for _ in range(3):
        with pytest.raises(ReplicaUnavailable, match=f"another replica works, but not this one: {BROKEN.message}"):
            hole.check()
        with pytest.raises(ReplicaUnavailable, match="ends in the middle"):
            hole.stage()
    assert service.loads == loads
    found = service.failures.of(IT, deployed_at=service.deployed_at)
    assert found is not None
    assert (found.failures, found.refusing) == (1, frozenset()), "it is told of, and does not refuse"
    service.running.discard("r3")
    with pytest.raises(WeightsUnavailable):
        service.start()


def test_one_that_is_to_be_replaced_fails_no_job_while_the_job_store_is_away(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole = service.start_until_it_runs()
    service.broken = None
    service.start()
    service.broken = BROKEN
    check(hole)

    def gone() -> Application:
        raise OSError("no controller")

    monkeypatch.setattr(hole, "_here", Here(IT, "r3", gone, service.record, service.failures.started))
    with pytest.raises(ReplicaUnavailable):
        hole.stage()


def test_the_failure_of_a_third_one_does_not_let_the_first_refuse_again(service: Service) -> None:
    """The record has a row again, but it does not name that replica."""
    hole = service.start_until_it_runs()
    service.broken = None
    service.start()
    service.broken = BROKEN
    with pytest.raises(WeightsUnavailable):
        service.start()
    with pytest.raises(ReplicaUnavailable):
        hole.stage()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a garbage collection after each failure, which takes long in a process with many tests."""
    monkeypatch.setattr(starting, "free_memory", lambda: None)


@pytest.mark.usefixtures("quick")
def test_a_replica_that_refuses_tries_again_by_itself_ever_less_often(service: Service) -> None:
    """A passing fault, such as a disk on the network, does not last until somebody deploys again."""
    replica = service.start_until_it_runs()
    assert AGAIN_AFTER_S == (60, 120, 300, 600)
    for number, wait_s in enumerate((60, 120, 300, 600, 600, 600), 4):
        service.now += wait_s - 1
        check(replica)
        assert service.loads == number - 1
        service.broken = OSError(f"fault {number}")
        service.now += 1
        check(replica)
        assert service.loads == number
        assert refused(replica) == f"OSError: fault {number}"
        assert service.count() == number
    service.broken = None
    service.now += 600
    check(replica)
    assert replica.stage() == "weights 10"
    assert service.count() == 0
    check(replica)
    assert service.loads == 10


@pytest.mark.usefixtures("quick")
def test_a_deployment_begins_the_waits_anew(service: Service) -> None:
    replica = service.start_until_it_runs()
    for _ in range(4):
        service.now += 600
        check(replica)
    service.deployed_at += 60
    check(replica)
    assert service.loads == 8
    service.now += 60
    check(replica)
    assert service.loads == 9


def test_one_that_tries_again_goes_on_refusing_while_that_cannot_be_recorded(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = service.start_until_it_runs()

    def away(*_: object, **__: object) -> int:
        raise OSError("no job store")

    monkeypatch.setattr(service.failures, "failed", away)
    service.now += 60
    check(replica)
    assert service.loads == 4
    assert f"that {IT} could not start was not recorded" in caplog.text
    assert refused(replica) == BROKEN.message
    check(replica)


def test_one_that_cannot_follow_another_one_is_known_to_refuse(service: Service) -> None:
    """Else it would count as a replica that works."""
    replica = service.start_until_it_runs()
    service.broken = None
    service.start()
    service.running.discard("r4")
    service.broken = BROKEN
    check(replica)
    assert refused(replica) == BROKEN.message
    found = service.failures.of(IT, deployed_at=service.deployed_at)
    assert found is not None
    assert (found.failures, found.refusing) == (1, frozenset({"r3"}))


def test_a_health_check_does_not_pile_up_looks() -> None:
    class Busy:
        submitted = 0

        def run(self, work: Callable[..., Any], *args: Any) -> Any:
            return work(*args)

        def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:  # noqa: ARG002 its thread is loading
            self.submitted += 1
            return Future()

    class Full:
        def failed(self, *_: object, **__: object) -> int:
            return 3

        def record_refusal(self, *_: object) -> bool:
            return True

        def started(self, deployment: str) -> None: ...

        def of(self, *_: object, **__: object) -> None:
            return None

    @contextmanager
    def record() -> Iterator[Full]:
        yield Full()

    def load() -> str:
        raise BROKEN

    busy = Busy()
    replica = Starting(busy, load, Here(IT, "r1", lambda: Application(1.0, {}), record, lambda _: None))
    for _ in range(5):
        replica.check()
    assert busy.submitted == 1


def test_one_that_loads_while_another_gives_up_is_not_overlooked(service: Service) -> None:
    for _ in range(2):
        with pytest.raises(WeightsUnavailable):
            service.start()

    class Late(StageFailures):
        def record_refusal(self, deployment: str, replica: str) -> bool:
            self.started(deployment)  # by another replica, just now
            return super().record_refusal(deployment, replica)

    late = Late(service.failures._database)

    @contextmanager
    def record() -> Iterator[Late]:
        yield late

    with pytest.raises(WeightsUnavailable):
        service.start(record)


def test_a_job_store_out_of_reach_does_not_hide_why_a_stage_cannot_start(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def record() -> Iterator[StageFailures]:
        raise OSError("no job store")
        yield

    for _ in range(4):
        with pytest.raises(WeightsUnavailable, match="ends in the middle"):
            service.start(record)
    assert f"that {IT} could not start was not recorded" in caplog.text


def test_one_that_refuses_goes_on_while_nobody_says_otherwise(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = service.start_until_it_runs()

    def gone() -> Application:
        raise OSError("no controller")

    service.broken = None
    service.deployed_at += 60
    monkeypatch.setattr(service, "look", gone)
    monkeypatch.setattr(replica, "_here", Here(IT, "r3", gone, service.record, service.failures.started))
    assert refused(replica) == BROKEN.message


def test_a_stage_that_has_loaded_serves_even_if_that_cannot_be_recorded(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def forget(_: str) -> None:
        raise OSError("no job store")

    service.broken = None
    here = Here(IT, "r1", service.look, service.record, forget)
    assert Starting(Worker(60), service.load, here).stage() == "weights 1"
    assert f"earlier failures of {IT} could not be cleared: OSError: no job store" in caplog.text


def test_a_replica_that_refuses_holds_nothing_that_was_loaded(service: Service) -> None:
    class Weights:
        """What was loaded before the fault was found."""

    there: list[weakref.ref[Weights]] = []

    def load() -> str:
        weights = Weights()
        there.append(weakref.ref(weights))
        try:
            raise OSError("the disk")
        except OSError as error:
            raise WeightsUnavailable("m: cannot be read") from error

    service.load = load  # type: ignore[method-assign]
    replica = service.start_until_it_runs()
    assert [weights() for weights in there] == [None] * 3
    assert refused(replica) == "m: cannot be read"


def test_a_replica_may_be_the_first_to_open_a_sqlite_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "database_url", lambda: sqlite_url(tmp_path / "new" / "jobs.sqlite3"))
    forget_failures(IT)
    with open_record() as record:
        assert record.failed(IT, "reason", 1.0, deployed_at=1.0) == 1
    with open_record() as record:
        assert record.failed(IT, "reason", 1.0, deployed_at=1.0) == 2
    forget_failures(IT)
    with open_record() as record:
        assert record.all(deployed_at=1.0) == {}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BROKEN, BROKEN.message),
        (WeightsUnavailable("two\nlines"), "two lines"),
        (KeyError("a"), "KeyError: 'a'"),
        (RuntimeError("first\n  second"), "RuntimeError: first second"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_sentence_is_one_line(error: Exception, says: str) -> None:
    assert sentence_of(error) == says
