"""A PostgreSQL that can be killed and started again on what it has written."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.harness.databases import create_database, run_postgres, wait_until_it_answers
from tests.harness.processes import kill_tree

STOP_S = 30


class Postgres:
    """A server below this process, and one database in it."""

    def __init__(self, administrator: str) -> None:
        self.url = create_database(administrator, "chaos")
        port = administrator.rsplit(":", 1)[1].split("/")[0]
        (server,) = [each for each in psutil.Process().children() if f"port={port}" in each.cmdline()]
        self._pid = server.pid
        self._command, self._user, self._folder = server.cmdline(), server.username(), server.cwd()
        self._again: subprocess.Popen[bytes] | None = None

    def kill(self) -> int:
        """`kill -9` for the server and every backend; returns how many."""
        killed = kill_tree(self._pid)
        if self._again is not None:
            self._again.wait()
        return killed

    def start_again(self) -> None:
        """The same command on the same folder and port; returns once it answers."""
        log = Path(self._folder) / "log"
        with log.open("a") as output:
            self._again = subprocess.Popen(self._command, user=self._user, cwd=self._folder, stderr=output)
        self._pid = self._again.pid
        wait_until_it_answers(self.url, self._again, log)

    def close(self) -> None:
        if self._again is not None and self._again.poll() is None:
            self._again.send_signal(signal.SIGINT)
            self._again.wait(STOP_S)


@contextmanager
def run_mortal_postgres() -> Iterator[Postgres]:
    """A server of its own, gone at the end."""
    with run_postgres() as administrator:
        postgres = Postgres(administrator)
        try:
            yield postgres
        finally:
            postgres.close()
