"""The commits to which hub repositories are pinned."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from jobs.database import Database
from jobs.pins import Pins
from tests.unit.conftest import Jobs

ONE, TWO = "1" * 40, "2" * 40


def never() -> str:
    raise AssertionError("the hub must not be asked")


@pytest.fixture
def pins(jobs: Jobs) -> Pins:
    return Pins(jobs.database)


def test_the_first_answer_is_recorded_and_the_hub_is_not_asked_again(pins: Pins) -> None:
    before = time.time()
    assert pins.pinned("maker/model", "main", lambda: ONE) == ONE
    assert pins.pinned("maker/model", "main", never) == ONE
    assert pins.pinned("maker/model", None, never) == ONE, "a card that names no revision means main"
    [((repo, revision), pin)] = pins.all().items()
    assert (repo, revision, pin.commit) == ("maker/model", "main", ONE)
    assert before <= pin.pinned_at <= time.time()


def test_each_revision_of_each_repository_has_its_own(pins: Pins) -> None:
    assert pins.pinned("maker/model", None, lambda: ONE) == ONE
    assert pins.pinned("maker/model", "fp8", lambda: TWO) == TWO
    assert pins.pinned("maker/other", None, lambda: TWO) == TWO
    assert set(pins.all()) == {("maker/model", "main"), ("maker/model", "fp8"), ("maker/other", "main")}


def test_an_error_of_the_hub_pins_nothing(pins: Pins) -> None:
    with pytest.raises(AssertionError):
        pins.pinned("maker/model", "main", never)
    assert pins.all() == {}


def test_a_pin_moves_when_it_is_told_to(pins: Pins) -> None:
    pins.pinned("maker/other", "main", lambda: ONE)
    assert pins.move("maker/model", None, ONE) is None
    first = pins.all()["maker/model", "main"]
    assert pins.move("maker/model", "main", TWO) == ONE
    assert pins.pinned("maker/model", "main", never) == TWO
    assert pins.all()["maker/model", "main"].pinned_at > first.pinned_at
    assert pins.all()["maker/other", "main"].commit == ONE


def test_replicas_that_ask_at_once_get_the_same(database: str) -> None:
    opened = [Database(database) for _ in range(8)]
    everybody = Barrier(8, timeout=30)

    def ask(number: int) -> str:
        def resolve() -> str:
            everybody.wait()  # none has recorded its answer before all have asked
            return str(number) * 40

        return Pins(opened[number]).pinned("maker/model", "main", resolve)

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(8)))
    stored = Pins(opened[0]).all()["maker/model", "main"].commit
    for each in opened:
        each.close()
    assert answers == {stored}
