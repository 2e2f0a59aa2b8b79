"""A conductor's heartbeat: what it renews, what it lets go of, and when it takes others for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from sqlalchemy.exc import OperationalError

from deployments import metrics
from deployments.orchestration.renewal import Renewal
from deployments.orchestration.takeover_guard import TakeoverGuard
from jobs.record import Job
from tests.unit.conftest import new_job

LEASE_S = 15.0


@dataclass
class Leases:
    valid: set[str]
    spent: list[Job] = field(default_factory=list)
    unreachable: bool = False
    asked: list[str] = field(default_factory=list)

    def renew(self, tokens: Collection[str], lease_s: float) -> set[str]:
        if self.unreachable:
            raise OperationalError("", {}, OSError())
        self.asked.append(f"renew {sorted(tokens)} for {lease_s:g}")
        return self.valid & set(tokens)

    def held(self, tokens: Collection[str]) -> set[str]:
        if self.unreachable:
            raise OperationalError("", {}, OSError())
        self.asked.append(f"held {sorted(tokens)}")
        return self.valid & set(tokens)

    def fail_spent(self, max_attempts: int, message: str) -> list[Job]:
        self.asked.append(f"fail spent after {max_attempts}: {message}")
        return self.spent


class World:
    """A conductor that holds two jobs, and a clock."""

    def __init__(self, leases: Leases) -> None:
        self.now = 0.0
        self.leases = leases
        self.held = ["a", "b"]
        self.lost: list[str] = []
        self.renewal = Renewal(
            leases,
            TakeoverGuard(LEASE_S, clock=lambda: self.now),
            lease_s=LEASE_S,
            max_attempts=3,
            held=lambda: self.held,
            on_lost=self.lost.append,
        )

    def renew(self, after_s: float = LEASE_S / 3) -> list[str]:
        """Renew after some seconds; returns what the store was asked."""
        self.now += after_s
        self.leases.asked.clear()
        asyncio.run(self.renewal.renew())
        return list(self.leases.asked)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    seen: list[dict[str, str]] = []

    class Counter:
        def inc(self, _: float, labels: dict[str, str]) -> None:
            seen.append(labels)

    monkeypatch.setattr(metrics, "jobs_total", Counter)
    return seen


def test_it_renews_what_the_conductor_holds_and_lets_go_of_what_is_lost() -> None:
    world = World(Leases(valid={"b"}))
    world.renew()
    assert world.leases.asked[0] == "renew ['a', 'b'] for 15"
    assert world.lost == ["a"]


def test_between_renewals_it_asks_what_was_canceled_and_renews_nothing() -> None:
    world = World(Leases(valid={"b"}))
    asyncio.run(world.renewal.check())
    assert (world.leases.asked, world.lost) == (["held ['a', 'b']"], ["a"])
    world.held.clear()
    asyncio.run(world.renewal.check())
    assert len(world.leases.asked) == 1, "there is nothing to ask about"


def test_a_check_that_finds_no_store_gives_up_nothing() -> None:
    world = World(Leases(valid=set(), unreachable=True))
    asyncio.run(world.renewal.check())
    assert world.lost == []


def test_jobs_whose_conductor_took_their_last_attempt_with_it_are_failed(counted: list[dict[str, str]]) -> None:
    world = World(Leases(valid={"a", "b"}, spent=[new_job(attempts=3)]))
    world.renew()
    asked = world.renew(after_s=2 * LEASE_S / 3 - 1)
    assert len(asked) == 2
    assert asked[1].startswith("fail spent after 3: the video could not be rendered in 3 attempts")
    assert counted == [{"model": "m", "outcome": "failed"}]


def test_after_an_outage_nobody_is_taken_for_dead_for_the_time_of_one_lease() -> None:
    leases = Leases(valid={"a", "b"})
    world = World(leases)
    for _ in range(3):
        world.renew()
    leases.unreachable = True
    with pytest.raises(OperationalError):
        world.renew()
    leases.unreachable = False
    assert [len(world.renew()) for _ in range(4)] == [1, 1, 1, 2], "one lease after the first that succeeds"


def test_an_outage_that_was_shorter_than_a_renewal_counts_too() -> None:
    leases = Leases(valid={"a", "b"})
    world = World(leases)
    for _ in range(3):
        world.renew()
    leases.unreachable = True
    with pytest.raises(OperationalError):
        world.renew(after_s=1)
    leases.unreachable = False
    assert [len(world.renew(after_s=each)) for each in (1, 5, 5, 5)] == [1, 1, 1, 2]


def test_a_conductor_that_was_itself_too_late_trusts_nothing_either() -> None:
    world = World(Leases(valid={"a", "b"}))
    for _ in range(3):
        world.renew()
    assert len(world.renew(after_s=LEASE_S)) == 1
    assert [len(world.renew()) for _ in range(3)] == [1, 1, 2]
