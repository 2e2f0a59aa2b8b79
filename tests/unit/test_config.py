"""The graph and its config files, without starting Ray or importing torch."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.service import for_model
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
