"""What the Ray of `kinoray serve` answers to those who have not its token: the other users of the machine, say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from cli.service import environment
from tests.conftest import DEADLINE_S
from tests.front.conftest import Front

JOIN = (
    "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(ray.get(ray.remote(lambda: 'ran').remote()))"
)


@pytest.fixture
def token(front: Front) -> Path:
    return Path(environment(front.data)["RAY_AUTH_TOKEN_PATH"])


def listening(front: Front) -> Iterator[tuple[str, str, int]]:
    """The processes below the service, and the addresses and ports that they listen on."""
    for process in psutil.Process(front.command.process.pid).children(recursive=True):
        try:
            found = {each.laddr for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
            name = " ".join(process.cmdline()) or process.name()
        except psutil.NoSuchProcess:
            continue  # Ray keeps some idle workers, and ends them
        for ip, port in found:
            yield name, "127.0.0.1" if ip in ("0.0.0.0", "::") else ip, port


def asked(host: str, port: int, **headers: str) -> httpx2.Response | None:
    """What a port answers to somebody who wants to know of Ray's jobs; None if it does not speak HTTP/1."""
    try:
        return httpx2.get(f"http://{host}:{port}/api/jobs/", headers=headers, timeout=DEADLINE_S, trust_env=False)
    except httpx2.HTTPError:
        return None


def test_without_the_token_ray_tells_nothing_but_metrics(front: Front, token: Path) -> None:
    assert token.stat().st_mode & 0o777 == 0o600
    guarded: list[str] = []
    jobs: list[object] = []
    for name, host, port in listening(front):
        if port == httpx2.URL(front.url).port or (answer := asked(host, port)) is None:
            continue
        if answer.status_code != 401:
            assert answer.headers["content-type"].startswith("text/plain"), (name, port)
            assert answer.text.startswith("# HELP"), (name, port, answer.text[:100])
            continue
        guarded.append(name)
        with_token = asked(host, port, authorization=f"Bearer {token.read_text()}")
        if with_token is not None and with_token.status_code == 200:
            jobs.append(with_token.json())
    assert len(guarded) >= 3, "the dashboard, its agent, and the agent for runtime environments"
    assert jobs, "with the token the dashboard says which jobs there are"


@pytest.mark.long
def test_without_the_token_nobody_runs_code(front: Front, token: Path) -> None:
    (gcs,) = [port for name, _, port in listening(front) if "gcs_server" in name]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def join(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", JOIN, f"127.0.0.1:{gcs}"], env={**bare, "HOME": "/nonexistent", **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        refused = join(**variables)
        assert (refused.returncode, refused.stdout) == (1, ""), variables
    with_token = join(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert with_token.stdout == "ran\n", with_token.stderr
