"""The released SVD cards hold diffusers' settings and Stability AI's, and one word chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from pydantic import ValidationError
from torch import Tensor

from benchmarks.random_weights import build_svd, svd_card
from pipelines.card import Dtype
from pipelines.catalogue import CATALOGUE, get_card, load_card, read_card
from pipelines.errors import ConfigError
from pipelines.protocols import Resources
from pipelines.requests import GenerationRequest, resolve
from pipelines.stages import Stage
from pipelines.svd.card import SVDCard
from pipelines.svd.decode import VideoDecoder
from pipelines.svd.outputs import FinalLatents

RELEASED = ("svd", "svd-xt", "svd-xt-1.1")
SETTINGS = ("num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale", "fps", "motion_bucket_id")
DIFFUSERS = {"svd": (14, 25, 1.0, 3.0, 7, 127), **dict.fromkeys(RELEASED[1:], (25, 25, 1.0, 3.0, 7, 127))}
STABILITY = {"svd": (14, 25, 1.0, 2.5, 7, 127), **dict.fromkeys(RELEASED[1:], (25, 30, 1.5, 3.0, 7, 127))}


def with_recipe(model: str, folder: Path, recipe: str) -> SVDCard:
    """A shipped card, as an operator would change it."""
    text = (CATALOGUE / f"{model}.yaml").read_text()
    assert text.count("recipe: diffusers\n") == 1
    path = folder / f"{model}.yaml"
    path.write_text(text.replace("recipe: diffusers\n", f"recipe: {recipe}\n"))
    card = load_card(path)
    assert isinstance(card, SVDCard)
    return card


def settings(card: SVDCard) -> tuple[object, ...]:
    """What an empty request gets."""
    parameters = resolve(GenerationRequest(), card, has_image=True).model_dump()
    return tuple(parameters[name] for name in SETTINGS)


@pytest.mark.parametrize("model", RELEASED)
def test_one_word_on_a_shipped_card_chooses(model: str, tmp_path: Path) -> None:
    shipped, stability = get_card(model), with_recipe(model, tmp_path, "stability")
    assert isinstance(shipped, SVDCard)
    assert (settings(shipped), shipped.decode_dtype) == (DIFFUSERS[model], None)
    assert (settings(stability), stability.decode_dtype) == (STABILITY[model], "float32")
    assert settings(stability) == tuple(stability.default_parameters().model_dump()[name] for name in SETTINGS)


@pytest.mark.parametrize("recipe", ["diffusers", "stability"])
def test_a_card_survives_its_way_to_a_replica(recipe: str, tmp_path: Path) -> None:
    card = with_recipe("svd-xt", tmp_path, recipe)
    assert read_card(card.model_dump(mode="json")) == card
    assert SVDCard.model_validate_json(card.model_dump_json()) == card


def test_a_request_may_still_say_otherwise(tmp_path: Path) -> None:
    card = with_recipe("svd-xt", tmp_path, "stability")
    said = GenerationRequest.model_validate({"num_inference_steps": 7, "min_guidance_scale": 1.25})
    parameters = resolve(said, card, has_image=True).model_dump()
    assert (parameters["num_inference_steps"], parameters["min_guidance_scale"]) == (7, 1.25)
    assert parameters["max_guidance_scale"] == 3.0


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (
            {"recipe": "stability"},
            "recipe is stability, but there is no block `stability`: add its settings, or use diffusers",
        ),
        ({"recipe": "comfy"}, "recipe: must be 'diffusers' or 'stability'"),
        ({"stability": {"steps": 30}}, "stability.steps: is not known; there are "),
        (
            {"recipe": "stability", "stability": {"min_guidance_scale": 5}},
            "the card's own defaults are refused: min_guidance_scale must be at most max_guidance_scale",
        ),
    ],
)
def test_a_wrong_recipe_is_said_in_words(card: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "svd-tiny.yaml"
    added = "".join(f"{name}: {value}\n" for name, value in card.items())
    path.write_text((CATALOGUE / "svd-tiny.yaml").read_text() + added)
    with pytest.raises(ConfigError) as refused:
        load_card(path)
    assert says in refused.value.message


def test_a_card_stays_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_card("svd").recipe = "stability"  # type: ignore[attr-defined]


def test_only_decoders_of_one_dtype_are_shared(tmp_path: Path) -> None:
    diffusers, stability = (with_recipe("svd", tmp_path, recipe) for recipe in ("diffusers", "stability"))
    shared = {stage for stage in SVDCard.STAGES if diffusers.shared_by(stage) == stability.shared_by(stage)}
    assert shared == {Stage.IMAGE_ENCODE, Stage.DENOISE}
    assert diffusers.shared_by(Stage.DECODE) == get_card("svd").shared_by(Stage.DECODE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_svd(tmp_path_factory.mktemp("svd"))


def decoded(folder: Path, dtype: Dtype, decode_dtype: Dtype | None, latents: Tensor) -> Tensor:
    small = svd_card(folder, dtype, width=32, height=32, num_frames=2)  # a CPU emulates float16
    card = small.model_dump() | {"decode_dtype": decode_dtype}
    decoder = VideoDecoder(SVDCard.model_validate(card), Resources(gpu=False))
    assert decoder.placement.result_metadata()["dtype"] == (decode_dtype or dtype)
    decoder.warm_up()
    parameters = decoder.card.default_parameters().model_copy(update={"decode_chunk_size": 2})
    return torch.cat(list(decoder.chunks([FinalLatents(latents)], parameters)))


def test_a_float16_model_decodes_in_float32(folder: Path) -> None:
    latents = torch.randn((1, 3, 4, 3, 2), generator=torch.Generator().manual_seed(0)).to(torch.float16)
    ours = decoded(folder, "float16", "float32", latents)
    assert torch.equal(ours, decoded(folder, "float32", None, latents.float()))
    assert not torch.equal(ours, decoded(folder, "float16", None, latents))
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder, subfolder="vae")
    with torch.no_grad():
        chunks = (latents[0].float() / vae.config.scaling_factor).split(2)
        pixels = torch.cat([vae.decode(chunk, num_frames=len(chunk)).sample for chunk in chunks])
    assert torch.allclose(ours, (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5)
