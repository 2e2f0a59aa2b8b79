"""The cards of LTX-Video against the makers' own settings, step by step, and what is refused of cards and requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from pydantic import ValidationError

from pipelines.catalogue import get_card, load_catalogue, read_card
from pipelines.errors import InvalidRequest
from pipelines.ltx.card import LTXCard, LTXParameters
from pipelines.ltx.packing import causal_positions
from pipelines.requests import GenerationRequest, read_parameters, resolve
from tests.unit.door import OLD_LTX_ROW

Lists = list[float] | float


@dataclass(frozen=True, slots=True)
class Makers:
    """A release's settings as the makers' `configs/ltxv-*.yaml` have them; of two passes the first."""

    num_inference_steps: int = 40
    guidance_scale: Lists = 3
    stg_scale: Lists = 1
    rescaling_scale: Lists = 0.7  # 1 is off
    skip_block_list: Any = (19,)
    guidance_timesteps: tuple[float, ...] = ()
    cfg_star_rescale: bool = False
    stochastic_sampling: bool = False
    timesteps: tuple[float, ...] | None = None
    causal: bool = True
    frame_rate: int = 30

    def levels(self) -> torch.Tensor:
        """The noise level before each step, before the scheduler of 0.9.0 and 0.9.1 shifts them."""
        if self.timesteps is not None:
            return torch.tensor(self.timesteps)
        if not self.causal:
            return torch.linspace(1, 1 / self.num_inference_steps, self.num_inference_steps)
        return linear_quadratic_schedule(self.num_inference_steps)

    def at(self, level: torch.Tensor) -> tuple[float, float, float, tuple[int, ...]]:
        """Guidance, STG and rescaling scale and the skipped blocks: those of the first timestep not above the level."""
        reached = [place for place, each in enumerate(self.guidance_timesteps) if each <= level]
        place = reached[0] if reached else len(self.guidance_timesteps) - 1

        def of(values: Lists) -> float:
            return values[place] if isinstance(values, list) else values

        per_level = self.skip_block_list and isinstance(self.skip_block_list[0], list)
        blocks = self.skip_block_list[place] if per_level else self.skip_block_list
        return of(self.guidance_scale), of(self.stg_scale), of(self.rescaling_scale), tuple(blocks)


FIRST = Makers(causal=False, frame_rate=25)
# Their repository has the same lists for 0.9.7 and 0.9.8.
DEV_13B = Makers(
    num_inference_steps=30,
    guidance_scale=[1, 1, 6, 8, 6, 1, 1],
    stg_scale=[0, 0, 4, 4, 4, 2, 1],
    rescaling_scale=[1, 1, 0.5, 0.5, 1, 1, 1],
    guidance_timesteps=(1.0, 0.996, 0.9933, 0.9850, 0.9767, 0.9008, 0.6180),
    skip_block_list=[[], [11, 25, 35, 39], [22, 35, 39], [28], [28], [28], [28]],
    cfg_star_rescale=True,
)
TRAINED = (1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
"""The levels on which the distilled releases are trained; the makers' lists have them with four digits."""
DISTILLED = Makers(8, guidance_scale=1, stg_scale=0, rescaling_scale=1, skip_block_list=(), timesteps=TRAINED)
RELEASES = {
    "ltx-video-0.9.0": FIRST,
    "ltx-video-0.9.1": FIRST,
    "ltx-video-0.9.5": Makers(frame_rate=25),
    "ltx-video-0.9.6-dev": Makers(),
    "ltx-video-0.9.6-distilled": Makers(
        8, guidance_scale=1, stg_scale=0, rescaling_scale=1, skip_block_list=(), stochastic_sampling=True
    ),
    "ltx-video-0.9.7-13b-dev": DEV_13B,
    "ltx-video-0.9.7-13b-distilled": DISTILLED,
    "ltx-video-0.9.8-13b-dev": DEV_13B,
    "ltx-video-0.9.8-13b-distilled": DISTILLED,
    "ltx-video-0.9.8-2b-distilled": DISTILLED,
}
by_release = pytest.mark.parametrize(("model", "makers"), RELEASES.items(), ids=RELEASES)


def card_of(model: str) -> LTXCard:
    card = get_card(model)
    assert isinstance(card, LTXCard)
    return card


