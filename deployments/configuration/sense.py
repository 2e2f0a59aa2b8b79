"""What Ray would take from a Serve config, and then no video is made by it, or not as it was meant.

`serve_config` sees to what Ray itself would refuse, and to unknown keys. Each function here looks at one part of a
config and returns sentences, each with the path of the field and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from ray.serve._private.constants import DEFAULT_HTTP_PORT
from ray.serve.config import AutoscalingConfig

from deployments.configuration.api_keys import anonymous_allowed
from deployments.configuration.hosts import ANY
from deployments.configuration.names import ALWAYS, APPLICATION, DEPLOYMENTS, deployment_names
from deployments.configuration.prefix import read_prefix
from deployments.configuration.settings import MOST, WEBHOOK_SECRET, Settings, load_settings, require_webhook_secret
from pipelines.card import CheckpointCard
from pipelines.errors import ConfigError
from pipelines.stages import Stage
from pipelines.wrong_values import all_wrong

DENOISER = DEPLOYMENTS[Stage.DENOISE]
AWAKE = ("Conductor", "Publisher")
"""The deployments that work without being called: they claim jobs, send webhooks, delete what has expired."""
BUILD_APP = ("serve_app:build_app", "serve_app.build_app")
ONGOING = 1000
"""The `max_ongoing_requests` of the API, unless the config has another."""
EVERYWHERE = "0.0.0.0"
"""Where a service listens if its config file names no host."""
BY_VALUE = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_USE_GRPC_BY_DEFAULT")
"""Variables with which Serve sends values instead of references to them, at most 4 MiB each."""


def nonsense(config: dict[str, Any]) -> list[str]:
    """All of it."""
    applications = mappings(config.get("applications"))
    problems = _applications(applications) + _http(config)
    for application in applications:
        problems += _application(application)
        try:
            settings = load_settings(application.get("args") or {})
        except ConfigError:  # which `check_config` reports
            continue
        problems += _callers(settings) + _pages(config, settings)
        problems += _times(config, application, settings) + _without_a_gpu(application, settings)
    return problems


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; Ray's schema reports any other item."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _applications(applications: list[dict[str, Any]]) -> list[str]:
    """Only one application can run: its deployments look themselves up by its name, and share one job store."""
    if len(applications) != 1:
        return [f"applications: there must be one, not {len(applications)}; name all models in its args.models"]
    (application,) = applications
    problems = []
    if (name := application.get("name")) != APPLICATION:
        problems.append(
            f"applications.0.name: {name!r} must be {APPLICATION}: its deployments look each other up by that name, "
            "and no video would be made"
        )
    problems += _prefix(application.get("route_prefix", "/"))
    path = str(application.get("import_path"))
    if path.partition(":")[0].partition(".")[0] == "serve_app" and path not in BUILD_APP:
        problems.append(f"applications.0.import_path: {path!r} is no application; {BUILD_APP[0]} is")
    if application.get("external_scaler_enabled"):
        problems.append("applications.0.external_scaler_enabled: leave it out; it keeps the policies from scaling")
    return problems


def _prefix(prefix: Any) -> list[str]:
    """Whether the service can be found under its `route_prefix`."""
    if not isinstance(prefix, str):
        return [f"applications.0.route_prefix: {prefix!r} leaves nobody to ask; set / or a path such as /videos"]
    try:
        path = read_prefix(prefix)
    except ValueError as error:
        return [f"applications.0.route_prefix: {prefix!r} {error}"]
    if prefix != (path or "/"):
        return [f"applications.0.route_prefix: {prefix!r} must be {path or '/'}, as Serve reads it"]
    if path.startswith("/-"):
        return [f"applications.0.route_prefix: {prefix!r}: paths that begin with /- are Serve's own; choose another"]
    return []


def _http(config: dict[str, Any]) -> list[str]:
    problems = []
    if config.get("proxy_location") == "Disabled":
        problems.append("proxy_location: Disabled leaves nobody to listen; set HeadOnly or EveryNode")
    options = config.get("http_options")
    if not isinstance(options, dict):
        return problems
    limit_s = options.get("request_timeout_s")
    if isinstance(limit_s, int | float) and not 0 <= limit_s < math.inf:
        problems.append(f"http_options.request_timeout_s: {limit_s:g} is no time; leave it out for no limit")
    port = options.get("port", DEFAULT_HTTP_PORT)
    if isinstance(port, int) and not 1 <= port <= 65535:
        problems.append(f"http_options.port: {port} must be between 1 and 65535")
    host = options.get("host", "")
    if isinstance(host, str) and ("://" in host or "/" in host or " " in host or host.startswith("[")):
        problems.append(f"http_options.host: {host!r} must be the address to listen on, such as 127.0.0.1 or 0.0.0.0")
    if options.get("root_path"):
        problems.append("http_options.root_path: leave it out; use the application's route_prefix")
    return problems


def _application(application: dict[str, Any]) -> list[str]:
    problems = []
    given = mappings(application.get("deployments"))
    names = [str(each.get("name")) for each in given]
    problems += [
        f"deployment {name} has several entries, of which Serve takes one; leave one"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    for where, variables in _environments(application, given):
        problems += [
            f"{where}.runtime_env.env_vars.{name}: {value!r} must be text; put it in quotes"
            for name, value in variables.items()
            if not isinstance(value, str)
        ]
        problems += [
            f"{where}.runtime_env.env_vars.{name}: leave it out: stages pass on references, and with it Serve sends "
            "values, none above 4 MiB"
            for name in BY_VALUE
            if str(variables.get(name, "0")).lower() in ("1", "true")
        ]
        try:
            require_webhook_secret(str(variables.get(WEBHOOK_SECRET) or "") or None)
        except ConfigError as error:
            problems.append(f"{where}.runtime_env.env_vars.{WEBHOOK_SECRET}: {error.message}")
    for deployment in given:
        problems += _replicas(deployment)
    return problems


def _environments(
    application: dict[str, Any], deployments: list[dict[str, Any]]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each place that sets variables for replicas."""
    places = [("applications.0", application)]
    places += [
        (f"deployment {each.get('name')}, ray_actor_options", _of(each, "ray_actor_options")) for each in deployments
    ]
    return [(where, _of(_of(place, "runtime_env"), "env_vars")) for where, place in places]


