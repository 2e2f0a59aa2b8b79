"""The order of the queue: classes, ageing, fairness. The bound of jobs/priority.py is tested as it is stated there."""

from __future__ import annotations

import random

import pytest

from jobs.priority import AGEING_S, Priority
from tests.unit.conftest import Jobs

WORK_S = 12.5  # what a job costs before anything was measured


def claim_and_finish(jobs: Jobs) -> str:
    job, token = jobs.take()
    jobs.complete(token)
    return job.id


def test_a_higher_class_goes_first(jobs: Jobs) -> None:
    rising = [jobs.accept(priority=each).id for each in reversed(Priority)]
    assert [claim_and_finish(jobs) for _ in range(3)] == rising[::-1]


def test_keys_take_turns_inside_a_class(jobs: Jobs) -> None:
    many = [jobs.accept(api_key="many").id for _ in range(6)]
    few = [jobs.accept(api_key="few").id for _ in range(2)]
    order = [claim_and_finish(jobs) for _ in range(8)]
    assert [order.index(each) for each in few] == [1, 3], "a late key does not wait for the whole of another's backlog"
    assert [each for each in order if each in many] == many


def test_a_key_that_was_away_gets_no_credit_for_it(jobs: Jobs) -> None:
    for _ in range(5):
        jobs.accept(api_key="busy")
    for _ in range(5):
        claim_and_finish(jobs)
    jobs.accept(api_key="busy")
    jobs.take()
    late = [jobs.accept(api_key="back").id for _ in range(4)]
    busy = [jobs.accept(api_key="busy").id for _ in range(4)]
    next_four = [claim_and_finish(jobs) for _ in range(4)]
    served = {"back": sum(each in late for each in next_four), "busy": 1 + sum(each in busy for each in next_four)}
    assert abs(served["back"] - served["busy"]) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_no_flow_one_class_higher_goes_first_for_longer_than_the_bound(jobs: Jobs, seed: int) -> None:
    """A flood that never ends: the flow one class higher always has more waiting."""
    chance = random.Random(seed)
    flooding, waiting = [Priority.HIGH, Priority.NORMAL], [Priority.NORMAL, Priority.LOW]
    pick = chance.randrange(2)
    for _ in range(chance.randrange(1, 5)):
        jobs.accept(api_key="flood", priority=flooding[pick])
    first_of_its_flow = jobs.accept(api_key="patient", priority=waiting[pick]).id
    ahead_s = 0.0
    while True:
        for _ in range(2):
            jobs.accept(api_key="flood", priority=flooding[pick])
        job, token = jobs.take()
        if job.id == first_of_its_flow:
            break
        if job.api_key == "flood":
            ahead_s += job.cost_s
        jobs.complete(token)
        assert ahead_s <= AGEING_S + WORK_S
    assert ahead_s > AGEING_S / 2, "the flood did go first"


def test_while_nothing_runs_the_clock_is_at_the_head_of_the_queue(jobs: Jobs) -> None:
    postponed, requeued = (jobs.accept(api_key="a") for _ in range(2))
    tokens = [jobs.take()[1] for _ in range(2)]
    assert jobs.leases.release(tokens[0], for_s=60.0)
    assert jobs.leases.release(tokens[1])
    assert jobs.accept(api_key="b").fair_start == requeued.fair_start > postponed.fair_start
