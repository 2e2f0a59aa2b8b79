"""`make bench-scale`, or some of its rows: `python -m benchmarks.scale utilisation burst`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from benchmarks.scale.busy import split_against_fused, utilisation
from benchmarks.scale.mixed import previews
from benchmarks.scale.nodes import burst, storm
from benchmarks.scale.row import Row

ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    "utilisation": utilisation,
    "burst": burst,
    "storm": storm,
    "previews": previews,
    "split": split_against_fused,
}


def main(names: list[str]) -> None:
    """Print the table; exit with 1 when a bound is missed."""
    print("| what | bound | measured | |\n|---|---|---|---|", flush=True)
    missed = 0
    for name in names or ROWS:
        for row in ROWS[name]():
            print(row, flush=True)
            missed += row.good is False
    if missed:
        raise SystemExit(f"{missed} bounds are missed")


if __name__ == "__main__":
    main(sys.argv[1:])
