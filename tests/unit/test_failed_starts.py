"""What a probe learns of failed starts while the job store is slow or away."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from deployments.http.failed_starts import FailedStarts
from jobs.stage_failures import StageFailure

BROKEN = {"Denoiser-m": StageFailure(3, "the file is broken", 1.0, frozenset({"r1"}))}
PATIENCE_S = 30


class Store:
    """A job store that can hang, or be away."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.rows: Mapping[str, StageFailure] = BROKEN
        self.reads: list[float] = []

    def all(self, *, deployed_at: float) -> Mapping[str, StageFailure]:
        self.reads.append(deployed_at)
        assert self.answers.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return self.rows


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.answers.set()


def test_each_answer_of_the_store_is_used(store: Store) -> None:
    known = FailedStarts(store)
    assert known.all(deployed_at=1.0) == BROKEN
    store.rows = {}
    assert known.all(deployed_at=1.0) == {}
    assert store.reads == [1.0, 1.0]


@pytest.mark.parametrize("away", [True, False], ids=["away", "hangs"])
def test_without_an_answer_what_was_known_holds_for_the_same_deployment(store: Store, away: bool) -> None:
    known = FailedStarts(store, deadline_s=PATIENCE_S if away else 0.05)
    assert known.all(deployed_at=1.0) == BROKEN
    if away:
        store.error = OperationalError("", {}, OSError())
    else:
        store.answers.clear()
    assert known.all(deployed_at=1.0) == BROKEN
    assert known.all(deployed_at=2.0) == {}
    assert known.all(deployed_at=1.0) == BROKEN


def test_a_store_that_has_never_answered_says_nothing(store: Store) -> None:
    store.answers.clear()
    assert FailedStarts(store, deadline_s=0.05).all(deployed_at=1.0) == {}


def test_a_store_that_hangs_is_asked_once_however_many_probe(store: Store) -> None:
    store.answers.clear()
    known = FailedStarts(store, deadline_s=0.05)
    with ThreadPoolExecutor(8) as probes:
        assert list(probes.map(lambda _: known.all(deployed_at=1.0), range(16))) == [{}] * 16
    assert store.reads == [1.0]

    store.answers.set()
    assert known._reading is not None
    known._reading.result(PATIENCE_S)
    store.rows = {}
    assert known.all(deployed_at=1.0) == {}, "then it is asked again"
    assert store.reads == [1.0, 1.0]


def test_an_answer_that_comes_too_late_for_one_probe_is_there_for_the_next(store: Store) -> None:
    store.answers.clear()
    known = FailedStarts(store, deadline_s=0.05)
    assert known.all(deployed_at=1.0) == {}
    known._last_at -= 100
    store.answers.set()
    assert known._reading is not None
    known._reading.result(PATIENCE_S)
    assert known.age_s < 100
    store.answers.clear()
    assert known.all(deployed_at=1.0) == BROKEN


def test_a_mistake_is_not_taken_for_a_store_that_is_away(store: Store) -> None:
    store.error = ValueError("a column is missing")
    with pytest.raises(ValueError, match="a column"):
        FailedStarts(store).all(deployed_at=1.0)
