"""SVD's image stage fits the given picture once, for both of its encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.fidelity import in_memory, picture
from benchmarks.random_weights import build_svd, svd_card
from pipelines.catalogue import get_card
from pipelines.local import LocalPipeline
from pipelines.requests import GenerationRequest, read_parameters, resolve
from pipelines.svd.card import SVDParameters
from pipelines.svd.image import ImageEncoder
from pipelines.svd.reference import reference_video

LANCZOS = Image.Resampling.LANCZOS
SMALL = {"width": 72, "height": 40, "num_frames": 2, "num_inference_steps": 1, "seed": 3}
SEEN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cover": lambda image: ImageOps.fit(image, (72, 40), LANCZOS),
    "contain": lambda image: ImageOps.pad(image, (72, 40), LANCZOS),
    "stretch": lambda image: image,
}
"""What diffusers' pipeline is given."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_svd(tmp_path_factory.mktemp("svd"))


@pytest.fixture(scope="module")
def staged(folder: Path) -> LocalPipeline:
    return LocalPipeline(svd_card(folder), gpu=False)


@pytest.fixture(scope="module")
def stock(folder: Path) -> StableVideoDiffusionPipeline:
    pipeline = in_memory(StableVideoDiffusionPipeline.from_pretrained(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def parameters(staged: LocalPipeline, **fields: object) -> SVDParameters:
    request = GenerationRequest.model_validate({**SMALL, **fields})
    resolved = resolve(request, staged.card, has_image=True)
    assert isinstance(resolved, SVDParameters)
    return resolved


def stretching(pipeline: StableVideoDiffusionPipeline, said: SVDParameters, image: Image.Image) -> Tensor:
    """Diffusers' video of exactly this picture."""
    return reference_video(pipeline, said.model_copy(update={"fit": "stretch"}), image)


@pytest.mark.parametrize("fit", SEEN)
def test_the_video_is_diffusers_own_of_the_fitted_picture(
    fit: str, staged: LocalPipeline, stock: StableVideoDiffusionPipeline
) -> None:
    said = parameters(staged, fit=fit)
    ours = staged.generate("", said, picture())
    assert torch.equal(ours, stretching(stock, said, SEEN[fit](picture())))
    assert torch.equal(ours, reference_video(stock, said, picture()))


def test_each_fit_gives_both_encoders_something_else(staged: LocalPipeline) -> None:
    assert isinstance(staged.image, ImageEncoder)
    encoded = [staged.image.encode(picture(), parameters(staged, fit=fit)) for fit in SEEN]
    for index, one in enumerate(encoded):
        for other in encoded[index + 1 :]:
            assert not torch.equal(one.image_embeds, other.image_embeds)
            assert not torch.equal(one.image_latents, other.image_latents)


def test_a_picture_is_cropped_unless_the_request_says_otherwise() -> None:
    card = get_card("svd-tiny")
    fits = [
        resolve(GenerationRequest(**said), card, has_image=True).model_dump()["fit"] for said in ({}, {"fit": None})
    ]
    assert fits == ["cover", "cover"]
    said = GenerationRequest.model_validate({"fit": "contain"})
    assert resolve(said, card, has_image=True).model_dump()["fit"] == "contain"


def test_a_job_of_before_stays_stretched() -> None:
    stored = resolve(GenerationRequest(), get_card("svd-tiny"), has_image=True).model_dump()
    del stored["fit"]
    assert read_parameters(stored).model_dump()["fit"] == "stretch"
