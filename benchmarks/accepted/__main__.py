"""`python -m benchmarks.accepted`: replay what people send against a running service, and print what came of it.

It starts a service, unless it is given one: `--url` and `--data`, the folder of its data. `--save FILE` keeps what came
of each case, and `--before FILE` shows it beside what comes of it now. Exit 1 when a case is not as meant.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.accepted.cases import GOOD, Case, Service
from benchmarks.accepted.files import file_cases
from benchmarks.accepted.pictures import picture_cases
from benchmarks.accepted.wire import ORIGIN, wire_cases
from cli.service import default_config, for_model, free_port, run_service
from deployments.configuration.serve_config import load_config
from pipelines.paths import ROOT

BEFORE = ROOT / "benchmarks" / "accepted" / "before.json"
"""What this command has kept of a service of commit 3acb3dc."""
TIMEOUT_S = 120.0


def config() -> dict[str, Any]:
    """The config of the service that is asked: the tiny model takes pictures, the simulated one has real sizes."""
    made = for_model(load_config(default_config()), "ltx-tiny", with_image=True)
    simulated = load_config(ROOT / "configs" / "simulated.yaml")
    (application,), (other,) = made["applications"], simulated["applications"]
    application["args"].update(models=["ltx-tiny", "simulated"], cors_origins=[ORIGIN])
    stages = [each for each in other["deployments"] if each["name"].endswith("-simulated")]
    for each in stages:
        each.pop("autoscaling_config")
        each.update(num_replicas=1)
    application["deployments"] += stages
    made["http_options"]["port"] = free_port()
    return made


@contextmanager
def _service(url: str | None, data: Path | None) -> Iterator[Service]:
    if url is not None and data is not None:
        with httpx2.Client(base_url=url, timeout=TIMEOUT_S) as http:
            yield Service(http, data)
        return
    with (
        tempfile.TemporaryDirectory(prefix="kinoray-accepted-") as folder,
        run_service(config(), data=Path(folder), private=True) as here,
        httpx2.Client(base_url=here, timeout=TIMEOUT_S) as http,
    ):
        yield Service(http, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accepted")
    parser.add_argument("--url")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--before", type=Path, default=BEFORE)
    given = parser.parse_args()
    found: dict[str, str] = {}
    with _service(given.url, given.data) as service:
        for case in (*picture_cases(), *wire_cases(), *file_cases()):
            found[_name(case)] = _replayed(case, service)
            print(f"{_name(case)}: {found[_name(case)]}", file=sys.stderr, flush=True)
    if given.save:
        given.save.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    before = json.loads(given.before.read_text()) if given.before.exists() else {}
    print(_table(found, before))
    wrong = sum(each != GOOD for each in found.values())
    print(f"\n**{len(found) - wrong} of {len(found)} are as meant.**")
    raise SystemExit(1 if wrong else 0)


def _name(case: Case) -> str:
    return f"{case.section}: {case.sent}"


def _replayed(case: Case, service: Service) -> str:
    try:
        return case.replay(service)
    except (httpx2.TransportError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def _table(found: dict[str, str], before: dict[str, str]) -> str:
    lines = ["| what is sent | before | now |", "|---|---|---|"]
    for name, now in found.items():
        sent = name.partition(": ")[2]
        lines.append(f"| {sent} | {_cell(before.get(name, 'not tried'))} | {_cell(now)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return (text if len(text) <= 140 else text[:137] + "...").replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
