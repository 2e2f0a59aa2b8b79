"""The benchmark of a GPU, on a CPU with little checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.full_size import ARCHITECTURES
from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from pipelines.catalogue import get_card
from pipelines.ltx.card import LTXCard
from pipelines.simulated.timings import Timings
from pipelines.stages import Stage

CPU = torch.device("cpu")
SINCE_095 = {"schedule": "linear-quadratic", "causal_positions": True, "t5_attends_to_padding": False}


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ltx(tmp_path_factory.mktemp("ltx"), dynamic_shifting=False, shift_terminal=None)


@pytest.mark.long
def test_a_model_with_stg_is_measured_with_and_without_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stg = {"stg_scale": 1.0, "stg_rescale": 0.7, "stg_blocks": [1], "image_cond_noise_scale": 0.15}
    bench = gpu.measure(ltx_card(folder, **SINCE_095, **stg), CPU)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert {row[1] for row in rows} == {"text, STG", "text", "picture"}
    assert [row[1] for row in rows if row[2] == "image_encode"] == ["picture"]
    ours = {row[1]: " | ".join(row) for row in rows if row[2] == "ours, stage after stage"}
    assert "equal bits" in ours["text"]
    assert "equal bits" in ours["picture"]
    assert "ratio" not in ours["text, STG"], "diffusers has none"
    assert set(bench.costs) == {Stage.TEXT_ENCODE, Stage.DENOISE, Stage.DECODE}
    kept = Timings.model_validate(gpu.timings(bench))
    assert kept.passes_per_step == 3
    assert kept.step.fixed_s == pytest.approx(bench.costs[Stage.DENOISE].seconds / 4, abs=1e-4)


@pytest.mark.long
def test_a_distilled_model_is_measured_from_text_and_from_a_picture(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {"timesteps": [1000, 725], "num_inference_steps": 2, "guidance_scale": 1.0}
    bench = gpu.measure(ltx_card(folder, **SINCE_095, **schedule, image_cond_noise_scale=0.15), CPU)
    ours = [line for line in capsys.readouterr().out.splitlines() if "ours" in line]
    assert [line.split(" | ")[1] for line in ours] == ["text", "picture"]
    assert all("equal bits" in line for line in ours)
    assert gpu.timings(bench)["passes_per_step"] == 1


@pytest.mark.long
def test_stable_video_diffusion_is_measured_from_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = gpu.measure(svd_card(build_svd(tmp_path), num_frames=2), CPU)
    (ours,) = [line for line in capsys.readouterr().out.splitlines() if "ours" in line]
    assert "| picture |" in ours
    assert "equal bits" in ours
    assert gpu.timings(bench)["passes_per_step"] == 2


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_a_model_of_real_size_has_the_pipeline_and_the_blocks_of_its_release(model: str) -> None:
    card = get_card(model)
    if not isinstance(card, LTXCard):
        return
    assert ARCHITECTURES[model].pipeline.__name__ == "LTXConditionPipeline"
    with torch.device("meta"):
        transformer = ARCHITECTURES[model].networks()["transformer"]
    assert sum(each.numel() for each in transformer.parameters()) == (
        13_042_569_344 if "13b" in model else 1_923_385_472
    )
