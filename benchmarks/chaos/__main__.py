"""`python -m benchmarks.chaos [WORD ...]`: all rounds, or those with a word in their name; exit 1 when one fails."""

from __future__ import annotations

import random
import signal
import sys
from typing import NoReturn

from benchmarks.chaos.report import line, table
from tests.harness.chaos.postgres import run_mortal_postgres
from tests.harness.chaos.rounds import ROUNDS
from tests.harness.chaos.scene import set_up
from tests.harness.chaos.verdict import wait_until_ended
from tests.harness.chaos.world import run_world

SEED, IN_FLIGHT = 20, 40


def main() -> None:
    """Print each round as it ends, then the table."""
    for each in (signal.SIGINT, signal.SIGTERM):  # whoever stops this leaves no service and no database behind
        signal.signal(each, _stop)
    words = sys.argv[1:]
    chosen = [(name, strike) for name, strike in ROUNDS if not words or any(word in name for word in words)]
    rows, undone = [], []
    with (
        run_mortal_postgres() as postgres,
        run_world(postgres.url) as world,
        set_up(world, random.Random(SEED), IN_FLIGHT, postgres) as scene,
    ):
        for name, strike in chosen:
            try:
                rows.append(row := scene.run(name, strike))
                _tell(line(row), *row.verdict.problems)
            except (RuntimeError, TimeoutError) as error:  # of the harness: its victim was not to be had
                undone.append(f"{name}: not done, {error}")
                _tell(undone[-1])
                wait_until_ended(world, scene.client.submitted)
    print(table(rows), *undone, sep="\n")
    if undone or not all(row.good for row in rows):
        raise SystemExit(1)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _tell(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
