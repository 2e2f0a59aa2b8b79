"""`kinoray config check` says what is wrong with a model's weights before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.random_weights import build_ltx, ltx_card
from deployments.configuration.names import ALWAYS, deployment_names
from pipelines.card import ModelCard
from pipelines.paths import ROOT


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return ltx_card(build_ltx(tmp_path / "checkpoint"))


def check(card: ModelCard, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command on a config file that serves this card."""
    models, config = folder / "models", folder / "serve.yaml"
    models.mkdir()
    (models / f"{card.id}.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    names = [*ALWAYS, *deployment_names({card.id: card})[card.id].values()]
    application: dict[str, Any] = {
        "name": "kinoray", "route_prefix": "/", "import_path": "serve_app:build_app", "args": {"models": [card.id]},
        "deployments": [{"name": name, "num_replicas": 1} for name in names],
    }  # fmt: skip
    http = {"host": "127.0.0.1", "port": 8000}
    config.write_text(
        yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]})
    )
    return subprocess.run(
        [sys.executable, "-m", "cli", "config", "check", str(config)], cwd=ROOT, text=True, capture_output=True,
        check=False, env={**os.environ, "KINORAY_MODELS": str(models), "COLUMNS": "1000"},
    )  # fmt: skip


@pytest.mark.long
def test_whole_weights_are_sound(card: ModelCard, tmp_path: Path) -> None:
    done = check(card, tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"{tmp_path}/serve.yaml is sound"), done.stderr
    assert "XFORMERS" not in done.stderr


def test_a_file_that_is_cut_short_is_an_error(card: ModelCard, tmp_path: Path) -> None:
    (path,) = (tmp_path / "checkpoint" / "vae").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    done = check(card, tmp_path)
    assert done.returncode == 1
    assert f"{path} is cut short" in done.stderr


@pytest.mark.long
def test_weights_that_are_elsewhere_are_no_error(card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").rename(tmp_path / "elsewhere")
    done = check(card, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/checkpoint is not on this machine" in done.stderr
    assert "transformer, vae not checked" in done.stderr
