"""When a conductor takes over the jobs of another."""

from __future__ import annotations

import pytest

from deployments.orchestration.takeover_guard import Expiries


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def expiries(clock: Clock) -> Expiries:
    """With leases of 15 s, which are renewed every 5 s, and have been for a while."""
    expiries = Expiries(15.0, clock)
    renew(expiries, clock, 3)
    return expiries


def renew(expiries: Expiries, clock: Clock, times: int) -> list[bool]:
    """Whether expiries are trusted after each renewal."""
    trusted = []
    for _ in range(times):
        clock.now += 5.0
        expiries.renewed()
        trusted.append(expiries.trusted())
    return trusted


def test_who_renews_in_time_believes_that_a_lease_has_run_out(clock: Clock, expiries: Expiries) -> None:
    assert expiries.trusted()
    clock.now += 9.0
    assert expiries.trusted()


def test_a_new_conductor_waits_until_others_can_have_renewed(clock: Clock) -> None:
    expiries = Expiries(15.0, clock)
    assert renew(expiries, clock, 2) == [False, True]


def test_after_an_outage_others_get_one_lease_to_renew_theirs(clock: Clock, expiries: Expiries) -> None:
    clock.now += 10.0
    assert not expiries.trusted(), "also before the first renewal after it"
    expiries.renewed()
    assert renew(expiries, clock, 3) == [False, False, True]


def test_a_renewal_that_failed_is_an_outage_however_short(clock: Clock, expiries: Expiries) -> None:
    clock.now += 2.0
    expiries.not_renewed()
    assert renew(expiries, clock, 3) == [False, False, True]
