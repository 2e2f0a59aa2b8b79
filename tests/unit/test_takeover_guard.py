"""When a conductor takes over the jobs of another."""

from __future__ import annotations

import pytest

from deployments.orchestration.takeover_guard import TakeoverGuard


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def takeover_guard(clock: Clock) -> TakeoverGuard:
    """With leases of 15 s, which are renewed every 5 s, and have been for a while."""
    takeover_guard = TakeoverGuard(15.0, clock)
    renew(takeover_guard, clock, 3)
    return takeover_guard


def renew(takeover_guard: TakeoverGuard, clock: Clock, times: int) -> list[bool]:
    """Whether takeover_guard are trusted after each renewal."""
    trusted = []
    for _ in range(times):
        clock.now += 5.0
        takeover_guard.renewed()
        trusted.append(takeover_guard.trusted())
    return trusted


def test_who_renews_in_time_believes_that_a_lease_has_run_out(clock: Clock, takeover_guard: TakeoverGuard) -> None:
    assert takeover_guard.trusted()
    clock.now += 9.0
    assert takeover_guard.trusted()


def test_a_new_conductor_waits_until_others_can_have_renewed(clock: Clock) -> None:
    takeover_guard = TakeoverGuard(15.0, clock)
    assert renew(takeover_guard, clock, 2) == [False, True]


def test_after_an_outage_others_get_one_lease_to_renew_theirs(clock: Clock, takeover_guard: TakeoverGuard) -> None:
    clock.now += 10.0
    assert not takeover_guard.trusted(), "also before the first renewal after it"
    takeover_guard.renewed()
    assert renew(takeover_guard, clock, 3) == [False, False, True]


def test_a_renewal_that_failed_is_an_outage_however_short(clock: Clock, takeover_guard: TakeoverGuard) -> None:
    clock.now += 2.0
    takeover_guard.not_renewed()
    assert renew(takeover_guard, clock, 3) == [False, False, True]
