"""The rules of `jobs/allocation.py`, without a database: who gets a free denoiser, and who is preempted."""

from __future__ import annotations

import pytest

from jobs.allocation import Assignment, DenoisingJob, EncodedJob, UrgentJob, assign_free_denoisers, choose_victims
from jobs.priority import Priority

AFTER_S = 50.0


def encoded(name: str, replica: str | None = None, leased: bool = True) -> EncodedJob:
    """A job under lease `name`."""
    return EncodedJob(f"video_{name}", name, replica, leased)


def assign(
    jobs: list[EncodedJob], denoisers: list[str], tokens: set[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The new assignments, as leases and replicas, and the caller's answer."""
    given, answer = assign_free_denoisers(jobs, denoisers, tokens)
    assert given == [Assignment(f"video_{each.lease_token}", each.lease_token, each.replica) for each in given]
    return [(each.lease_token, each.replica) for each in given], answer


def test_free_denoisers_go_to_waiting_jobs_in_order_of_turn() -> None:
    jobs = [encoded("z"), encoded("works", "d1"), encoded("a"), encoded("m")]
    assert assign(jobs, ["d1", "d2", "d3"], {"z", "a", "m"}) == ([("z", "d2"), ("a", "d3")], {"z": "d2", "a": "d3"})


def test_denoisers_are_assigned_in_the_given_order() -> None:
    given, _ = assign([encoded("a"), encoded("b")], ["d3", "d1", "d2"], {"a", "b"})
    assert given == [("a", "d3"), ("b", "d1")]


def test_a_conductor_is_told_of_its_own_jobs_only() -> None:
    assert assign([encoded("theirs"), encoded("mine")], ["d1", "d2"], {"mine"}) == (
        [("theirs", "d1"), ("mine", "d2")],
        {"mine": "d2"},
    )


def test_a_job_whose_replica_vanished_waits_again() -> None:
    assert assign([encoded("a", "gone"), encoded("b")], ["d1"], {"a", "b"}) == ([("a", "d1")], {"a": "d1"})


def test_another_conductors_job_keeps_a_replica_that_vanished_until_that_conductor_asks() -> None:
    assert assign([encoded("theirs", "gone"), encoded("mine")], ["d1"], {"mine"}) == ([("mine", "d1")], {"mine": "d1"})


def test_a_job_whose_answer_was_lost_is_given_the_same_replica() -> None:
    assert assign([encoded("b"), encoded("a", "d1")], ["d1", "d2"], {"a"}) == ([("b", "d2")], {"a": "d1"})


@pytest.mark.parametrize(("leased", "given"), [(False, [("mine", "d1")]), (True, [("theirs", "d1")])])
def test_another_conductors_job_with_an_expired_lease_gets_nothing(leased: bool, given: list[tuple[str, str]]) -> None:
    jobs = [encoded("theirs", leased=leased), encoded("mine")]
    assert assign(jobs, ["d1"], {"mine"})[0] == given


def test_the_callers_own_job_is_served_though_its_lease_has_just_expired() -> None:
    assert assign([encoded("mine", leased=False)], ["d1"], {"mine"})[1] == {"mine": "d1"}


def test_no_replica_is_given_twice() -> None:
    jobs = [encoded("dead", "d1", leased=False), encoded("a"), encoded("lost", "d2"), encoded("b"), encoded("c")]
    given, answer = assign(jobs, ["d1", "d2", "d3", "d4"], {"a", "lost", "b", "c"})
    assert given == [("a", "d3"), ("b", "d4")], "one whose conductor is dead still works"
    assert answer == {"a": "d3", "lost": "d2", "b": "d4"}


def denoising(name: str, priority: Priority = Priority.LOW, turn: float = 100.0, left_s: float = 600.0) -> DenoisingJob:
    """A job under lease `name`."""
    return DenoisingJob(f"video_{name}", name, priority, turn, left_s)


def urgent(priority: Priority = Priority.HIGH, turn: float = 0.0, waited: float = 1.0) -> UrgentJob:
    """A job that has waited so many times `AFTER_S`."""
    return UrgentJob(priority, turn, waited * AFTER_S)


def victims(jobs: list[DenoisingJob], waiting: list[UrgentJob], denoisers: int | None = None) -> set[str]:
    return choose_victims(jobs, waiting, len(jobs) if denoisers is None else denoisers, AFTER_S)


def test_only_a_job_of_a_lower_class_is_preempted_and_the_lowest_first() -> None:
    jobs = [denoising("high", Priority.HIGH), denoising("normal", Priority.NORMAL), denoising("low", Priority.LOW)]
    assert victims(jobs, [urgent()]) == {"low"}
    assert victims(jobs, [urgent()] * 3) == {"low", "normal"}
    assert victims(jobs, [urgent(Priority.NORMAL)] * 3) == {"low"}
    assert victims(jobs, [urgent(Priority.LOW)] * 3) == set()


def test_the_last_turn_of_a_class_is_preempted_first() -> None:
    jobs = [denoising("first", turn=100), denoising("last", turn=300), denoising("middle", turn=200)]
    assert victims(jobs, [urgent()]) == {"last"}
    assert victims(jobs, [urgent()] * 2) == {"last", "middle"}
    same = [denoising("a"), denoising("c"), denoising("b")]
    assert victims(same, [urgent()]) == {"c"}, "every conductor chooses the same, by id"


def test_a_job_whose_turn_comes_first_is_not_preempted() -> None:
    jobs = [denoising("aged", turn=100.0)]
    assert victims(jobs, [urgent(turn=99.9)]) == {"aged"}
    assert victims(jobs, [urgent(turn=100.0)]) == set()


def test_a_job_about_to_finish_is_not_preempted() -> None:
    jobs = [denoising("nearly", left_s=AFTER_S - 1), denoising("long", Priority.NORMAL, left_s=AFTER_S)]
    assert victims(jobs, [urgent()] * 2) == {"long"}


@pytest.mark.parametrize(
    ("waited", "left_s", "preempted"), [(2.9, 49.0, False), (3.0, 49.0, True), (3.0, 1.0, True), (3.0, 0.9, False)]
)
def test_an_estimate_is_doubted_after_three_times_the_wait(waited: float, left_s: float, preempted: bool) -> None:
    assert victims([denoising("nearly", left_s=left_s)], [urgent(waited=waited)]) == (
        {"nearly"} if preempted else set()
    )


def test_each_waiting_job_preempts_one() -> None:
    jobs = [denoising(name) for name in "abc"]
    assert [len(victims(jobs, [urgent()] * waiting)) for waiting in range(5)] == [0, 1, 2, 3, 3]


def test_nobody_is_preempted_while_free_denoisers_suffice() -> None:
    jobs = [denoising(name) for name in "abc"]
    assert [len(victims(jobs, [urgent()] * 2, denoisers)) for denoisers in (3, 4, 5, 6)] == [2, 1, 0, 0]


def test_the_first_turns_get_the_free_denoisers() -> None:
    job = denoising("low", turn=100.0)
    assert victims([job], [urgent(turn=0.0), urgent(turn=200.0)], 2) == set(), "the second has a later turn"
    assert victims([job], [urgent(turn=0.0), urgent(turn=50.0)], 2) == {"low"}


def test_no_more_are_preempted_than_there_are_denoisers() -> None:
    jobs = [denoising(name) for name in "abc"]  # two of their replicas take no calls any more
    assert [len(victims(jobs, [urgent()] * 3, denoisers)) for denoisers in (1, 0)] == [1, 0]
