"""The Dockerfile and compose.yaml as far as they can be held without a container engine."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import compose_spec
import pytest
import yaml

from cli.service import environment
from deployments.configuration.serve_config import load_config
from pipelines.paths import ROOT
from storage.settings import BucketSettings

DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return config


def parse(compose: dict[str, Any]) -> None:
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose))


def tool(name: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_and_would_find_a_root_user() -> None:
    found = tool("hadolint", "Dockerfile")
    assert found.returncode == 0, found.stdout
    assert "DL3002" in tool("hadolint", "-", given=f"{DOCKERFILE}USER root\n").stdout


def test_the_images_have_what_every_node_of_ray_is_started_with(tmp_path: Path) -> None:
    (block,) = re.findall(r"^ENV (PATH=/opt/venv/bin:\$PATH \\\n.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    given = dict(each.strip(" \\").split("=", 1) for each in block.splitlines())
    wanted = environment(tmp_path)
    # Whether Ray wants a token is for KubeRay to say; on one machine `kinoray serve` does.
    token = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    assert wanted.keys() - given.keys() == token
    same = wanted.keys() - token - {"KINORAY_DATA", "PYTHONPATH"}
    assert {key: given[key] for key in same} == {key: wanted[key] for key in same}


def test_the_front_has_the_whole_lock_but_what_computes() -> None:
    (pattern,) = re.findall(r"grep -Ev '(.*)' /tmp/requirements.lock", DOCKERFILE)
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    left_out = {line.split("=")[0] for line in lock if re.search(pattern, line)}
    assert left_out == {"torch", "xformers", "diffusers", "transformers", "accelerate"}


def test_an_image_holds_every_module_of_the_service_and_nothing_else() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert patterns[0] == "*"
    there = {line.removeprefix("!").rstrip("/") for line in patterns if line.startswith("!")}
    ours = {each.name for each in ROOT.iterdir() if (each / "__init__.py").exists()}
    needed, found = {"cli"}, imported(ROOT / "serve_app.py") & ours
    while found:
        needed |= found
        found = {name for each in needed for module in (ROOT / each).rglob("*.py") for name in imported(module) & ours}
        found -= needed
    assert there == {"requirements.lock", "serve_app.py", "configs", "models", *needed}


def imported(module: Path) -> set[str]:
    """The first part of every module's name that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_container_is_healthy_as_long_as_its_api_answers(status: int, healthy: bool) -> None:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (code,) = re.findall(r'^    CMD \["python", "-c", "(.*)"\]$', DOCKERFILE, re.MULTILINE)
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.handle_request, daemon=True).start()
        code = code.replace("127.0.0.1:8000", f"127.0.0.1:{server.server_port}")
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False)
    assert (done.returncode == 0) == healthy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda services: services["kinoray"].update(restrat="always"), "restrat"),
        (lambda services: services["kinoray"]["depends_on"]["migrate"].update(condition="done"), "condition"),
        (lambda services: services["postgres"]["healthcheck"].update(intervall="5s"), "intervall"),
    ],
)
def test_compose_is_sound_and_a_typo_would_be_seen(
    compose: dict[str, Any], change: Callable[[Any], None], says: str
) -> None:
    parse(compose)
    wrong = copy.deepcopy(compose)
    change(wrong["services"])
    with pytest.raises(ValueError, match=says):
        parse(wrong)


def test_what_compose_refers_to_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", [])) <= services.keys(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in compose["volumes"], volume
    assert services["kinoray"]["command"][-1] == "configs/compose.yaml"
    assert re.search(rf"^FROM .* AS {services['kinoray']['build']['target']}$", DOCKERFILE, re.MULTILINE)
    (application,) = load_config(ROOT / "configs/compose.yaml")["applications"]
    bucket = BucketSettings.model_validate(application["args"]["bucket"])
    assert bucket.endpoint_url == "http://seaweedfs:8333"
    assert f"-bucket={bucket.name}" in services["seaweedfs"]["command"]


def test_nothing_of_compose_can_be_reached_from_other_machines(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_secrets_of_compose_are_not_in_git_and_the_example_names_each(compose: dict[str, Any]) -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    asked |= {key for key, value in compose["services"]["kinoray"]["environment"].items() if value is None}
    example = (ROOT / ".env.example").read_text()
    assert asked == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=$", example, re.MULTILINE))
