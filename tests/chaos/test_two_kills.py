"""The short proof by killing, on SQLite: `make chaos` kills more, under more load, on PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from pipelines.stages import Stage
from tests.harness.chaos.rounds import conductor, denoiser
from tests.harness.chaos.scene import Blow, Row, Scene, set_up
from tests.harness.chaos.world import run_world

SEED, IN_FLIGHT = 3, 6


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with run_world() as world, set_up(world, random.Random(SEED), IN_FLIGHT) as scene:
        yield scene


@pytest.mark.long
@pytest.mark.parametrize("strike", [denoiser, conductor])
def test_every_accepted_job_is_completed_once_whatever_is_killed(scene: Scene, strike: Callable[[Scene], Blow]) -> None:
    row = scene.run(strike.__name__, strike)
    assert row.verdict.problems == []
    assert row.verdict.completed == row.verdict.equal == row.verdict.accepted >= IN_FLIGHT
    assert_it_hit(row)


def assert_it_hit(row: Row) -> None:
    """The blow cost somebody an attempt: it did not merely miss."""
    assert any(each.stage is Stage.DENOISE and each.step for each in row.blow.held)
    assert max(row.verdict.attempts) == 2
