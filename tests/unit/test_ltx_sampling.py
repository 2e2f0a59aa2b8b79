"""The schedule, positions and prompts of LTX-Video's releases, against the makers' numbers and diffusers' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline, linear_quadratic_schedule

from benchmarks.random_weights import build_ltx, ltx_card
from pipelines.card import Compression
from pipelines.local import LocalPipeline
from pipelines.ltx.card import LTXParameters
from pipelines.ltx.outputs import FinalLatents, TextConditioning
from pipelines.ltx.packing import causal_positions
from pipelines.ltx.schedule import noise_levels
from pipelines.ltx.text import TextEncoder
from pipelines.protocols import DenoiseInputs, Resources

COMPRESSION = Compression(spatial=32, temporal=8)


def test_the_linear_quadratic_schedule_has_the_makers_numbers() -> None:
    levels = noise_levels("linear-quadratic", 8)
    assert levels == pytest.approx([1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875])
    assert sum(level >= 0.975 for level in noise_levels("linear-quadratic", 40)) == 21


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 25, 30, 40, 1000])
def test_the_schedule_is_diffusers_own(steps: int) -> None:
    ours = torch.tensor(noise_levels("linear-quadratic", steps))
    assert torch.equal(ours, linear_quadratic_schedule(steps))


def test_the_first_frame_stands_alone_in_time() -> None:
    positions = causal_positions((4, 1, 2), COMPRESSION, fps=25)
    assert positions.shape == (1, 3, 8)
    assert positions[0, 0, ::2].tolist() == pytest.approx([0, 0.04, 0.36, 0.68])
    assert positions[0, 2].tolist() == [0, 32] * 4


def test_positions_are_diffusers_own() -> None:
    grid = (3, 2, 5)
    reference = LTXConditionPipeline._prepare_video_ids(1, *grid)
    reference = LTXConditionPipeline._scale_video_ids(reference, scale_factor=32, scale_factor_t=8).float()
    reference[:, 0] = reference[:, 0] * (1.0 / 24)
    assert torch.equal(causal_positions(grid, COMPRESSION, fps=24), reference)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ltx(tmp_path_factory.mktemp("ltx"), dynamic_shifting=False)


def test_the_card_decides_schedule_and_positions(folder: Path) -> None:
    card = ltx_card(folder, schedule="linear-quadratic", causal_positions=True)
    pipeline = LocalPipeline(card, gpu=False)
    parameters = card.default_parameters()
    plain = parameters.model_copy(update={"schedule": "uniform"})
    not_causal = parameters.model_copy(update={"causal_positions": False})
    for other in (plain, not_causal):
        assert not torch.equal(latents(pipeline, other), latents(pipeline, parameters))


def latents(pipeline: LocalPipeline, parameters: LTXParameters) -> torch.Tensor:
    result = pipeline.denoise(parameters, pipeline.condition("x", parameters, None))
    assert isinstance(result, FinalLatents)
    return result.latents


def test_masking_the_padding_makes_an_embedding_free_of_its_length(folder: Path) -> None:
    card = ltx_card(folder, guidance_scale=1.0)
    encoder = TextEncoder(card, Resources(gpu=False, threads=1))

    def embed(prompt: str, length: int, padding: bool) -> TextConditioning:
        fields = {"max_sequence_length": length, "t5_attends_to_padding": padding}
        return encoder.encode(prompt, card.default_parameters().model_copy(update=fields))

    words = int(embed("a red circle", 16, padding=True).prompt_attention_mask.sum())
    short, long = (embed("a red circle", length, padding=False).prompt_embeds[:, :words] for length in (16, 32))
    assert torch.allclose(short, long, atol=1e-5), "what T5 does not see changes nothing"
    short, long = (embed("a red circle", length, padding=True).prompt_embeds[:, :words] for length in (16, 32))
    assert not torch.allclose(short, long, atol=1e-2)


def test_embeddings_of_another_dtype_are_taken(folder: Path) -> None:
    """A text encoder on a CPU may compute in float32 beside a transformer in bfloat16."""
    card = ltx_card(folder).model_copy(update={"dtype": {"cpu": "bfloat16", "cuda": "bfloat16"}})
    denoiser = LocalPipeline(card, gpu=False).denoiser
    embeds, mask = torch.zeros(1, 32, 32), torch.ones(1, 32, dtype=torch.bool)
    run = denoiser.begin(card.default_parameters(), DenoiseInputs(TextConditioning(embeds, mask, embeds, mask), None))
    run.step()
    assert run.step_index == 1


def test_a_distilled_schedule_runs(folder: Path) -> None:
    card = ltx_card(folder, timesteps=[1000, 900, 0.03], num_inference_steps=3, guidance_scale=1.0)
    video = LocalPipeline(card, gpu=False).generate("x", card.default_parameters())
    assert video.shape == (9, 3, 64, 64)
    assert torch.isfinite(video).all()
