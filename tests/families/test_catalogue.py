"""Every model of the catalogue is fetched from a hub and rendered by the service, from a checkpoint of its release.

The checkpoints have the releases' files, layers and names, and narrow networks with random weights. A card here is the
catalogue's own, except for its id and a default size on which a CPU can warm up.
"""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from benchmarks.releases import build_release
from deployments.configuration.names import ALWAYS, deployment_names
from pipelines.card import CheckpointCard
from pipelines.catalogue import CATALOGUE, load_catalogue, read_card
from pipelines.paths import ROOT
from tests.conftest import ServiceClient
from tests.harness.command import Command, is_ready, own_config
from tests.harness.hub import MEMBER, run_hub

SMALL = {"width": 64, "height": 64, "num_frames": 9}
PNG = (ROOT / "tests" / "contract" / "red-circle-white.png").read_bytes()


def groups() -> list[list[str]]:
    """The models with weights on a hub, those that share an encoder together, a few at a time."""
    cards = {model: card for model, card in load_catalogue().items() if isinstance(card, CheckpointCard)}
    remote = {model: card for model, card in cards.items() if card.source.repo is not None}
    found: list[list[str]] = []
    for family in sorted({card.family for card in remote.values()}):
        models = [model for model, card in remote.items() if card.family == family]
        found += [models[start : start + 4] for start in range(0, len(models), 4)]
    return found


@pytest.mark.long
@pytest.mark.parametrize("models", groups(), ids=lambda models: models[0])
def test_each_model_is_served_from_its_release(models: list[str], tmp_path: Path) -> None:
    served = write_cards(models, tmp_path / "models")
    for model in models:
        build_release(model, tmp_path / "hub")
    with run_hub() as hub:
        for repository in (tmp_path / "hub").glob("*/*"):
            hub.push_folder(repository.relative_to(tmp_path / "hub").as_posix(), repository)
        environment = {
            **hub.environment(tmp_path / "home"), "HF_TOKEN": MEMBER, "KINORAY_MODELS": str(tmp_path / "models")
        }  # fmt: skip
        path, url = own_config(tmp_path, config(served))
        prefetched = Command("prefetch", "--all", str(path), data=tmp_path / "data", **environment)
        assert "error" not in prefetched.ended(within_s=300)
        fetched = len(hub.sent)
        service = Command("serve", "--config", str(path), data=tmp_path / "data", **environment)
        client = ServiceClient(url)
        try:
            service.wait_for(lambda: is_ready(url))
            created = [create(client, model, models[0]) for model in served]
            jobs = [client.finish(job) for job in created]
            assert [len(frames(client.content(job["id"]))) for job in jobs] == [SMALL["num_frames"]] * len(models)
            assert all(job["result_metadata"]["model_revision"] for job in jobs)
        finally:
            client.http.close()
            service.stop(signal.SIGTERM)
        assert len(hub.sent) == fetched, "the service fetched what prefetch should have"


def write_cards(models: list[str], folder: Path) -> dict[str, CheckpointCard]:
    """Write each model's card with a small default size, under an id of its own; returns them by that id."""
    folder.mkdir()
    served: dict[str, CheckpointCard] = {}
    for model in models:
        data = yaml.safe_load((CATALOGUE / f"{model}.yaml").read_text())
        data |= {"id": f"small-{model}", "defaults": {**data["defaults"], **SMALL}}
        (folder / f"small-{model}.yaml").write_text(yaml.safe_dump(data))
        card = read_card(data)
        assert isinstance(card, CheckpointCard)
        served[card.id] = card
    return served


def config(cards: dict[str, CheckpointCard]) -> dict[str, Any]:
    names = {name for stages in deployment_names(cards).values() for name in stages.values()}
    deployments = [
        {"name": name, "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.05}} for name in (*ALWAYS, *sorted(names))
    ]
    application = {
        "name": "kinoray", "route_prefix": "/", "import_path": "serve_app:build_app",
        "args": {"models": sorted(cards), "threads": {"denoise": 1, "decode": 1}}, "deployments": deployments,
    }  # fmt: skip
    return {
        "proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [application],
    }  # fmt: skip


def create(client: ServiceClient, model: str, with_image: str) -> str:
    """Ask for one video, from an image where the model needs one; the first of each group gets one too."""
    fields: dict[str, Any] = {"model": model, "seed": 1}
    image = model.startswith("small-svd") or model == f"small-{with_image}"
    if not model.startswith("small-svd"):
        fields["prompt"] = "a red circle"
    if image:
        files = {"input_reference": ("image.png", PNG, "image/png")}
        response = client.http.post("/v1/videos", data=fields, files=files)
    else:
        response = client.http.post("/v1/videos", json=fields)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def frames(video: bytes) -> list[Any]:
    with av.open(io.BytesIO(video)) as container:
        return list(container.decode(video=0))
