"""The service that this process runs, as Serve's controller sees it."""

from __future__ import annotations

from typing import Any


def deploy(config: dict[str, Any]) -> None:
    """What `serve deploy` does."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def replicas(deployment: str) -> list[dict[str, Any]]:
    """The replicas that take calls."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()
    found: list[dict[str, Any]] = details["applications"]["kinoray"]["deployments"][deployment]["replicas"]
    return [replica for replica in found if replica["state"] == "RUNNING"]


def replica_pid(deployment: str) -> int | None:
    """The process of a deployment's only replica; None while it has none."""
    pids: list[int] = [replica["pid"] for replica in replicas(deployment)]
    return pids[0] if len(pids) == 1 else None
