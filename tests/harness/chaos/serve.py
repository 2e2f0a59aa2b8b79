"""The service as a process of its own, which can be killed with everything below it, and answers questions until then.

`python -m tests.harness.chaos.serve CONFIG DATA`: one JSON line on standard output once it is ready, then one for each
JSON line on standard input; at the end of the input the service is stopped.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import yaml

from cli.service import run_service
from deployments.configuration.names import APPLICATION


def main() -> None:
    config, data = Path(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else this process prints is not an answer
    with run_service(yaml.safe_load(config.read_text()), data=data, private=True, graceful=False) as url:
        _say(answers, _ready(url))
        for line in sys.stdin:
            _say(answers, _answer(json.loads(line)))


def _say(answers: TextIO, answer: Any) -> None:
    answers.write(json.dumps(answer) + "\n")


def _ready(url: str) -> dict[str, str]:
    import ray
    from ray._private.worker import global_worker

    node = global_worker.node
    return {
        "url": url,
        "address": ray.get_runtime_context().gcs_address,
        "temp_dir": node.get_temp_dir_path(),
        "logs": node.get_logs_dir_path(),
    }


def _answer(question: dict[str, Any]) -> Any:
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client = _get_global_client()
    if (config := question.get("deploy")) is not None:
        client.deploy_apps(ServeDeploySchema.model_validate(config))
        return "deployed"
    details: Any = client.get_serve_details()
    deployments = details["applications"].get(APPLICATION, {}).get("deployments", {})
    wanted = ("replica_id", "pid", "state", "node_id")  # one that is starting has no process yet
    return [
        {"deployment": name, **{key: replica.get(key) for key in wanted}}
        for name, deployment in deployments.items()
        for replica in deployment["replicas"]
    ]


if __name__ == "__main__":
    main()
