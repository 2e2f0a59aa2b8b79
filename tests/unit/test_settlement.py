"""What becomes of a job when its run has ended in one way or another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from sqlalchemy.exc import OperationalError

from deployments.orchestration.lease import LeaseLost
from deployments.orchestration.settlement import REPLICA_DELAY_S, STORAGE_DELAY_S, Settlement
from jobs.leases import Rendered
from jobs.lifecycle import Status
from jobs.stored import ResultMetadata
from pipelines.errors import InvalidRequest, JobFailed, OutOfMemory, ReplicaUnavailable
from storage.errors import StorageUnavailable
from tests.unit.conftest import new_job

TOKEN = "t1"


@dataclass
class Leases:
    """Notes what is written; a lease that is `lost` is no longer valid."""

    lost: bool = False
    unreachable: int = 0  # how often before it answers
    written: list[tuple[object, ...]] = field(default_factory=list)

    def _write(self, *what: object) -> bool:
        if self.unreachable:
            self.unreachable -= 1
            raise OperationalError("", {}, OSError())
        self.written.append(what)
        return not self.lost

    def release(self, token: str, for_s: float = 0.0) -> bool:
        assert token == TOKEN
        return self._write("release", for_s)

    def fail(self, token: str, code: str, message: str) -> bool:
        assert token == TOKEN
        return self._write("fail", code, message)

    def retry(self, token: str, attempt: int, message: str, max_attempts: int) -> Status | None:
        assert token == TOKEN
        if not self._write("retry", attempt, message):
            return None
        return Status.FAILED if attempt >= max_attempts else Status.QUEUED


@dataclass
class Completions:
    leases: Leases

    async def written(self, token: str, value: Rendered) -> bool:
        assert token == TOKEN
        return self.leases._write("complete", value)


@dataclass
class Run:
    stage_seconds: dict[str, float] = field(default_factory=lambda: {"denoise": 2.0})
    result_metadata: ResultMetadata = field(default_factory=lambda: ResultMetadata(frames=9))
    partial_stages: frozenset[str] = frozenset({"decode"})


def from_a_replica(error: Exception) -> BaseException:
    """What the caller of a replica gets, an error of two classes."""
    wrapped: BaseException = RayTaskError("run", "", error).as_instanceof_cause()
    return wrapped


def settle(
    leases: Leases, error: BaseException | None, *, attempt: int = 1, stopped: Callable[[], bool] = lambda: False
) -> str | None:
    async def run() -> str | None:
        async def ends() -> None:
            if error is not None:
                raise error

        running = asyncio.create_task(ends())
        await asyncio.wait([running])
        job = new_job(attempts=attempt)
        return await Settlement(leases, Completions(leases), 3, stopped).settle(job, TOKEN, Run(), running)

    return asyncio.run(run())


def test_a_run_without_an_error_completes_its_job_with_what_it_measured() -> None:
    leases = Leases()
    assert settle(leases, None) == "completed"
    assert leases.written == [("complete", Rendered({"denoise": 2.0}, ResultMetadata(frames=9), frozenset({"decode"})))]


def test_an_aborted_run_goes_on_elsewhere_at_once() -> None:
    leases = Leases()
    assert settle(leases, asyncio.CancelledError()) == "released"
    assert leases.written == [("release", 0.0)]


@pytest.mark.parametrize("wrapped", [True, False], ids=["on a replica", "here"])
@pytest.mark.parametrize("error", [JobFailed("no weights", code="weights_unavailable"), InvalidRequest("too wide")])
def test_what_can_never_succeed_fails_with_its_own_code(error: JobFailed | InvalidRequest, wrapped: bool) -> None:
    leases = Leases()
    assert settle(leases, from_a_replica(error) if wrapped else error) == "failed"
    assert leases.written == [("fail", error.code, error.message)]


def test_a_job_whose_files_cannot_be_read_waits_and_keeps_its_attempt() -> None:
    delays = set()
    for _ in range(20):
        leases = Leases()
        assert settle(leases, from_a_replica(StorageUnavailable("away"))) == "postponed"
        ((what, delay),) = leases.written
        assert what == "release"
        assert isinstance(delay, float)
        delays.add(delay)
    assert STORAGE_DELAY_S / 2 <= min(delays) < max(delays) <= STORAGE_DELAY_S * 1.5, "not all at the same time"


def test_a_replica_without_weights_costs_no_attempt() -> None:
    delays = set()
    for _ in range(20):
        leases = Leases()
        assert settle(leases, from_a_replica(ReplicaUnavailable("no such file"))) == "postponed"
        ((what, delay),) = leases.written
        assert what == "release"
        assert isinstance(delay, float)
        delays.add(delay)
    assert REPLICA_DELAY_S / 2 <= min(delays) < max(delays) <= REPLICA_DELAY_S * 1.5


@pytest.mark.parametrize(("attempt", "outcome"), [(1, "retried"), (2, "retried"), (3, "failed")])
def test_memory_that_ran_out_costs_an_attempt_and_the_last_one_says_what_to_do(attempt: int, outcome: str) -> None:
    leases, error = Leases(), OutOfMemory("decode ran out of memory: ask for fewer frames")
    assert settle(leases, from_a_replica(error), attempt=attempt) == outcome
    (written,) = leases.written
    if outcome == "retried":
        assert written[:2] == ("retry", attempt)
    else:
        assert written == ("fail", "out_of_memory", "decode ran out of memory: ask for fewer frames")


@pytest.mark.parametrize(("attempt", "outcome"), [(1, "retried"), (2, "retried"), (3, "failed")])
def test_a_fault_costs_an_attempt_and_the_last_one_the_job(attempt: int, outcome: str) -> None:
    leases = Leases()
    assert settle(leases, ActorDiedError(), attempt=attempt) == outcome
    ((what, counted, message),) = leases.written
    assert (what, counted) == ("retry", attempt)
    assert message == f"the video could not be rendered in {attempt} attempts; the last one ended with ActorDiedError"


def test_the_message_names_the_stages_own_error() -> None:
    leases = Leases()
    settle(leases, from_a_replica(MemoryError("a prompt might be in here")))
    assert str(leases.written[0][2]).endswith("ended with MemoryError"), "and does not repeat what it says"


def test_nothing_is_written_for_a_run_that_found_its_lease_lost() -> None:
    leases = Leases()
    assert settle(leases, LeaseLost()) is None
    assert leases.written == []


@pytest.mark.parametrize(
    "error",
    [None, asyncio.CancelledError(), JobFailed("x"), StorageUnavailable("x"), ActorDiedError()],
    ids=["completed", "aborted", "failed", "postponed", "retried"],
)
def test_a_lease_that_another_has_meanwhile_settles_nothing(error: BaseException | None) -> None:
    assert settle(Leases(lost=True), error) is None


def test_a_write_is_repeated_until_the_store_answers_unless_the_conductor_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(_: float) -> None: ...

    monkeypatch.setattr("deployments.background.asyncio.sleep", at_once)
    leases = Leases(unreachable=3)
    assert settle(leases, ActorDiedError()) == "retried"
    assert len(leases.written) == 1
    with pytest.raises(OperationalError):
        settle(Leases(unreachable=1), ActorDiedError(), stopped=lambda: True)
