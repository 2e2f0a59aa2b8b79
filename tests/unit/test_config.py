"""The graph and its config files, without starting Ray or importing torch."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from cli.checking import check_config_file
from cli.serve import run_forever
from cli.service import for_model
from deployments.configuration.sense import DENOISER
from deployments.configuration.serve_config import BACKLOG, BALANCE, check_config, load_config
from pipelines.catalogue import get_card, load_catalogue, read_card
from pipelines.errors import ConfigError
from pipelines.paths import ROOT
from pipelines.stages import Stage
from serve_app import build_app
from tests.harness.configs import most_replicas

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def deployments_of(app: Any) -> set[str]:
    """The names of every deployment in a bound application."""
    from ray.serve._private.build_app import build_app as build_graph

    return {deployment.name for deployment in build_graph(app, name="kinoray").deployments}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_sound_and_name_every_deployment(path: Path) -> None:
    (application,) = load_config(path)["applications"]
    named = {deployment["name"] for deployment in application["deployments"]}
    assert named == deployments_of(build_app(application["args"]))
    assert application["name"] == "kinoray"


@pytest.mark.parametrize("path", [each for each in CONFIGS if each.stem != "cluster"], ids=lambda path: path.name)
def test_shipped_configs_fit_two_cores_and_one_gpu(path: Path) -> None:
    (application,) = load_config(path)["applications"]
    for resource, there in {"num_cpus": 2, "num_gpus": 1}.items():
        asked = [
            most_replicas(each) * each["ray_actor_options"].get(resource, 0) for each in application["deployments"]
        ]
        assert sum(asked) <= there


def denoiser(config: dict[str, Any]) -> dict[str, Any]:
    """Its entry."""
    given: list[dict[str, Any]] = config["applications"][0]["deployments"]
    return next(each for each in given if each["name"] == "Denoiser-ltx-tiny")


def balance(**options: Any) -> dict[str, Any]:
    return {"policy_function": BALANCE, "policy_kwargs": options}


def scale(config: dict[str, Any], function: str, **more: Any) -> None:
    """Give the denoiser a policy of its own."""
    entry = denoiser(config)
    del entry["num_replicas"]
    entry["autoscaling_config"] = {"max_replicas": 2, "policy": {"policy_function": function, **more}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(proxy_loc="x"), "proxy_loc"),
        (lambda c: c["http_options"].update(prot=8000), "prot"),
        (lambda c: c["applications"][0].update(arg={}), "'arg'"),
        (lambda c: c["applications"][0].update(deployments=None), "deployments"),
        (lambda c: c["applications"][0]["args"].update(modles=["x"]), "args.modles"),
        (lambda c: c["applications"][0]["args"].update(models=["x"]), "no model 'x'"),
        (lambda c: c["applications"][0]["args"].update(models=["ltx-tiny", "ltx-tiny"]), "named twice"),
        (lambda c: c["applications"][0]["args"]["threads"].update(vae=1), "threads.vae"),
        (lambda c: c["applications"][0]["deployments"][0].update(num_replica=2), "num_replica"),
        (lambda c: c["applications"][0]["deployments"][0].update(autoscaling_config={"max_replica": 2}), "max_replica"),
        (lambda c: c["applications"][0]["deployments"][0]["ray_actor_options"].update(num_gpu=1), "num_gpu"),
        (lambda c: c["applications"][0]["deployments"][0].update(num_replicas=-1), "num_replicas"),
        (lambda c: c["applications"][0]["deployments"][0].update(name="Apo"), "no deployment 'Apo'; it has Api, "),
        (
            lambda c: c["applications"][0].update(autoscaling_policy=balance()),
            "Denoiser-ltx-tiny needs an auto",
        ),
        (lambda c: denoiser(c).update(autoscaling_config={"max_replicas": 2}), "Denoiser-ltx-tiny would never scale"),
        (lambda c: c["applications"][0].update(autoscaling_policy=balance(drain_s=0)), "drain_s must be positive"),
        (lambda c: c["applications"][0].update(autoscaling_policy=balance(drain=1)), "'drain'"),
        (lambda c: c["applications"][0].update(autoscaling_policy={"policy": "x"}), "no option 'policy'"),
        (
            lambda c: c["applications"][0].update(autoscaling_policy={"policy_function": f"{BALANCE}d"}),
            f"autoscaling_policy: '{BALANCE}d' is no policy for this place; {BALANCE} is",
        ),
        (lambda c: c["applications"][0].update(autoscaling_policy={"policy_function": BACKLOG}), "is no policy for"),
        (
            lambda c: scale(c, f"{BACKLOG}s"),
            f"Denoiser-ltx-tiny, policy: '{BACKLOG}s' is no policy for this place; {BACKLOG} is",
        ),
        (lambda c: scale(c, BALANCE), "is no policy for this place"),
        (lambda c: scale(c, BACKLOG, policy_kwarg={}), "Denoiser-ltx-tiny, policy has no option 'policy_kwarg'"),
        (lambda c: scale(c, BACKLOG, policy_kwargs={"drain_s": -1}), "Denoiser-ltx-tiny, policy: drain_s must be pos"),
        (lambda c: scale(c, "no.such:policy"), "cannot be imported: No module"),
    ],
)
def test_a_typo_dies_with_a_sentence(change: Any, says: str) -> None:
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    change(config)
    assert any(says in problem for problem in check_config(config))


def application(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["applications"][0]
    return found


def entry(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in application(config)["deployments"] if each["name"] == name)
    return found


def scale_between(config: dict[str, Any], name: str, **bounds: Any) -> None:
    """Let a deployment scale, in place of its fixed number of replicas."""
    del entry(config, name)["num_replicas"]
    entry(config, name)["autoscaling_config"] = bounds


VARIABLES = "runtime_env.env_vars"
NO_SECRET = {"runtime_env": {"env_vars": {"KINORAY_WEBHOOK_SECRET": "whsec_c2hvcnQ="}}}
WRITER = {"name": "makes", "sha256": "1" * 64}
READER = {"name": "looks", "sha256": "0" * 64, "scopes": ["read"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: application(c).update(name="other"), "applications.0.name: 'other' must be kinoray"),
        (lambda c: application(c).pop("name"), "applications.0.name: None must be kinoray"),
        (lambda c: c["applications"].append(copy.deepcopy(application(c))), "applications: there must be one, not 2"),
        (lambda c: c.update(applications=[]), "applications: there must be one, not 0"),
        *[
            (
                lambda c, p=prefix: application(c).update(route_prefix=p),
                f"applications.0.route_prefix: {prefix!r} {says}",
            )
            for prefix, says in (
                ("v", "must be a path"),
                ("//v", "must be a path"),
                ("/a b", "must be a path"),
                ("/{v}", "must be a path"),
                (None, "leaves nobody to ask"),
                (7, "leaves nobody to ask"),
            )
        ],
        (
            lambda c: application(c).update(route_prefix="/-/v"),
            "route_prefix: '/-/v': paths that begin with /- are Serve's",
        ),
        (lambda c: application(c).update(route_prefix="/v/"), "route_prefix: '/v/' must be /v, as"),
        (lambda c: application(c).update(route_prefix=""), "route_prefix: '' must be /, as"),
        (lambda c: application(c)["args"].update(cors_origins=["*"]), "args.cors_origins: * would let every page"),
        (
            lambda c: application(c)["args"].update(cors_origins=["*"], api_keys=[READER], allow_anonymous=True),
            "args.cors_origins: * would let every page",
        ),
        (
            lambda c: application(c).update(import_path="serve_app:build"),
            "import_path: 'serve_app:build' is no",
        ),
        (lambda c: application(c).update(external_scaler_enabled=True), "external_scaler_enabled: leave it out"),
        (lambda c: c.update(proxy_location="Disabled"), "proxy_location: Disabled leaves nobody to listen"),
        *[(lambda c, p=port: c["http_options"].update(port=p), f"http_options.port: {port}") for port in (0, 65536)],
        *[
            (lambda c, h=host: c["http_options"].update(host=h), f"http_options.host: '{host}' must be the address")
            for host in ("http://127.0.0.1", "127.0.0.1/24", "[::1]", "a b")
        ],
        (lambda c: c["http_options"].update(root_path="/v"), "http_options.root_path: leave it out"),
        (
            lambda c: c["http_options"].update(request_timeout_s=600),
            "timeout_s: 600 ends requests that args.sync_t",
        ),
        (
            lambda c: c["http_options"].update(request_timeout_s=60),
            "timeout_s: 60 ends requests that args.max_wait",
        ),
        (
            lambda c: application(c)["deployments"].append(copy.deepcopy(denoiser(c))),
            "deployment Denoiser-ltx-tiny has several entries",
        ),
        (lambda c: denoiser(c).update(num_replicas="auto"), "Denoiser-ltx-tiny, num_replicas: auto is Serve's own"),
        (
            lambda c: scale_between(c, "VideoDecoder-ltx-tiny", min_replicas=3, max_replicas=2),
            "deployment VideoDecoder-ltx-tiny, autoscaling_config: max_replicas (2) must be greater than",
        ),
        (
            lambda c: scale_between(c, "VideoDecoder-ltx-tiny", max_replicas=0),
            "deployment VideoDecoder-ltx-tiny, autoscaling_config: max_replicas: must be above 0",
        ),
        *[
            (
                lambda c, n=name: scale_between(c, n, min_replicas=0, max_replicas=2),
                f"deployment {name}, autoscaling_config.min_replicas: must be 1 or more",
            )
            for name in ("Conductor", "Publisher")
        ],
        *[
            (
                lambda c, n=gpus: denoiser(c)["ray_actor_options"].update(num_gpus=n),
                f"deployment Denoiser-ltx-tiny, ray_actor_options.num_gpus: {gpus:g} must be 1 or a share",
            )
            for gpus in (2, 1.5)
        ],
        (
            lambda c: denoiser(c)["ray_actor_options"].update(num_gpus=0.5),
            "deployment VideoDecoder-ltx-tiny, ray_actor_options.num_gpus: not given, so it would compute on the CPU",
        ),
        (
            lambda c: (
                denoiser(c)["ray_actor_options"].update(num_gpus=0.5),
                application(c)["deployments"].remove(entry(c, "VideoDecoder-ltx-tiny")),
            ),
            "deployment VideoDecoder-ltx-tiny, ray_actor_options.num_gpus: not given",
        ),
        (
            lambda c: application(c)["args"].update(allow_anonymous=False),
            "args.allow_anonymous: false without args",
        ),
        (lambda c: application(c)["args"].update(api_keys=[READER]), "args.api_keys: none has the scope submit"),
        *[
            (lambda c, s=setting: application(c)["args"].update({s: ["https://a.com"]}), f"args.{setting}: ")
            for setting in ("outbound_allow", "allowed_hosts")
        ],
        (lambda c: application(c)["args"].update(outbound_allow=["*"]), "'*' is not a host or host:port"),
        (lambda c: application(c).update(NO_SECRET), f"{VARIABLES}.KINORAY_WEBHOOK_SECRET: the webhook secret must be"),
        (
            lambda c: application(c).update(runtime_env={"env_vars": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}}),
            f"applications.0.{VARIABLES}.RAY_SERVE_THROUGHPUT_OPTIMIZED: leave it out",
        ),
        (
            lambda c: denoiser(c)["ray_actor_options"].update(
                runtime_env={"env_vars": {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"}}
            ),
            f"Denoiser-ltx-tiny, ray_actor_options.{VARIABLES}.RAY_SERVE_USE_GRPC_BY_DEFAULT: leave it out",
        ),
        (
            lambda c: entry(c, "Api").update(max_ongoing_requests=432),
            "Api, max_ongoing_requests: 432 leaves",
        ),
        (lambda c: application(c)["args"].update(max_held_open=999), "max_ongoing_requests: 1000 leaves no room"),
    ],
)
def test_what_would_make_no_video_is_not_sound(change: Any, says: str) -> None:
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    change(config)
    problems = check_config(config)
    assert any(says in problem for problem in problems), problems


@pytest.mark.parametrize(
    "change",
    [
        lambda c: application(c).pop("route_prefix"),
        lambda c: application(c).update(route_prefix="/kinoray"),
        lambda c: application(c).update(route_prefix="/video/v1.2_a-b~"),
        lambda c: application(c)["args"].update(cors_origins=["https://a.com", "http://localhost:3000"]),
        lambda c: application(c)["args"].update(cors_origins=["*"], api_keys=[WRITER]),
        lambda c: application(c).update(import_path="my_app:build_app"),
        lambda c: c.pop("http_options"),
        lambda c: c["http_options"].update(request_timeout_s=601),
        lambda c: c["http_options"].update(request_timeout_s=0),
        lambda c: application(c)["deployments"].remove(entry(c, "VideoDecoder-ltx-tiny")),
        lambda c: [each["ray_actor_options"].update(num_gpus=0) for each in application(c)["deployments"]],
        lambda c: [
            each["ray_actor_options"].update(num_gpus=0.5 if each["name"].startswith(DENOISER) else 0)
            for each in application(c)["deployments"]
        ],
        lambda c: scale_between(c, "Conductor", min_replicas=1, max_replicas=2),
        lambda c: application(c)["args"].update(api_keys=[READER], allow_anonymous=True),
        lambda c: application(c)["args"].update(allowed_hosts=["*", "a.com", "[::1]:80"], outbound_allow=["a.com:80"]),
        lambda c: application(c).update(runtime_env={"env_vars": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}}),
    ],
)
def test_what_makes_videos_is_sound(change: Any) -> None:
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    change(config)
    assert check_config(config) == []


def test_stages_that_compute_nothing_may_do_so_beside_a_gpu() -> None:
    config = yaml.safe_load((ROOT / "configs/simulated.yaml").read_text())
    entry(config, "Denoiser-simulated")["ray_actor_options"]["num_gpus"] = 1
    assert check_config(config) == []


def test_the_environments_webhook_secret_is_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_WEBHOOK_SECRET", "whsec_short")
    for begin in (check_config_file, run_forever):
        with pytest.raises(ConfigError, match="the webhook secret must be whsec_ and the base64 of at least 24"):
            begin(Console(), ROOT / "configs/local.yaml")


def test_a_denoiser_may_scale_by_its_own_backlog() -> None:
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    scale(config, BACKLOG, policy_kwargs={"drain_s": 30})
    assert check_config(config) == []


@pytest.mark.parametrize("model", load_catalogue())
def test_a_config_for_one_model_keeps_its_stages(model: str) -> None:
    config = load_config(ROOT / "configs/local.yaml")
    before = copy.deepcopy(config)
    text = for_model(config, model, with_image=False)
    assert config == before
    (application,) = text["applications"]
    assert {d["name"] for d in application["deployments"]} == deployments_of(build_app(application["args"]))
    images = [d for d in application["deployments"] if d["name"].startswith("ImageEncoder")]
    assert [image["autoscaling_config"]["min_replicas"] for image in images] == [0] * (
        Stage.IMAGE_ENCODE in get_card(model).STAGES
    )
    assert check_config(text) == []


def test_models_that_share_a_checkpoint_share_its_encoder() -> None:
    names = deployments_of(build_app({"models": ["ltx-tiny", "ltx-video-0.9.5", "ltx-video-0.9.8-2b-distilled"]}))
    assert {name for name in names if name.startswith("TextEncoder")} == {"TextEncoder-ltx-tiny", "TextEncoder"}
    assert len([name for name in names if name.startswith("Denoiser")]) == 3


def test_svd_models_that_share_clip_and_autoencoder_share_the_image_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = get_card("svd-tiny")
    tuned = {"id": "svd-tuned", "components": {"unet": {"folder": "elsewhere"}}}
    other = {"id": "svd-other", "components": {"image_encoder": {"folder": "elsewhere"}}}
    cards = {"svd-tiny": tiny}
    for change in (tuned, other):
        card = read_card({**tiny.model_dump(), **change})
        cards[card.id] = card
    monkeypatch.setattr("deployments.configuration.settings.get_card", cards.__getitem__)
    names = deployments_of(build_app({"models": list(cards)}))
    assert {name for name in names if name.startswith("ImageEncoder")} == {"ImageEncoder", "ImageEncoder-svd-other"}
    assert len([name for name in names if name.startswith("Denoiser")]) == 3
    assert not any(name.startswith("TextEncoder") for name in names)


def test_wrong_args_stop_the_build() -> None:
    with pytest.raises(ConfigError, match="lease_s"):
        build_app({"lease_s": 0})


def test_what_needs_no_gpu_imports_no_torch() -> None:
    code = "import serve_app, deployments.api, cli.__main__, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
