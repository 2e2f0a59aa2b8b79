"""`make bench-conductor`: the CPU time that a conductor spends on a job, beside that of an earlier version.

A simulated model is served by one conductor on a real Ray Serve, and the same jobs are run by both versions in turns:
earlier, this, earlier, this. What is compared is the CPU time of the conductor's process from the first job's
acceptance to the last job's end, so idle time counts too. With `--profile FILE`, py-spy writes where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import psycopg

from benchmarks.scale.cpu import CONDUCTOR, CONTROLLER, cpu_seconds
from benchmarks.scale.world import Model, fixed, write_cards
from deployments.replica_process import COUNTERS, COUNTERS_MS, LOOP
from pipelines.paths import ROOT
from tests.harness.databases import create_database, run_postgres
from tests.harness.processes import below, kill_tree, title, until

REF = "7b8744b"
STEP_S, STEPS = 0.5, 10
ENDED_S = 900

SERVE = """
import json, sys
from pathlib import Path
from cli.service import run_service
from jobs.database import Database
config, folder, database = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with Database(database) as opened:
    opened.migrate()
with run_service(config, data=folder, private=True, graceful=False):
    print("ready", flush=True)
    sys.stdin.read()
"""
"""A service of the version whose folder it is started in, until its standard input is closed."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run of all jobs took, in seconds."""

    conductor_s: float
    controller_s: float
    wall_s: float


@contextmanager
def checked_out(ref: str) -> Iterator[Path]:
    """A folder with an earlier version, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="kinoray-earlier-") as name:
        folder = Path(name) / "kinoray"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(folder), ref], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def run(code: Path, administrator: str, model: Model, jobs: int, profile: Path | None = None) -> Spent:
    """Start one version, let it run the jobs, and stop it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinoray-conductor-")))
        cards = write_cards(folder, [model])
        url = create_database(administrator, f"conductor_{time.time_ns()}")
        config = fixed([model], max_queued=jobs + 100)
        for each in config["applications"][0]["deployments"]:
            each["ray_actor_options"]["num_gpus"] = 0
            if each["name"] == "Conductor":
                each["num_replicas"] = 1
        variables = config["applications"][0].setdefault("runtime_env", {}).setdefault("env_vars", {})
        variables["KINORAY_DATABASE_URL"] = url
        # The code of today sets these itself; that of before has them from its config.
        variables.update({LOOP: "0", COUNTERS: str(COUNTERS_MS)})
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, json.dumps(config), str(folder), url],
            cwd=code, env={**os.environ, "PYTHONPATH": str(code), "KINORAY_MODELS": str(cards)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "log").open("w"), start_new_session=True,
        )  # fmt: skip
        stack.callback(kill_tree, process.pid)
        assert process.stdout is not None
        if b"ready\n" not in process.stdout:
            raise RuntimeError((folder / "log").read_text()[-4000:])
        base = f"http://127.0.0.1:{config['http_options']['port']}"
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))

        def completed() -> int:
            found = connection.execute("SELECT count(*) FROM jobs WHERE status = 'completed' AND attempts = 1")
            (count,) = found.fetchone() or (0,)
            return int(count)

        with httpx2.Client(base_url=base, timeout=120, trust_env=False) as http, ThreadPoolExecutor(4) as pool:

            def submit(_: int) -> None:
                body = {"prompt": "p", "model": model.name, "num_inference_steps": STEPS}
                http.post("/v1/videos", json=body).raise_for_status()

            def all_done(before: int, count: int) -> None:
                list(pool.map(submit, range(count)))
                until(lambda: completed() >= before + count, f"{count} jobs have completed", ENDED_S, 0.25)

            warm = 2 * model.denoisers
            all_done(0, warm)
            spent = partial(cpu_seconds, process.pid)
            conductor, controller, begun = spent(CONDUCTOR), spent(CONTROLLER), time.time()
            if profile is not None:
                stack.enter_context(_profiled(process.pid, profile))
            all_done(warm, jobs)
            return Spent(
                spent(CONDUCTOR) - conductor,
                spent(CONTROLLER) - controller,
                time.time() - begun,
            )


@contextmanager
def _profiled(pid: int, output: Path) -> Iterator[None]:
    """Have py-spy, if it is installed, write where the conductor's CPU time goes, as folded stacks."""
    (conductor,) = (each.pid for each in below(pid) if CONDUCTOR in title(each))
    recording = subprocess.Popen(
        ["py-spy", "record", "--pid", str(conductor), "--format", "raw", "--output", str(output), "--duration", "60",
         "--rate", "97", "--gil", "--threads", "--nonblocking"],
    )  # fmt: skip
    try:
        yield
    finally:
        recording.wait()


def main() -> None:
    """Print a line for each run, and the ratio of this version to the earlier one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ref", default=REF, help="the earlier version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--denoisers", type=int, default=8)
    parser.add_argument("--videos", type=int, default=13, help="for each denoiser")
    parser.add_argument("--profile", type=Path, help="run this version once, and have py-spy write here")
    given = parser.parse_args()
    model = Model("conducted", 0.1, STEP_S, 0.5, 1, given.denoisers, given.denoisers // 5 + 1)
    jobs = given.videos * given.denoisers
    ratios: list[float] = []
    with run_postgres() as administrator, checked_out(given.ref) as earlier:
        measure = partial(run, administrator=administrator, model=model, jobs=jobs)
        if given.profile is not None:
            print(measure(ROOT, profile=given.profile))
            return
        print(f"{jobs} videos of {STEPS * STEP_S:.0f} s on {given.denoisers} denoisers, one conductor")
        print("| version | conductor: CPU seconds a job | Serve's controller: the same | took |\n|---|---|---|---|")
        for _ in range(given.rounds):
            a_job: dict[str, float] = {}
            for name, code in ((given.ref, earlier), ("this", ROOT)):
                spent = measure(code)
                a_job[name] = spent.conductor_s / jobs
                others = f"{spent.controller_s / jobs:.4f} | {spent.wall_s:.0f} s"
                print(f"| {name} | {a_job[name]:.4f} | {others} |", flush=True)
            ratios.append(a_job["this"] / a_job[given.ref])
    print(f"ratio: {statistics.median(ratios):.2f} (of {', '.join(f'{each:.2f}' for each in ratios)})")


if __name__ == "__main__":
    main()
