"""The guidance of one LTX-Video step: which passes run, what is made of them, and what the perturbed one leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.random_weights import build_ltx, ltx_card
from pipelines.errors import ConfigError
from pipelines.local import LocalPipeline
from pipelines.ltx.denoise import Denoiser
from pipelines.ltx.guidance import combined, guided_prediction
from pipelines.ltx.guidance_settings import Guidance, Pass
from pipelines.ltx.outputs import DenoiseState
from pipelines.ltx.stg import without_self_attention
from pipelines.protocols import Resources

PLAIN = Guidance(scale=1.0, rescale=0.0, stg_scale=0.0, stg_rescale=0.0, stg_blocks=())
BOTH = Guidance(scale=3.0, rescale=0.0, stg_scale=2.0, stg_rescale=0.7, stg_blocks=(1,))


@pytest.fixture
def predictions() -> dict[Pass, Tensor]:
    generator = torch.Generator().manual_seed(0)
    passes: tuple[Pass, ...] = ("negative", "positive", "perturbed")
    return {each: torch.randn(1, 6, 4, generator=generator) for each in passes}


def test_a_step_runs_the_passes_that_it_needs() -> None:
    assert PLAIN.passes == ("positive",)
    assert Guidance(1.5, 0.0, 0.0, 0.0, ()).passes == ("negative", "positive")
    assert Guidance(1.0, 0.0, 0.5, 0.0, (1,)).passes == ("positive", "perturbed")
    assert Guidance(1.0, 0.0, 0.5, 0.0, ()).passes == ("positive",), "nothing would be perturbed"
    assert BOTH.passes == ("negative", "positive", "perturbed")


def test_both_guidances_are_added_and_their_sum_is_rescaled(predictions: dict[Pass, Tensor]) -> None:
    negative, positive, perturbed = (predictions[each].double() for each in BOTH.passes)
    total = negative + 3 * (positive - negative) + 2 * (positive - perturbed)
    factor = 0.7 * positive.std() / total.std() + 0.3
    assert torch.allclose(combined(BOTH, predictions, star=False).double(), total * factor, atol=1e-5)


def test_nothing_is_rescaled_without_spatio_temporal_guidance(predictions: dict[Pass, Tensor]) -> None:
    negative, positive = predictions["negative"], predictions["positive"]
    alone = Guidance(scale=3.0, rescale=0.0, stg_scale=0.0, stg_rescale=0.7, stg_blocks=(1,))
    two: dict[Pass, Tensor] = {"negative": negative, "positive": positive}
    assert torch.equal(combined(alone, two, star=False), negative + 3 * (positive - negative))


def test_the_star_takes_of_the_negative_prediction_what_is_in_the_positive_one(predictions: dict[Pass, Tensor]) -> None:
    negative, positive = predictions["negative"].double(), predictions["positive"].double()
    guidance = Guidance(scale=4.0, rescale=0.0, stg_scale=0.0, stg_rescale=0.0, stg_blocks=())
    length = float((negative * positive).sum() / negative.square().sum())
    wanted = length * negative + 4 * (positive - length * negative)
    two: dict[Pass, Tensor] = {"negative": negative, "positive": positive}
    assert torch.allclose(combined(guidance, two, star=True), wanted)


@pytest.mark.parametrize(("jointly", "batches"), [(True, [3]), (False, [1, 1, 1])])
def test_the_card_says_whether_the_passes_are_one_batch(
    predictions: dict[Pass, Tensor], jointly: bool, batches: list[int]
) -> None:
    seen: list[int] = []

    def forward(passes: Sequence[Pass]) -> Tensor:
        seen.append(len(passes))
        return torch.cat([predictions[each] for each in passes])

    prediction = guided_prediction(BOTH, forward, jointly=jointly, star=False)
    assert seen == batches
    assert torch.equal(prediction, combined(BOTH, predictions, star=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ltx(tmp_path_factory.mktemp("ltx"))


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    return Denoiser(ltx_card(folder), Resources(gpu=False, threads=1))


def forward(denoiser: Denoiser, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens, prompt = torch.randn(1, 8, 8, generator=generator), torch.randn(1, 4, 32, generator=generator)
    with torch.no_grad():
        prediction: Tensor = denoiser.transformer(
            hidden_states=tokens.repeat(batch, 1, 1), encoder_hidden_states=prompt.repeat(batch, 1, 1),
            timestep=torch.full((batch,), 700.0), encoder_attention_mask=torch.ones(batch, 4, dtype=torch.bool),
            num_frames=2, height=2, width=2, rope_interpolation_scale=(0.32, 32, 32), return_dict=False,
        )[0]  # fmt: skip
    return prediction


def test_the_perturbed_row_takes_its_values_unmixed(denoiser: Denoiser) -> None:
    attention = denoiser.transformer.transformer_blocks[1].attn1

    def only_values(module: Any, hidden_states: Tensor, *_: object) -> Tensor:
        return module.to_out[0](module.to_v(hidden_states))

    plain, own = forward(denoiser, 2), attention.processor
    attention.processor = only_values
    perturbed = forward(denoiser, 1)
    attention.processor = own
    with without_self_attention(denoiser.transformer, [1], rows=1):
        rows, alone = forward(denoiser, 3), forward(denoiser, 1)
    assert torch.allclose(rows[:2], plain, atol=1e-6)
    assert torch.allclose(rows[2:], perturbed, atol=1e-6)
    assert torch.allclose(alone, perturbed, atol=1e-6)
    assert not torch.allclose(rows[1:2], rows[2:], atol=1e-3)


def test_attention_is_as_before_after_a_pass_that_failed(denoiser: Denoiser) -> None:
    processors = [block.attn1.processor for block in denoiser.transformer.transformer_blocks]
    with pytest.raises(RuntimeError, match="out of memory"), without_self_attention(denoiser.transformer, [0, 1], 1):
        raise RuntimeError("out of memory")
    assert [block.attn1.processor for block in denoiser.transformer.transformer_blocks] == processors


def test_a_card_may_name_only_blocks_that_there_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match="random-ltx: stg_blocks names block 2; the transformer has 0 to 1"):
        Denoiser(ltx_card(folder, stg_scale=1.0, stg_blocks=[2]), Resources(gpu=False))


def test_a_block_that_the_default_steps_do_not_reach_is_seen_too(folder: Path) -> None:
    lists = {"guidance_timesteps": [1.0, 0.5], "stg_blocks": [[1], [99]]}
    card = ltx_card(folder, schedule="linear-quadratic", num_inference_steps=1, **lists)
    with pytest.raises(ConfigError, match="names block 99"):
        Denoiser(card, Resources(gpu=False))


def test_each_kind_of_step_is_warmed_up_once(folder: Path) -> None:
    lists = {"guidance_timesteps": [1.0, 0.98, 0.8], "guidance_scale": [1, 3, 1], "stg_scale": [0, 1, 1]}
    card = ltx_card(folder, schedule="linear-quadratic", stg_blocks=[1], **lists)
    denoiser = Denoiser(card, Resources(gpu=False))
    batches: list[int] = []

    def count(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        batches.append(len(named["hidden_states"]))

    denoiser.transformer.register_forward_pre_hook(count, with_kwargs=True)
    denoiser.warm_up()
    assert sorted(batches) == [1, 2, 3]


def test_guidance_changes_from_step_to_step(folder: Path) -> None:
    lists = {"guidance_timesteps": [1.0, 0.98], "guidance_scale": [1, 3], "stg_scale": [0, 2], "stg_blocks": [[], [1]]}
    card = ltx_card(folder, schedule="linear-quadratic", **lists)
    constant = ltx_card(folder, schedule="linear-quadratic", guidance_scale=3.0, stg_scale=2.0, stg_blocks=[1])
    listed, plain = (LocalPipeline(each, gpu=False) for each in (card, constant))
    parameters, others = card.default_parameters(), constant.default_parameters()
    inputs = listed.condition("x", parameters, None)
    ours, theirs = listed.denoiser.begin(parameters, inputs), plain.denoiser.begin(others, inputs)
    ours.step()
    theirs.step()
    assert not torch.equal(state(ours).latents, state(theirs).latents), "the first step has no guidance"
    theirs = plain.denoiser.begin(others, inputs, ours.state)
    ours.step()
    theirs.step()
    assert torch.equal(state(ours).latents, state(theirs).latents), "the second step has the second values"


def state(run: Any) -> DenoiseState:
    found = run.state
    assert isinstance(found, DenoiseState)
    return found
