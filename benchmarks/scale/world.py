"""A simulated service on such a cluster, with PostgreSQL behind it, and what its job store says of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from sqlalchemy import func, select

from benchmarks.scale.cluster import Cluster, run_cluster
from cli.service import free_port, run_service
from deployments.configuration.serve_config import BALANCE, load_config
from deployments.orchestration.replicas import look
from jobs.database import Database
from jobs.lifecycle import Status
from jobs.schema import jobs
from jobs.store import JobStore
from pipelines.paths import ROOT
from tests.harness.databases import create_database, run_postgres
from tests.harness.processes import until

ENDED_S = 900.0


@dataclass(frozen=True, slots=True)
class Model:
    """What a simulated model costs, in seconds of one GPU, and how many replicas each stage has."""

    name: str
    text_s: float
    step_s: float
    decode_s: float
    encoders: int
    denoisers: int
    decoders: int

    def card(self) -> dict[str, Any]:
        """Its card, made from that of the `simulated` model."""
        card: dict[str, Any] = yaml.safe_load((ROOT / "configs/models/simulated.yaml").read_text())
        times = {"text": self.text_s, "step": self.step_s, "decode": self.decode_s}
        timings = {stage: {"fixed_s": seconds} for stage, seconds in times.items()}
        return {**card, "id": self.name, "timings": {"load_s": card["timings"]["load_s"], **timings}}

    def replicas(self) -> dict[str, int]:
        """By deployment."""
        return {
            f"TextEncoder-{self.name}": self.encoders,
            f"Denoiser-{self.name}": self.denoisers,
            f"VideoDecoder-{self.name}": self.decoders,
        }


@dataclass(slots=True)
class World:
    """A service that is ready."""

    url: str
    cluster: Cluster
    database: Database
    store: JobStore

    def submit(self, requests: Sequence[Mapping[str, Any]], priority: str = "normal") -> list[str]:
        """Ask for videos, a few at a time, all as one caller; returns the jobs' ids in that order."""
        with httpx2.Client(base_url=self.url, timeout=120, trust_env=False) as http, ThreadPoolExecutor(4) as pool:

            def ask(request: Mapping[str, Any]) -> str:
                answer = http.post("/v1/videos", json={"prompt": "p", "priority": priority, **request})
                answer.raise_for_status()
                job: str = answer.json()["id"]
                return job

            return list(pool.map(ask, requests))

    def rows(self, ids: Sequence[str]) -> list[Any]:
        """The rows of some jobs, as they are now."""
        with self.database.read() as connection:
            return list(connection.execute(select(jobs).where(jobs.c.id.in_(ids))).all())

    def ended(self, ids: Sequence[str]) -> list[Any]:
        """The rows of some jobs once all have ended."""
        live = select(func.count()).where(jobs.c.id.in_(ids), jobs.c.completed_at.is_(None))

        def over() -> bool:
            with self.database.read() as connection:
                return connection.execute(live).scalar_one() == 0

        until(over, "every job has ended", ENDED_S, every_s=0.5)
        return self.rows(ids)

    def completed(self, ids: Sequence[str]) -> list[Any]:
        """The same. Raises RuntimeError unless each has completed in its first attempt."""
        rows = self.ended(ids)
        bad = [row for row in rows if row.status != Status.COMPLETED or row.attempts != 1]
        if bad:
            raise RuntimeError(f"{len(bad)} jobs did not complete at once: {bad[0].error_message}")
        return rows

    def running(self, deployment: str) -> int:
        """Its replicas that take calls."""
        return len(look().running.get(deployment, ()))


def fixed(models: Sequence[Model], **args: Any) -> dict[str, Any]:
    """configs/simulated.yaml with these models and as many replicas as they say, two conductors, and no scaling."""
    config = load_config(ROOT / "configs/simulated.yaml")
    config["http_options"]["port"] = free_port()
    (application,) = config["applications"]
    del application["autoscaling_policy"]
    application["args"].update(models=[model.name for model in models], **args)
    counts = {"Api": 1, "Conductor": 2, "Publisher": 1}
    for model in models:
        counts.update(model.replicas())
    application["deployments"] = [
        {"name": name, "num_replicas": count, "ray_actor_options": _options(name)} for name, count in counts.items()
    ]
    return config


def scaled(model: Model, drain_s: float, **args: Any) -> dict[str, Any]:
    """The same with one model, whose stages come and go with the work; each denoiser needs a node."""
    config = fixed([model], **args)
    (application,) = config["applications"]
    policy = {"policy_function": BALANCE, "policy_kwargs": {"drain_s": drain_s}}
    application["autoscaling_policy"] = policy
    for deployment in application["deployments"]:
        if deployment["name"] in model.replicas():
            most = deployment.pop("num_replicas")
            delays = {"upscale_delay_s": 0, "downscale_delay_s": 5, "downscale_to_zero_delay_s": 5}
            deployment["autoscaling_config"] = {"min_replicas": 0, "max_replicas": most, **delays}
    return config


def _options(deployment: str) -> dict[str, Any]:
    return {"num_cpus": 0.01, "num_gpus": 1} if deployment.startswith("Denoiser") else {"num_cpus": 0.01}


def write_cards(folder: Path, models: Sequence[Model]) -> Path:
    """Write the models' cards; returns their folder, which is for KINORAY_MODELS."""
    cards = folder / "models"
    cards.mkdir()
    for model in models:
        (cards / f"{model.name}.yaml").write_text(yaml.safe_dump(model.card()))
    return cards


@contextmanager
def run_world(
    config: dict[str, Any], models: Sequence[Model], *, head_gpus: int = 0, nodes: int = 0
) -> Iterator[World]:
    """Start everything; what a row leaves behind is gone with it."""
    with tempfile.TemporaryDirectory(prefix="kinoray-scale-") as name, run_postgres() as administrator:
        folder = Path(name)
        url = create_database(administrator, "scale")
        variables = {"KINORAY_DATABASE_URL": url, "KINORAY_MODELS": str(write_cards(folder, models))}
        with Database(url) as database:
            database.migrate()
            with (
                run_cluster(folder, head_gpus=head_gpus, most_nodes=nodes, **variables) as cluster,
                run_service(config, data=folder, address=cluster.address, graceful=False) as base,
            ):
                world = World(base, cluster, database, JobStore(database))
                (application,) = config["applications"]
                for each in application["deployments"]:
                    wanted = each.get("num_replicas", 0)
                    until(lambda: world.running(each["name"]) >= wanted, f"{each['name']} runs", 300, 0.5)  # noqa: B023
                yield world


def warm(world: World, model: Model, requests: Sequence[Mapping[str, Any]]) -> None:
    """Let every replica work once: each encodes the test card of a shape once."""
    world.completed(world.submit([each for each in requests for _ in range(max(model.decoders * 3, 8))]))


def waited(row: Any) -> float:
    """Seconds of a job's life in which no stage worked on it."""
    return float(row.completed_at - row.created_at - sum(row.stage_seconds.values()))
