"""When a conductor takes over the jobs of another."""

from __future__ import annotations

from deployments.expiries import Expiries


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_renews_in_time_believes_that_a_lease_has_run_out() -> None:
    expiries = Expiries(15.0, clock := Clock())
    for _ in range(5):
        assert expiries.trusted()
        clock.now += 5.0
        expiries.renewed()


def test_after_an_outage_others_get_one_lease_to_renew_theirs() -> None:
    expiries = Expiries(15.0, clock := Clock())
    clock.now += 10.0
    assert not expiries.trusted(), "also before the first renewal after it"
    expiries.renewed()
    assert not expiries.trusted()
    clock.now += 5.0
    expiries.renewed()
    clock.now += 5.0
    expiries.renewed()
    assert not expiries.trusted()
    clock.now += 5.0
    assert expiries.trusted()