def ask(model: str, **fields: object) -> LTXParameters:
    parameters = resolve(GenerationRequest.model_validate({"prompt": "x", **fields}), get_card(model))
    assert isinstance(parameters, LTXParameters)
    return parameters


def test_every_release_is_here() -> None:
    assert set(RELEASES) == {model for model in load_catalogue() if model.startswith("ltx-video-")}


@by_release
def test_each_step_is_guided_as_the_makers_guide_it(model: str, makers: Makers) -> None:
    parameters = card_of(model).default_parameters()
    levels = makers.levels()
    assert torch.allclose(torch.tensor(parameters.levels), levels, rtol=0, atol=1e-7)
    for ours, theirs in zip(parameters.levels, levels, strict=True):
        scale, stg, rescaling, blocks = makers.at(theirs)
        guidance = parameters.guidance_at(ours)
        assert (guidance.scale, guidance.stg_scale) == (scale, stg)
        assert guidance.rescale == 0
        if stg > 0:  # the makers rescale nothing else
            assert guidance.stg_blocks == blocks
            assert guidance.stg_rescale == (0 if rescaling == 1 else rescaling)


@by_release
def test_a_release_is_sampled_as_it_is_trained(model: str, makers: Makers) -> None:
    parameters = card_of(model).default_parameters()
    assert parameters.schedule == ("linear-quadratic" if makers.causal else "uniform")
    assert parameters.causal_positions == makers.causal
    assert parameters.t5_attends_to_padding == (not makers.causal), "as the release's pipeline in diffusers has it"
    assert parameters.max_sequence_length == (256 if makers.causal else 128)
    assert parameters.stochastic_sampling == makers.stochastic_sampling
    assert parameters.cfg_star_rescale == makers.cfg_star_rescale
    assert parameters.num_inference_steps == makers.num_inference_steps
    assert parameters.fps == makers.frame_rate
    assert (parameters.image_blur, parameters.image_crf) == (True, 29)
    assert parameters.image_cond_noise_scale == (0.15 if makers.causal else 0)
    assert parameters.fit == "cover"
    decoder = (0.0, None) if model == "ltx-video-0.9.0" else (0.05, 0.025)
    assert (parameters.decode_timestep, parameters.decode_noise_scale) == decoder
    words = "worst quality, inconsistent motion, blurry, jittery, distorted"
    assert parameters.negative_prompt == (words if parameters.guided else "")


@by_release
def test_latent_frames_are_where_the_release_has_them_in_time(model: str, makers: Makers) -> None:
    card = card_of(model)
    if not makers.causal:
        assert card.compression.temporal / card.defaults.fps == 0.32
        return
    times = causal_positions((4, 1, 1), card.compression, card.defaults.fps)[0, 0]
    wanted = [0, 0.04, 0.36, 0.68] if card.defaults.fps == 25 else [0, 1 / 30, 0.3, 17 / 30]
    assert times.tolist() == pytest.approx(wanted)


def settings(**changes: object) -> LTXParameters:
    """The parameters of 0.9.5 with other guidance."""
    return LTXParameters.model_validate({**card_of("ltx-video-0.9.5").default_parameters().model_dump(), **changes})


def test_a_level_takes_the_value_of_the_first_one_that_it_has_reached() -> None:
    parameters = settings(guidance_timesteps=[0.9, 0.5, 0.1], guidance_scale=[7, 5, 3], stg_scale=[0, 1, 2])
    scales = {level: parameters.guidance_at(level).scale for level in (1.0, 0.9, 0.899, 0.5, 0.3, 0.1, 0.05, 0.0)}
    assert scales == {1.0: 7, 0.9: 7, 0.899: 5, 0.5: 5, 0.3: 3, 0.1: 3, 0.05: 3, 0.0: 3}
    assert [parameters.guidance_at(level).stg_scale for level in (1.0, 0.5, 0.0)] == [0, 1, 2]
    assert parameters.guidance_at(0.7).stg_blocks == (19,), "one list of blocks is for all levels"