def _replicas(deployment: dict[str, Any]) -> list[str]:
    """How many there are of one deployment, and on how much of a GPU each."""
    name = str(deployment.get("name"))
    problems = []
    scaling = deployment.get("autoscaling_config")
    if deployment.get("num_replicas") == "auto" and name.startswith(DENOISER):
        problems.append(
            f"deployment {name}, num_replicas: auto is Serve's own policy, which does not see jobs that wait in the "
            "store; give a number, or an autoscaling_config with a policy"
        )
    if isinstance(scaling, dict):
        # Without the policy, which Ray imports and `check_config` looks at.
        bounds = {
            key: value for key, value in scaling.items() if key in AutoscalingConfig.model_fields and key != "policy"
        }
        try:
            AutoscalingConfig.model_validate(bounds)
        except ValueError as error:
            problems.append(f"deployment {name}, autoscaling_config: {_said(error)}")
        if name in AWAKE and scaling.get("min_replicas") == 0:
            problems.append(
                f"deployment {name}, autoscaling_config.min_replicas: must be 1 or more: it works without being called"
            )
    problems += _amounts(deployment)
    gpus = _of(deployment, "ray_actor_options").get("num_gpus")
    if isinstance(gpus, int | float) and gpus > 1:
        problems.append(
            f"deployment {name}, ray_actor_options.num_gpus: {gpus:g} must be 1 or a share of one: a replica computes "
            "on one GPU, and Ray lends none in halves beyond the first"
        )
    return problems


