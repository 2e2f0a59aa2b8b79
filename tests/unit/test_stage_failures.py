"""The record of stages that cannot start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.database import Database
from jobs.stage_failures import REMEMBERED, StageFailure, StageFailures
from tests.unit.conftest import Jobs

DEPLOYED = 1764365000.123456789
"""As precise as a clock gives it: the time names the deployment, so that both databases must keep every digit."""


@pytest.fixture
def failures(jobs: Jobs) -> StageFailures:
    return StageFailures(jobs.database)


def test_failures_in_a_row_are_counted_until_a_replica_starts(failures: StageFailures) -> None:
    counts = [failures.failed("Denoiser-m", f"reason {at}", at, deployed_at=DEPLOYED) for at in (1.5, 2.5, 3.5)]
    assert counts == [1, 2, 3]
    assert failures.all(deployed_at=DEPLOYED) == {"Denoiser-m": StageFailure(3, "reason 3.5", 3.5, frozenset())}
    failures.started("Denoiser-m")
    assert failures.of("Denoiser-m", deployed_at=DEPLOYED) is None
    assert failures.failed("Denoiser-m", "again", 4.0, deployed_at=DEPLOYED) == 1


def test_each_deployment_has_its_own(failures: StageFailures) -> None:
    failures.failed("TextEncoder", "text", 1.0, deployed_at=DEPLOYED)
    assert failures.failed("Denoiser-m", "denoise", 1.0, deployed_at=DEPLOYED) == 1
    assert failures.record_refusal("Denoiser-m", "b")
    failures.started("TextEncoder")
    assert failures.all(deployed_at=DEPLOYED) == {"Denoiser-m": StageFailure(1, "denoise", 1.0, frozenset("b"))}


def test_those_before_the_application_was_deployed_again_do_not_count(failures: StageFailures) -> None:
    for _ in range(3):
        failures.failed("Denoiser-m", "before", 1.0, deployed_at=DEPLOYED)
    failures.record_refusal("Denoiser-m", "a")
    later = DEPLOYED + 1e-6
    assert failures.all(deployed_at=later) == {}
    assert failures.of("Denoiser-m", deployed_at=later) is None
    assert failures.failed("Denoiser-m", "after", 2.0, deployed_at=later) == 1
    assert failures.failed("Denoiser-m", "after", 3.0, deployed_at=later) == 2
    still = failures.of("Denoiser-m", deployed_at=later)
    assert still == StageFailure(2, "after", 3.0, frozenset("a")), "a replica that was not replaced still refuses"


def test_a_replica_refuses_only_where_no_other_has_started_meanwhile(failures: StageFailures) -> None:
    assert not failures.record_refusal("Denoiser-m", "a")
    failures.failed("Denoiser-m", "reason", 1.0, deployed_at=DEPLOYED)
    assert failures.record_refusal("Denoiser-m", "a")
    assert failures.record_refusal("Denoiser-m", "b")
    assert failures.record_refusal("Denoiser-m", "a")
    found = failures.of("Denoiser-m", deployed_at=DEPLOYED)
    assert found is not None
    assert found.refusing == {"a", "b"}
    failures.started("Denoiser-m")
    assert not failures.record_refusal("Denoiser-m", "c")
    assert failures.all(deployed_at=DEPLOYED) == {}


def test_a_row_does_not_grow_with_every_replica_that_there_ever_was(failures: StageFailures) -> None:
    failures.failed("Denoiser-m", "reason", 1.0, deployed_at=DEPLOYED)
    for number in range(REMEMBERED + 5):
        failures.record_refusal("Denoiser-m", str(number))
    found = failures.of("Denoiser-m", deployed_at=DEPLOYED)
    assert found is not None
    assert len(found.refusing) == REMEMBERED
    assert found.refusing >= {"5", str(REMEMBERED + 4)}


def test_replicas_that_fail_at_once_are_all_counted(database: str) -> None:
    opened = [Database(database) for _ in range(8)]

    def fail(number: int) -> tuple[int, bool]:
        failures = StageFailures(opened[number])
        count = failures.failed("Denoiser-m", "reason", float(number), deployed_at=DEPLOYED)
        return count, failures.record_refusal("Denoiser-m", str(number))

    with ThreadPoolExecutor(8) as pool:
        counts, refuse = zip(*pool.map(fail, range(8)), strict=True)
    found = StageFailures(opened[0]).of("Denoiser-m", deployed_at=DEPLOYED)
    for each in opened:
        each.close()
    assert sorted(counts) == list(range(1, 9))
    assert all(refuse)
    assert found is not None
    assert found.refusing == set("01234567")
