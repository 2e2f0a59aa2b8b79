"""Two API replicas that only have to accept, and beside them, in the same Serve, an ingress that does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy import select

from benchmarks.load.client import Load, Outcome
from cli.service import free_port, run_service
from deployments.configuration.serve_config import load_config
from deployments.replica_process import COUNTERS, COUNTERS_MS, LOOP
from jobs.database import Database, sqlite_url
from jobs.schema import jobs
from pipelines.paths import ROOT
from tests.harness.databases import create_database, run_postgres

REPLICAS = 2
CREATE = json.dumps({"model": "simulated", "prompt": "a red circle moves left", "num_inference_steps": 1000})
"""A job that keeps the only denoiser busy for as long as the benchmark lasts: the others wait in the queue."""

Kind = Literal["sqlite", "postgresql"]


@dataclass(slots=True)
class World:
    """A service that is ready."""

    url: str
    database: Database

    def load(
        self, for_s: float, *loads: Load, streams: Sequence[str] = (), settle_s: float = 0.2
    ) -> dict[str, Outcome]:
        """Make loads side by side for a time, with event streams open if any are asked for; what came of them by name.

        Raises:
            RuntimeError: an event stream ended.
        """
        at = urlsplit(self.url)
        asked = {
            "host": at.hostname, "port": at.port, "for_s": for_s, "loads": [asdict(load) for load in loads],
            "streams": list(streams), "settle_s": settle_s,
        }  # fmt: skip
        client = subprocess.run(
            [sys.executable, "-m", "benchmarks.load.client"], input=json.dumps(asked), text=True, check=True, cwd=ROOT,
            stdout=subprocess.PIPE, timeout=for_s + 120,
        )  # fmt: skip
        answered = json.loads(client.stdout)
        if answered["streams_broke"]:
            raise RuntimeError("an event stream ended, though its job had not")
        return {name: Outcome(**outcome) for name, outcome in answered["outcomes"].items()}

    def stored(self) -> set[str]:
        """The ids of all jobs."""
        with self.database.read() as connection:
            return set(connection.execute(select(jobs.c.id)).scalars())


@contextmanager
def run_world(kind: Kind) -> Iterator[World]:
    """Start everything; nothing is left of it at the end."""
    with tempfile.TemporaryDirectory(prefix="kinoray-load-") as name:
        folder = Path(name)
        if kind == "sqlite":
            with _run(folder, sqlite_url(folder / "jobs.sqlite3"), {}) as world:
                yield world
        else:
            with run_postgres() as administrator:
                url = create_database(administrator, "load")
                with Database(url) as database:
                    database.migrate()
                with _run(folder, url, {"KINORAY_DATABASE_URL": url}) as world:
                    yield world


@contextmanager
def _run(folder: Path, database_url: str, variables: dict[str, str]) -> Iterator[World]:
    config = load_config(ROOT / "configs/simulated.yaml")
    config["http_options"]["port"] = free_port()
    (application,) = config["applications"]
    del application["autoscaling_policy"]
    application["args"].update(max_queued=None)
    application["runtime_env"] = {"env_vars": variables}
    for deployment in application["deployments"]:
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = REPLICAS if deployment["name"] == "Api" else 1
        deployment["ray_actor_options"] = {"num_cpus": 0.01}
    with run_service(config, data=folder, private=True, graceful=False) as url:
        from ray import serve

        from benchmarks.load.nothing import Nothing

        # What a replica of ours tells Serve by itself.
        like_ours = {**variables, LOOP: "0", COUNTERS: str(COUNTERS_MS)}
        settings: Any = {"runtime_env": {"env_vars": like_ours}, "num_cpus": 0.01}
        nothing: Any = Nothing
        bound = nothing.options(num_replicas=REPLICAS, ray_actor_options=settings).bind()
        serve.run(bound, name="nothing", route_prefix="/nothing")
        with Database(database_url) as database:
            yield World(url, database)
