"""A real PostgreSQL for tests and benchmarks: on the loopback interface, in a folder of its own, gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cli.service import free_port

DEADLINE_S = 60


class PostgresMissing(RuntimeError):
    """There is no PostgreSQL on this machine."""


FLEETING = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


def run_postgres(*, durable: bool = True) -> AbstractContextManager[str]:
    """A running server, as the URL of its administrator's database.

    Args:
        durable: whether what it has committed must survive the machine; tests do without, in a tenth of the time.

    Raises:
        PostgresMissing: at once, not on entry.
    """
    return _run(_binary("initdb"), _binary("postgres"), {} if durable else FLEETING)


def create_database(administrator: str, name: str, template: str = "template1") -> str:
    """A new database, empty or a copy of another that nobody is connected to; returns its URL."""
    import psycopg

    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return administrator.rsplit("/", 1)[0] + "/" + name


@contextmanager
def _run(initdb: str, server: str, more: dict[str, str]) -> Iterator[str]:
    # PostgreSQL refuses to run as root; Debian's package brings a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="kinoray-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, log = folder / "data", folder / "log"
        subprocess.run(
            [initdb, f"--pgdata={data}", "--username=kinoray", "--auth=trust", "--no-locale", "--encoding=UTF8"],
            check=True, user=user, capture_output=True, cwd=folder,
        )  # fmt: skip
        port = free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", **more}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with log.open("w") as output:
            process = subprocess.Popen([server, "-D", data, *settings], user=user, stderr=output, cwd=folder)
        try:
            url = f"postgresql://kinoray@127.0.0.1:{port}/postgres"
            wait_until_it_answers(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # "fast": do not wait for clients to go
            process.wait(DEADLINE_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binary(name: str) -> str:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        raise PostgresMissing(f"no {name} on this machine: install Debian's postgresql")
    return found


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server takes connections. Raises RuntimeError with its log when it ends or takes too long."""
    import psycopg

    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with psycopg.connect(url, connect_timeout=2):
                return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)