def test_levels_are_compared_in_float32_as_the_makers_compare_them() -> None:
    parameters = settings(guidance_timesteps=[0.985, 0.5], guidance_scale=[7, 5])
    below = math.nextafter(0.985, 0)
    assert parameters.guidance_at(below).scale == 7
    assert parameters.guidance_at(0.9849).scale == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guidance_scale": [3, 2]}, "guidance_scale has 2 values and guidance_timesteps 0; give one for each"),
        ({"guidance_timesteps": [1, 0.5], "stg_scale": [1]}, "stg_scale has 1 values and guidance_timesteps 2"),
        ({"guidance_timesteps": [1, 0.5], "stg_rescale": [1, 1, 1]}, "stg_rescale has 3 values"),
        ({"guidance_timesteps": [1, 0.5], "stg_blocks": [[1], [2], [3]]}, "stg_blocks has 3 values"),
        ({"guidance_timesteps": [0.5, 1]}, "guidance_timesteps must descend"),
        ({"guidance_timesteps": [1, 1]}, "guidance_timesteps must descend"),
        ({"guidance_timesteps": [1000, 500]}, "less than or equal to 1"),
        ({"schedule": "uniform", "guidance_timesteps": [1, 0.5]}, "guidance_timesteps needs noise levels that no"),
        ({"guidance_scale": -1}, "greater than or equal to 0"),
        ({"guidance_scale": float("nan")}, "finite number"),
        ({"stg_rescale": 5}, "less than or equal to 1"),
        ({"stg_blocks": [-1]}, "greater than or equal to 0"),
        ({"timesteps": [1000, 500]}, "num_inference_steps must be the length of timesteps"),
        (
            {"timesteps": [1000, 500], "num_inference_steps": 2, "shorter_timesteps": [[1000, 400, 500]]},
            "shorter_timesteps has 400, which is not one of timesteps",
        ),
        ({"shorter_timesteps": [[1000]]}, "shorter_timesteps has 1000, which is not one of timesteps"),
        ({"timesteps": [500, 1000], "num_inference_steps": 2}, "timesteps must descend from 1000"),
        ({"timesteps": [900, 500], "num_inference_steps": 2}, "timesteps must descend from 1000"),
        ({"timesteps": [1000, 1000], "num_inference_steps": 2}, "timesteps must descend from 1000"),
        ({"timesteps": [1000, 0], "num_inference_steps": 2}, "none may be 0"),
        ({"timesteps": [1000, 500], "num_inference_steps": 2, "shorter_timesteps": [[500]]}, "must descend from 1000"),
        (
            {"timesteps": [1000, 500, 400], "num_inference_steps": 3, "shorter_timesteps": [[1000, 500], [1000, 400]]},
            "shorter_timesteps must differ in length",
        ),
        ({"causal_positions": False}, "image_cond_noise_scale needs causal_positions"),
        ({"image_cond_noise_scale": -0.1}, "image_cond_noise_scale must not be negative"),
        ({"image_crf": 52}, "less than or equal to 51"),
        ({"fit": "crop"}, "'cover', 'contain' or 'stretch'"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes: dict[str, object], says: str) -> None:
    card = card_of("ltx-video-0.9.5").model_dump(mode="json")
    with pytest.raises(ValidationError, match=says):
        read_card({**card, "defaults": {**card["defaults"], **changes}})


@pytest.mark.parametrize("field", ["schedule", "causal_positions", "t5_attends_to_padding"])
def test_what_only_the_release_decides_has_no_default(field: str) -> None:
    card = card_of("ltx-video-0.9.5").model_dump(mode="json")
    del card["defaults"][field]
    with pytest.raises(ValidationError, match=f"defaults.{field}\n  Field required"):
        read_card(card)


def test_a_request_replaces_a_whole_list_by_one_value() -> None:
    model = "ltx-video-0.9.8-13b-dev"
    parameters = ask(model, guidance_scale=5, stg_scale=0)
    steps = [parameters.guidance_at(level) for level in parameters.levels]
    assert {(each.scale, each.stg_scale) for each in steps} == {(5, 0)}
    assert parameters.forward_passes == 2 * 30
    assert not ask(model, guidance_scale=1).guided
    assert ask(model).guided, "in some steps"


