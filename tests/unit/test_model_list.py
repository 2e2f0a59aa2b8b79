"""What `GET /v1/models` says of a model."""

from __future__ import annotations

import pytest

from deployments.api import app
from deployments.http.schemas import Model
from pipelines.catalogue import get_card, load_catalogue


def shown(model: str) -> Model:
    return Model.of(get_card(model), {}, None)


def test_a_model_says_how_it_is_sampled() -> None:
    model = shown("ltx-video-0.9.8-13b-dev")
    assert model.defaults["num_inference_steps"] == 30
    assert model.defaults["fps"] == 30
    assert len(model.defaults["guidance_timesteps"]) == len(model.defaults["guidance_scale"]) == 7
    assert model.defaults["stg_scale"] == (0, 0, 4, 4, 4, 2, 1)
    assert model.defaults["negative_prompt"].startswith("worst quality")
    assert (model.limits["max_num_frames"], model.limits["frames_multiple"]) == (257, 8)
    assert (model.limits["size_multiple"], model.limits["max_size"], model.limits["max_pixels"]) == (
        32,
        1280,
        237000000,
    )
    assert model.recommended_sizes[0] == "1216x704"
    assert model.advice is not None
    assert "below 1280x720" in model.advice
    assert model.allowed_num_inference_steps is None


@pytest.mark.parametrize(
    ("model", "prompt", "image"),
    [
        ("ltx-tiny", "required", "optional"),
        ("svd-tiny", "ignored", "required"),
        ("simulated", "required", "ignored"),
    ],
)
def test_a_model_says_whether_it_reads_a_prompt_and_takes_a_picture(model: str, prompt: str, image: str) -> None:
    assert (shown(model).prompt, shown(model).input_reference) == (prompt, image)


def test_a_distilled_model_says_which_numbers_of_steps_it_allows() -> None:
    assert shown("ltx-video-0.9.8-2b-distilled").allowed_num_inference_steps == [4, 7, 8]
    assert shown("svd").allowed_num_inference_steps is None


def test_every_model_is_shown_as_the_schema_says() -> None:
    schema = app.openapi()["components"]["schemas"]["Model"]
    assert set(schema["required"]) | {"object", "owned_by"} == set(schema["properties"])
    for model in load_catalogue():
        assert set(shown(model).model_dump(mode="json")) == set(schema["properties"])
