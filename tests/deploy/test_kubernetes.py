"""k8s/ as kustomize builds it: by the schemas of Kubernetes, KubeRay and Kinoray, and that it all fits together."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from deployments.autoscaling import DENOISER
from deployments.conductor import Conductor
from deployments.configuration.names import ALWAYS, deployment_names
from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import Settings, load_settings
from pipelines.paths import ROOT
from storage.settings import BucketSettings
from tests.harness.configs import most_replicas

K8S = ROOT / "k8s"
SERVE = {name: K8S / f"overlays/{name}/serve.yaml" for name in ("dev", "production")}
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Built:
    """What `kubectl apply -k` would send of a folder."""

    def __init__(self, folder: Path) -> None:
        kubectl = Path(sys.executable).with_name("kubectl")
        text = subprocess.run([str(kubectl), "kustomize", str(folder)], check=True, stdout=subprocess.PIPE).stdout
        self.objects: list[dict[str, Any]] = list(yaml.load_all(text, yaml.CSafeLoader))

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects of a kind, by name."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] == kind}

    @cached_property
    def ray(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.all("RayService")["kinoray"]["spec"]
        return spec

    @cached_property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The groups of worker pods, by name."""
        return {each["groupName"]: each for each in self.ray["rayClusterConfig"]["workerGroupSpecs"]}

    @cached_property
    def deployments(self) -> list[dict[str, Any]]:
        (application,) = yaml.safe_load(self.ray["serveConfigV2"])["applications"]
        given: list[dict[str, Any]] = application["deployments"]
        return given

    @cached_property
    def pods(self) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
        """Every kind of pod that would run: the labels that it gets, from KubeRay or its template, and its spec."""
        found = {
            name: (each["spec"]["template"].get("metadata", {}).get("labels", {}), each["spec"]["template"]["spec"])
            for name, each in self.all("StatefulSet").items()
        }
        node = {"ray.io/is-ray-node": "yes"}
        head = self.ray["rayClusterConfig"]["headGroupSpec"]
        found["head"] = {**node, "ray.io/node-type": "head"}, head["template"]["spec"]
        for name, each in self.groups.items():
            found[name] = {**node, "ray.io/node-type": "worker", "ray.io/group": name}, each["template"]["spec"]
        return found

    def runs(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """The deployments that a group's pods may run."""
        labels = group["labels"].items()
        return [
            each for each in self.deployments if each["ray_actor_options"].get("label_selector", {}).items() <= labels
        ]


@cache
def overlay(name: str) -> Built:
    return Built(K8S / "overlays" / name)


@pytest.fixture(params=list(SERVE))
def built(request: pytest.FixtureRequest) -> Built:
    return overlay(request.param)


@pytest.fixture
def production() -> Built:
    return overlay("production")


@pytest.fixture(scope="module")
def gateway() -> dict[str, Any]:
    """The objects of the component that is in no overlay, by kind."""
    text = (K8S / "components/gateway/gateway.yaml").read_text()
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def kuberay() -> Any:
    """A validator of RayServices, as strict as the server."""
    folder = os.environ.get("KUBERAY_CRD_DIR")
    if folder is None:
        pytest.skip("KUBERAY_CRD_DIR is not set: the folder with KubeRay's rayservices.yaml")
    crd = yaml.load((Path(folder) / "rayservices.yaml").read_text(), yaml.CSafeLoader)
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1")
    return jsonschema.Draft7Validator(strict(schema))


def strict(schema: Any) -> Any:
    """A CRD's schema as a JSON schema that allows no field beside those it names."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields") is True)
    return made


def test_kubernetes_accepts_every_object_and_would_see_a_typo(built: Built) -> None:
    known = [each for each in built.objects if each["kind"] != "RayService"]
    for each in known:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    budget = copy.deepcopy(built.all("PodDisruptionBudget")["front"])
    budget["spec"]["minAvailible"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="minAvailible"):
        kubernetes_validate.validate(budget, kubernetes_validate.latest_version(), strict=True)


def test_kuberay_accepts_the_service_and_would_see_a_typo(built: Built, kuberay: Any) -> None:
    service = copy.deepcopy(built.all("RayService")["kinoray"])
    kuberay.validate(service)
    (container,) = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["imagePullPolice"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePullPolice"):
        kuberay.validate(service)


@pytest.mark.parametrize(("name", "file"), SERVE.items())
def test_kinoray_accepts_the_serve_config_which_is_the_file_itself(name: str, file: Path) -> None:
    (application,) = load_config(file)["applications"]
    stages = deployment_names(load_settings(application["args"]).cards()).values()
    there = {*ALWAYS, *(name for names in stages for name in names.values())}
    assert {each["name"] for each in application["deployments"]} == there
    assert overlay(name).ray["serveConfigV2"] == file.read_text()


def test_everything_is_in_one_namespace_whichever_way_leads_in(built: Built, tmp_path: Path) -> None:
    assert {each["metadata"].get("namespace") for each in built.objects if each["kind"] != "Namespace"} == {"kinoray"}
    base, way = (os.path.relpath(K8S / each, tmp_path.resolve()) for each in ("base", "components/gateway"))
    kustomization = f"namespace: kinoray\nresources: [{base}]\ncomponents: [{way}]\n"
    (tmp_path / "kustomization.yaml").write_text(kustomization)
    for kind in ("Gateway", "HTTPRoute"):
        assert Built(tmp_path).all(kind)["kinoray"]["metadata"]["namespace"] == "kinoray"


def test_every_replica_has_a_pod_that_fits_it_and_all_fit_the_most_pods(built: Built) -> None:
    for name, group in built.groups.items():
        alike = [each for each in built.groups.values() if built.runs(each) == built.runs(group)]
        for kind, option in {"CPU": "num_cpus", "GPU": "num_gpus"}.items():
            wants = {each["name"]: each["ray_actor_options"].get(option, 0) for each in built.runs(group)}
            assert all(want <= holds(group)[kind] for want in wants.values()), name
            asked = sum(most_replicas(each) * wants[each["name"]] for each in built.runs(group))
            assert asked <= sum(each["maxReplicas"] * holds(each)[kind] for each in alike), name
        for each in built.runs(group):
            if "max_replicas_per_node" in each:
                assert most_replicas(each) <= each["max_replicas_per_node"] * group["minReplicas"], each["name"]
    at_home = [each for group in built.groups.values() for each in built.runs(group)]
    assert all(each in at_home for each in built.deployments)


def holds(group: dict[str, Any]) -> dict[str, float]:
    """What KubeRay tells Ray that a pod has: from its limits, else its requests."""
    (container,) = group["template"]["spec"]["containers"]
    there = {**container["resources"]["requests"], **container["resources"]["limits"]}
    return {"CPU": there["cpu"], "GPU": there.get("nvidia.com/gpu", 0)}


def test_gpu_pods_come_with_the_jobs_and_spot_would_come_first(production: Built) -> None:
    groups = production.groups
    fewest = {name: each["minReplicas"] for name, each in groups.items() if holds(each)["GPU"]}
    assert fewest == {"denoise-spot": 0, "denoise": 0, "encode-decode": 0}
    assert groups["denoise-spot"]["priority"] > groups["denoise"].get("priority", 0)
    selectors = {name: each["template"]["spec"].get("nodeSelector", {}) for name, each in groups.items()}
    market = {name: selector.get("karpenter.sh/capacity-type") for name, selector in selectors.items()}
    assert market == {"front": None, "denoise-spot": "spot", "denoise": "on-demand", "encode-decode": "on-demand"}
    # Of a GPU that there is no node with yet Karpenter knows this alone.
    gpus = {name: selectors[name].keys() - {"karpenter.sh/capacity-type"} for name in fewest}
    assert all(keys == {"karpenter.k8s.aws/instance-gpu-name"} for keys in gpus.values())


def test_ray_asks_for_other_nodes_when_no_spot_instance_has_come(
    production: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {"metadata": {"name": "kinoray", "namespace": "kinoray"}, "spec": production.ray["rayClusterConfig"]}
    config = AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster), skip_content_hash=True)
    monitor = CloudResourceMonitor()
    assert denoisers_asked_for(config, monitor) == {"denoise-spot": 8}
    given_up = InstanceUpdateEvent(instance_type="denoise-spot", new_instance_status=Instance.ALLOCATION_TIMEOUT)
    monitor.notify([given_up])
    assert denoisers_asked_for(config, monitor) == {"denoise": 8}
    (own,) = production.ray["rayClusterConfig"]["autoscalerOptions"]["env"]
    code = "from ray.autoscaler.v2.instance_manager.config import InstanceReconcileConfig as Config\n"
    code += "print(Config().allocate_status_timeout_s)"
    monkeypatch.setenv(own["name"], own["value"])
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == own["value"]


def denoisers_asked_for(config: AutoscalingConfig, monitor: CloudResourceMonitor) -> dict[str, int]:
    """How many pods of which group Ray would start for eight denoisers."""
    stages = ("kinoray/stages", LabelSelectorOperator.LABEL_OPERATOR_IN, ["denoise"])
    denoiser = ResourceRequestUtil.make({"CPU": 2, "GPU": 1}, label_selectors=[[stages]])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([denoiser] * 8),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    asked = ResourceDemandScheduler().schedule(request).to_launch
    return {each.instance_type: each.count for each in asked if each.instance_type.startswith("denoise")}


def test_pods_have_the_large_image_where_stages_compute_and_only_there(built: Built) -> None:
    assert built.pods["head"][1]["containers"][0]["image"].endswith("api")
    for name, group in built.groups.items():
        computes = any(each["name"] not in ALWAYS for each in built.runs(group))
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"].endswith("api") != computes, name


def test_the_job_store_is_migrated_before_there_is_a_pod_for_what_needs_it(built: Built, tmp_path: Path) -> None:
    homes = [name for name, group in built.groups.items() if any(each["name"] in ALWAYS for each in built.runs(group))]
    assert homes == ["front"]
    spec = built.pods["front"][1]
    (first,) = spec["initContainers"]
    assert first["envFrom"] == spec["containers"][0]["envFrom"]
    # A pod whose init container fails is not restarted: it tries until it succeeds.
    tries = tmp_path / "tries"
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$*" >>{tries}\ntest "$(wc -l <{tries})" -eq 3\n')
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("python", "sleep"):
        (tmp_path / name).chmod(0o755)
    subprocess.run(first["command"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, timeout=10)
    assert tries.read_text().splitlines() == ["-m cli migrate"] * 3


def test_a_denoiser_has_the_disk_for_what_its_bucket_does_not_take(production: Built) -> None:
    for name, group in production.groups.items():
        if any(each["name"].startswith(DENOISER) for each in production.runs(group)):
            (container,) = group["template"]["spec"]["containers"]
            wanted = container["resources"]["requests"]["ephemeral-storage"]
            assert int(wanted.removesuffix("Gi")) * 1024 > BucketSettings.model_fields["spool_mib"].default, name


def test_ray_is_the_one_of_the_lock(production: Built) -> None:
    version = production.ray["rayClusterConfig"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "requirements.lock").read_text().splitlines()


def test_a_pod_that_is_told_to_stop_has_the_time_to_give_its_jobs_back(built: Built) -> None:
    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S > 0, "Ray no longer drains its node by itself"
    conductor: Any = Conductor  # a deployment, which type checkers cannot see
    for name in ("head", *built.groups):
        spec = built.pods[name][1]
        environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        drains = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert conductor._deployment_config.graceful_shutdown_timeout_s < drains, name
        assert drains < spec["terminationGracePeriodSeconds"], name


def test_upgrades_and_the_ways_in_outlast_the_longest_request(production: Built, gateway: dict[str, Any]) -> None:
    longest = Settings().sync_timeout_s
    assert production.ray["rayClusterDeletionDelaySeconds"] >= longest
    annotations = production.all("Ingress")["kinoray"]["metadata"]["annotations"]
    idle = annotations["alb.ingress.kubernetes.io/load-balancer-attributes"]
    assert float(idle.removeprefix("idle_timeout.timeout_seconds=")) > longest
    (rule,) = gateway["HTTPRoute"]["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}


def test_the_ways_in_lead_to_the_front_pods_alone(production: Built, gateway: dict[str, Any]) -> None:
    service = production.all("Service")["kinoray"]["spec"]
    reached = [name for name, (labels, _) in production.pods.items() if service["selector"].items() <= labels.items()]
    assert reached == ["front"]
    (port,) = service["ports"]
    (path,) = production.all("Ingress")["kinoray"]["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"] == {"service": {"name": "kinoray", "port": {"name": port["name"]}}}
    (rule,) = gateway["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "kinoray", "port": port["port"]}]


def test_what_selects_pods_finds_some_and_strangers_reach_the_api_only(built: Built) -> None:
    policies = {name: each["spec"] for name, each in built.all("NetworkPolicy").items()}
    selectors = [each["podSelector"] for each in policies.values() if each["podSelector"]]
    selectors += [each["spec"]["selector"] for each in built.all("PodDisruptionBudget").values()]
    for selector in selectors:
        assert any(selector["matchLabels"].items() <= labels.items() for labels, _ in built.pods.values()), selector
    # The first covers every pod, and so shuts out whom no other names.
    assert policies["within"] == {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
    rules = [(name, rule) for name, spec in policies.items() for rule in spec["ingress"]]
    assert [each for each in rules if "from" not in each[1]] == [("front", {"ports": [{"port": 8000}]})]


def test_every_pod_keeps_to_what_its_namespace_enforces(built: Built) -> None:
    labels = built.all("Namespace")["kinoray"]["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, (_, spec) in built.pods.items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        containers = spec["containers"] + spec.get("initContainers", [])
        assert all(each["securityContext"] == LOCKED for each in containers), name
        assert all(each.keys() == {"name", "persistentVolumeClaim"} for each in spec.get("volumes", [])), name
    assert built.ray["rayClusterConfig"]["autoscalerOptions"]["securityContext"] == LOCKED


def test_only_the_head_may_change_the_cluster(production: Built) -> None:
    (account,) = production.all("ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"].keys() == {"eks.amazonaws.com/role-arn"}
    for name, (_, spec) in production.pods.items():
        if name == "head":  # KubeRay makes an account for it
            assert "serviceAccountName" not in spec
        elif name in production.groups:
            assert spec["serviceAccountName"] == account["metadata"]["name"], name
        else:
            assert spec["automountServiceAccountToken"] is False, name


def test_no_pod_has_a_probe_that_its_image_cannot_run(built: Built) -> None:
    for name, group in built.groups.items():
        (container,) = group["template"]["spec"]["containers"]
        assert "httpGet" in container["readinessProbe"], f"{name}: KubeRay's own runs wget, which the image has not"


def test_no_secret_is_in_git_but_a_laptops_and_the_page_names_every_key(production: Built) -> None:
    assert not production.all("Secret")
    wanted = {("kinoray", None), ("kinoray-ray", "redis_password"), ("kinoray-ray", "auth_token")}
    assert {*secrets(production.objects), ("kinoray-ray", "auth_token")} == wanted  # the one that KubeRay reads
    page = (ROOT / "docs/kubernetes.md").read_text()
    made = overlay("dev").all("Secret")
    for name, key in wanted:
        assert f"create secret generic {name} " in page
        assert key is None or (f"literal={key}=" in page and key in made[name]["data"])
    assert made["kinoray"]["data"].keys() >= {"KINORAY_DATABASE_URL"}
    assert "literal=KINORAY_DATABASE_URL=" in page


def secrets(value: Any) -> Iterator[tuple[str, str | None]]:
    """Every secret that anything below `value` reads, with the key where it names one."""
    if isinstance(value, list):
        for each in value:
            yield from secrets(each)
    elif isinstance(value, dict):
        for kind in {"secretKeyRef", "secretRef"} & value.keys():
            yield value[kind]["name"], value[kind].get("key")
        for each in value.values():
            yield from secrets(each)
