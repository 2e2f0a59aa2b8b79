"""The smallest form of `make bench-load`: two API replicas under more than they take. It holds no figure."""

from __future__ import annotations

import pytest

from benchmarks.load.__main__ import measure
from benchmarks.load.world import run_world
from benchmarks.scale.row import Row


@pytest.mark.long
def test_a_flood_is_refused_and_nothing_that_was_accepted_is_lost() -> None:
    with run_world("sqlite") as world:
        rows = {row.what: row for row in measure(world, 3.0)}
    assert rows["answered with 200 and not stored"].good
    for what in ("POST at half that rate", "GET at half that rate"):
        assert answered(rows[what]) == {"200"}, rows[what]
    assert answered(rows["POST at four times that rate"]) <= {"200", "overloaded"}


def answered(row: Row) -> set[str]:
    """The kinds of answers that a row counts."""
    return {each.split()[1] for each in row.measured.rpartition("; ")[2].split(", ")}