def _amounts(deployment: dict[str, Any]) -> list[str]:
    """Amounts that no cluster has, of which Ray would wait for the rest."""
    name, options = deployment.get("name"), _of(deployment, "ray_actor_options")
    given = [(f"ray_actor_options.{each}", options.get(each)) for each in ("num_cpus", "num_gpus", "memory")]
    given += [(each, deployment.get(each)) for each in ("num_replicas", "max_ongoing_requests")]
    given += [(f"autoscaling_config.{each}", value) for each, value in _of(deployment, "autoscaling_config").items()]
    return [
        f"deployment {name}, {where}: {value:g} is more than any cluster has; give a smaller number"
        for where, value in given
        if isinstance(value, int | float) and not value <= MOST
    ]


def _callers(settings: Settings) -> list[str]:
    """Whether there is anybody who may ask for a video. Without keys, `api_keys.refuse_open_door` has its say too."""
    if settings.allow_anonymous is False and not settings.api_keys:
        return [
            "args.allow_anonymous: false without args.api_keys admits nobody; `./kinoray keys new NAME` makes a key"
        ]
    scopes = {scope for key in settings.api_keys for scope in key.scopes}
    if settings.api_keys and not settings.allow_anonymous and scopes == {"read"}:
        return ["args.api_keys: none has the scope submit, so nobody can ask for a video; give it to one"]
    return []


def _pages(config: dict[str, Any], settings: Settings) -> list[str]:
    """Whether every page on the web may use a service that asks nobody for a key."""
    host = str(_of(config, "http_options").get("host", EVERYWHERE))
    if ANY in settings.cors_origins and anonymous_allowed(settings.allow_anonymous, settings.api_keys, host):
        return [
            "args.cors_origins: * would let every page on the web use a service that admits callers without a key; "
            "name the origins, or give it args.api_keys"
        ]
    return []


def _times(config: dict[str, Any], application: dict[str, Any], settings: Settings) -> list[str]:
    """Settings that contradict each other, or Serve's options."""
    problems = []
    limit_s = _of(config, "http_options").get("request_timeout_s")
    for name in ("sync_timeout_s", "max_wait_s"):
        held_s: float = getattr(settings, name)
        if isinstance(limit_s, int | float) and 0 < limit_s <= held_s:
            problems.append(
                f"http_options.request_timeout_s: {limit_s:g} ends requests that args.{name} holds open for "
                f"{held_s:g} s; leave it out, or lower args.{name} below it"
            )
    api = next((each for each in mappings(application.get("deployments")) if each.get("name") == ALWAYS[0]), {})
    ongoing = api.get("max_ongoing_requests", ONGOING)
    needed = settings.max_held_open + settings.max_creates_at_once
    if isinstance(ongoing, int) and ongoing <= needed:
        problems.append(
            f"deployment Api, max_ongoing_requests: {ongoing} leaves no room for reads beside args.max_held_open and "
            f"args.max_creates_at_once, {needed} together; raise it, or lower these"
        )
    return problems


def _without_a_gpu(application: dict[str, Any], settings: Settings) -> list[str]:
    """Stages that would compute on the CPU beside others that ask for a GPU, as nobody has said that they should."""
    cards = settings.cards()
    asked = {
        str(each.get("name")): _of(each, "ray_actor_options").get("num_gpus")
        for each in mappings(application.get("deployments"))
    }
    names = {
        name
        for model, stages in deployment_names(cards).items()
        if isinstance(cards[model], CheckpointCard)
        for name in stages.values()
    }
    on_gpu = sorted(name for name in names if asked.get(name))
    if not on_gpu:
        return []
    return [
        f"deployment {name}, ray_actor_options.num_gpus: not given, so it would compute on the CPU, while {on_gpu[0]} "
        "has a GPU; give it a share, or 0 if that is meant"
        for name in sorted(names)
        if asked.get(name) is None
    ]


def _of(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping within another; an empty one if it is absent or something else."""
    found = mapping.get(key)
    return found if isinstance(found, dict) else {}


def _said(error: ValueError) -> str:
    """What is wrong, in one line."""
    return "; ".join(all_wrong(error)) if isinstance(error, ValidationError) else str(error)
