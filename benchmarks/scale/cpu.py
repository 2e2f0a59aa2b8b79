"""The CPU time of a service's processes, by title."""

from __future__ import annotations

import psutil

from tests.harness.processes import below, title

CONDUCTOR, CONTROLLER = "ServeReplica:kinoray:Conductor", "ServeController"
"""How the processes' titles begin."""


def cpu_seconds(pid: int, named: str) -> float:
    """The CPU seconds, in user and system mode, of the processes below `pid` whose title holds `named`."""
    spent = 0.0
    for process in below(pid):
        if named in title(process):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent += times.user + times.system
    return spent
