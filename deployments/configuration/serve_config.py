"""Reads Serve config files strictly: Ray ignores unknown keys, but here a typo is an error with a clear message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.autoscaling import DENOISER, Backlog, Balance
from deployments.configuration.api_keys import refuse_open_door
from deployments.configuration.names import ALWAYS, deployment_names
from deployments.configuration.sense import mappings, nonsense
from deployments.configuration.settings import load_settings
from deployments.configuration.yaml_file import read_yaml
from pipelines.card import ModelCard
from pipelines.errors import ConfigError
from pipelines.wrong_values import all_wrong, unknown

LOCAL = "configs/local.yaml"
SCALING = "deployments.autoscaling"
BALANCE, BACKLOG = f"{SCALING}:Balance", f"{SCALING}:Backlog"


def load_config(path: Path) -> dict[str, Any]:
    """Read and check a Serve config file.

    Raises:
        ConfigError: naming the file and every key at fault.
    """
    config: Any = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must be a Serve config: a mapping with `applications`")
    problems = check_config(config)
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    refuse_open_door(config)
    return config


def served_cards(config: dict[str, Any]) -> list[ModelCard]:
    """The cards of the models that a config file serves, each once."""
    cards: dict[str, ModelCard] = {}
    for application in config["applications"]:
        cards |= load_settings(application.get("args") or {}).cards()
    return list(cards.values())


def check_config(config: dict[str, Any]) -> list[str]:
    """All problems of a Serve config, as sentences."""
    problems = _unknown(config, ServeDeploySchema, "the config")
    problems += _unknown(config.get("http_options"), HTTPOptionsSchema, "http_options")
    for application in mappings(config.get("applications")):
        problems += _unknown(application, ServeApplicationSchema, f"application {application.get('name')}")
        problems += _scaling(application)
        problems += _not_in_the_graph(application)
        for deployment in mappings(application.get("deployments")):
            where = f"deployment {deployment.get('name')}"
            problems += _unknown(deployment, DeploymentSchema, where)
            scaling = deployment.get("autoscaling_config")
            problems += _unknown(scaling, AutoscalingConfig, f"{where}, autoscaling_config")
            if isinstance(scaling, dict):
                problems += _policy(scaling.get("policy"), Backlog, f"{where}, policy")
            problems += _unknown(
                deployment.get("ray_actor_options"), RayActorOptionsSchema, f"{where}, ray_actor_options"
            )
        try:
            load_settings(application.get("args") or {})
        except ConfigError as error:
            problems.append(error.message)
    problems += nonsense(config)
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        problems += all_wrong(error, ServeDeploySchema)
    except (ImportError, AttributeError) as error:  # Ray imports a deployment's policy when it reads it
        problems.append(f"a policy_function cannot be imported: {error}")
    return problems


def _not_in_the_graph(application: dict[str, Any]) -> list[str]:
    """Problems with entries for deployments that the application will not have, such as those of an unserved model."""
    stages = _names(application)
    if not stages:
        return []
    there = {*ALWAYS, *stages}
    given = [deployment.get("name") for deployment in mappings(application.get("deployments"))]
    return [
        f"this application has no deployment {name!r}; it has {', '.join(sorted(there))}"
        for name in given
        if name not in there
    ]


def _names(application: dict[str, Any]) -> set[str]:
    """The deployments of all stages; empty if the args are wrong, which `check_config` reports separately."""
    try:
        names = deployment_names(load_settings(application.get("args") or {}).cards())
    except ConfigError:
        return set()
    return {name for stages in names.values() for name in stages.values()}


def _scaling(application: dict[str, Any]) -> list[str]:
    """Problems with the policy that scales an application's stages together."""
    policy = application.get("autoscaling_policy")
    if not isinstance(policy, dict):
        return [
            f"deployment {deployment['name']} would never scale: jobs wait in the store, which Serve's own policy does "
            f"not see; set the application's autoscaling_policy to {BALANCE}, or this one's policy to {BACKLOG}"
            for deployment in mappings(application.get("deployments"))
            if str(deployment.get("name")).startswith(DENOISER)
            and isinstance(scaling := deployment.get("autoscaling_config"), dict)
            and "policy" not in scaling
        ]
    problems = _policy(policy, Balance, "autoscaling_policy")
    if policy.get("policy_function") != BALANCE:
        return problems
    given = mappings(application.get("deployments"))
    scaled = {deployment.get("name") for deployment in given if "autoscaling_config" in deployment}
    return problems + [
        f"deployment {name} needs an autoscaling_config, as every stage that {BALANCE} scales"
        for name in sorted(_names(application) - scaled)
    ]


def _policy(policy: Any, ours: type[Balance | Backlog], where: str) -> list[str]:
    """Problems with a policy where `ours` is the one to use; a policy from outside this project is not checked."""
    if not isinstance(policy, dict):
        return []
    problems = _unknown(policy, AutoscalingPolicy, where)
    function = policy.get("policy_function")
    name = f"{SCALING}:{ours.__name__}"
    if function == name:
        try:
            ours(**policy.get("policy_kwargs") or {})
        except (TypeError, ValueError) as error:
            problems.append(f"{where}: {error}")
    elif str(function).startswith(SCALING):
        problems.append(f"{where}: {function!r} is no policy for this place; {name} is")
    return problems


def _unknown(given: Any, schema: Any, where: str) -> list[str]:
    if not isinstance(given, dict):
        return []
    known = set(schema.model_fields)
    return [f"{where} has no option {key!r}: it {unknown(str(key), known)}" for key in given if key not in known]