@pytest.mark.parametrize(
    ("model", "fields", "param", "says"),
    [
        ("ltx-video-0.9.8-2b-distilled", {"stg_scale": 0.5}, "stg_scale", "stg_scale must be 0: .* has no blocks"),
        ("ltx-video-0.9.6-distilled", {"num_inference_steps": 7}, "num_inference_steps", "must be 4 or 8: .* it is 7"),
        ("ltx-video-0.9.8-2b-distilled", {"num_inference_steps": 9}, "num_inference_steps", "must be 4 or 7 or 8"),
        ("svd-tiny", {"stg_scale": 0}, "stg_scale", "svd-tiny has no stg_scale"),
    ],
)
def test_what_a_model_cannot_do_is_refused(model: str, fields: dict[str, object], param: str, says: str) -> None:
    card = get_card(model)
    with pytest.raises(InvalidRequest, match=says) as refused:
        resolve(GenerationRequest.model_validate({"prompt": "x", **fields}), card, has_image=card.NEEDS_IMAGE)
    assert refused.value.param == param


@pytest.mark.parametrize("model", ["ltx-tiny", *RELEASES])
def test_spatio_temporal_guidance_can_be_turned_off_everywhere(model: str) -> None:
    parameters = ask(model, stg_scale=0)
    assert all("perturbed" not in parameters.guidance_at(level).passes for level in parameters.levels)


@pytest.mark.parametrize(("model", "makers"), [each for each in RELEASES.items() if "distilled" in each[0]])
def test_a_distilled_model_takes_parts_of_the_levels_on_which_it_is_trained(model: str, makers: Makers) -> None:
    card = card_of(model)
    assert card.allowed_num_inference_steps == ((4, 8) if makers.stochastic_sampling else (4, 7, 8))
    # Seven are the makers' first pass of two.
    shorter = {4: (0, 2, 4, 6), 7: range(7), 8: range(8)}
    for steps in card.allowed_num_inference_steps:
        levels = ask(model, num_inference_steps=steps).levels
        assert levels == pytest.approx([TRAINED[place] for place in shorter[steps]])


def test_other_models_take_any_number_of_steps() -> None:
    assert card_of("ltx-video-0.9.5").allowed_num_inference_steps == ()
    assert get_card("svd").allowed_num_inference_steps == ()
    assert len(ask("ltx-video-0.9.5", num_inference_steps=17).levels) == 17


@pytest.mark.parametrize(
    ("model", "fields", "passes"),
    [
        ("ltx-video-0.9.5", {}, 40 * 3),
        ("ltx-video-0.9.5", {"stg_scale": 0}, 40 * 2),
        ("ltx-video-0.9.5", {"stg_scale": 0, "guidance_scale": 1}, 40),
        ("ltx-video-0.9.5", {"guidance_scale": 0.5}, 40 * 2),
        ("ltx-video-0.9.8-2b-distilled", {}, 8),
        ("ltx-video-0.9.8-2b-distilled", {"num_inference_steps": 4}, 4),
        ("ltx-video-0.9.8-13b-dev", {}, None),
    ],
)
def test_work_is_counted_in_forward_passes(model: str, fields: dict[str, object], passes: int | None) -> None:
    parameters = ask(model, width=704, height=480, num_frames=121, **fields)
    if passes is None:
        makers = RELEASES[model]
        scales = [makers.at(level)[:2] for level in makers.levels()]
        passes = sum(1 + (guidance > 1) + (stg > 0) for guidance, stg in scales)
        assert 30 < passes < 90
    assert parameters.denoising_work == pytest.approx(704 * 480 * 121 / 1e6 * passes)


def test_a_row_of_an_older_version_means_what_it_meant() -> None:
    parameters = read_parameters(OLD_LTX_ROW)
    assert isinstance(parameters, LTXParameters)
    assert (parameters.schedule, parameters.causal_positions, parameters.fit) == ("uniform", False, "stretch")
    assert (parameters.t5_attends_to_padding, parameters.stochastic_sampling) == (True, False)
    assert (parameters.image_blur, parameters.image_crf, parameters.image_cond_noise_scale) == (False, None, 0)
    assert parameters.guidance_at(0.5).passes == ("negative", "positive")
    assert parameters.joint_guidance
    assert read_parameters(parameters.model_dump(mode="json")) == parameters
