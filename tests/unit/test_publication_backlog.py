"""The bound on what a conductor has rendered and not stored."""

from __future__ import annotations

import logging

import pytest

from deployments import metrics
from deployments.orchestration.publication_backlog import PublicationBacklog


class Gauge:
    def __init__(self) -> None:
        self.value: float | None = None

    def set(self, value: float) -> None:
        self.value = value


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> tuple[Gauge, Gauge]:
    found = Gauge(), Gauge()
    monkeypatch.setattr(metrics, "unpublished_jobs", lambda: found[0])
    monkeypatch.setattr(metrics, "unpublished_bytes", lambda: found[1])
    return found


@pytest.mark.parametrize("full", [[1, 1, 1], [60, 40]], ids=["jobs", "bytes"])
def test_so_many_videos_or_bytes_are_the_bound_and_it_drains_by_itself(
    full: list[int], gauges: tuple[Gauge, Gauge]
) -> None:
    waiting: list[int] = []
    backlog = PublicationBacklog(lambda: waiting, max_jobs=3, max_bytes=100)
    assert not backlog.is_full()
    for size in full:
        assert not backlog.is_full()
        waiting.append(size)
    assert backlog.is_full()
    assert [each.value for each in gauges] == [len(full), sum(full)]
    waiting.pop()
    assert not backlog.is_full()
    assert [each.value for each in gauges] == [len(full) - 1, sum(full[:-1])]


@pytest.mark.usefixtures("gauges")
def test_it_says_once_that_it_is_full_and_once_that_it_is_not(caplog: pytest.LogCaptureFixture) -> None:
    waiting = [1]
    backlog = PublicationBacklog(lambda: waiting, max_jobs=1, max_bytes=100)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            backlog.is_full()
        assert len(caplog.records) == 1
        waiting.clear()
        for _ in range(3):
            backlog.is_full()
    assert ["wait to be decoded and stored" in each.message for each in caplog.records] == [True, False]
