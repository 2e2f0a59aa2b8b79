"""Where weights come from, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.random_weights import build_ltx, ltx_card
from pipelines.card import ModelCard
from pipelines.catalogue import get_card, read_card
from pipelines.errors import WeightsUnavailable
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, resolve
from pipelines.weights import locate, prefetch


def with_source(card: ModelCard, **source: str) -> ModelCard:
    return read_card({**card.model_dump(mode="json"), "source": source})


def test_without_a_hub_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing listens on this port of the loopback interface, so the hub is unreachable on any machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable, match=r"source: \{folder: /path/to/it\}"):
        prefetch(get_card("ltx-video-0.9.5"))


def test_a_missing_folder_and_file_say_so(tmp_path: Path) -> None:
    card = ltx_card(tmp_path / "nowhere")
    with pytest.raises(WeightsUnavailable, match="has no folder vae"):
        locate(card, "vae")
    single = with_source(card, file=str(tmp_path / "x.safetensors"), config=str(tmp_path))
    with pytest.raises(WeightsUnavailable, match="there is no file"):
        LocalPipeline(single, gpu=False).denoiser  # noqa: B018


def test_a_distilled_schedule_runs(tmp_path: Path) -> None:
    card = ltx_card(
        build_ltx(tmp_path, dynamic_shifting=False),
        timesteps=[1000, 900, 0.03],
        num_inference_steps=3,
        guidance_scale=1.0,
    )
    pipeline = LocalPipeline(card, gpu=False)
    video = pipeline.generate("x", resolve(GenerationRequest(prompt="x", seed=1), card))
    assert video.shape == (9, 3, 64, 64)
    assert torch.isfinite(video).all()
