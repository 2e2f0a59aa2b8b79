"""NaN fails a job with the stage that made it; a video of one color is made, and reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from deployments.orchestration.requests import request_of
from deployments.stages.messages import DecodeRequest, ImageRequest
from pipelines.catalogue import get_card
from pipelines.errors import JobFailed, NanInOutput
from pipelines.families import graph_of
from pipelines.finite import require_finite
from pipelines.frames import Picture
from pipelines.ltx.card import LTXCard
from pipelines.ltx.outputs import FinalLatents
from pipelines.one_color import OneColor, asks_for_one_color
from pipelines.simulated.card import SimulatedCard
from pipelines.simulated.placement import Nowhere
from pipelines.simulated.timings import Pace, Timings
from pipelines.stages import Stage
from tests.unit.conftest import new_job
from tests.unit.stage_world import (
    call,
    decode_request,
    denoise_request,
    replica,
    spoiled,
    text_request,
    without_ray,
)

if TYPE_CHECKING:
    from pipelines.protocols import Frame


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_ray(monkeypatch, tmp_path / "data")


@pytest.fixture
def ltx(tmp_path: Path) -> LTXCard:
    return ltx_card(build_ltx(tmp_path / "ltx"))


def latents() -> FinalLatents:
    generator = torch.Generator().manual_seed(1)
    return FinalLatents(torch.randn((1, 8, 2, 2, 2), generator=generator), generator.get_state())


def failed(stream: Any) -> NanInOutput:
    with pytest.raises(NanInOutput) as error:
        call(stream)
    assert error.value.code == "nan_in_output"
    assert isinstance(error.value, JobFailed), "which is not tried again: the same weights do the same"
    return error.value


def test_embeddings_that_are_nan_name_the_text_encoder(ltx: LTXCard) -> None:
    spoiled(ltx, "text_encoder", "final_layer_norm.weight")
    message = failed(replica("text", ltx).run(text_request(ltx))).message
    assert "the output of the stage text_encode, computed in float32, holds NaN or infinity" in message
    assert "guidance_scale" in message
    assert "circle" not in message, "no message repeats a prompt"


def test_an_encoded_picture_that_is_nan_names_the_image_encoder(ltx: LTXCard) -> None:
    spoiled(ltx, "vae", "encoder.conv_out.conv.bias")
    picture = Picture(np.zeros((64, 64, 3), np.uint8))
    encoder = replica("image", ltx)
    assert (
        "the stage image_encode," in failed(encoder.run(ImageRequest(None, ltx.default_parameters()), picture)).message
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_nan_or_infinite_name_the_denoiser(ltx: LTXCard, value: float) -> None:
    text, _, _ = call(replica("text", ltx).run(text_request(ltx)))
    spoiled(ltx, "transformer", "proj_out.bias", value)
    denoiser = replica("denoise", ltx, checkpoint_every_s=3600)
    assert "the stage denoise," in failed(denoiser.run(denoise_request(ltx), text=text)).message
    assert denoiser.leases.committed == [], "nobody is to continue from there"


def test_a_denoise_does_not_go_on_from_a_checkpoint_of_nan(ltx: LTXCard, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _, _ = call(replica("text", ltx).run(text_request(ltx)))
    spoiled(ltx, "transformer", "proj_out.bias")
    denoiser = replica("denoise", ltx, checkpoint_every_s=1e-9)
    stage = denoiser.denoiser.stage().weights.stage
    begin, steps = stage.begin, []

    def counted(*given: Any) -> Any:
        run = begin(*given)
        step = run.step
        monkeypatch.setattr(run, "step", lambda: steps.append(step()))
        return run

    monkeypatch.setattr(stage, "begin", counted)
    failed(denoiser.run(denoise_request(ltx), text=text))
    assert len(steps) == 1, "of 4"
    assert denoiser.leases.committed == []


@pytest.mark.parametrize("last_frame", [False, True])
def test_frames_that_are_nan_name_the_decoder(ltx: LTXCard, last_frame: bool) -> None:
    spoiled(ltx, "vae", "decoder.conv_out.conv.bias")
    decoder = replica("decode", ltx)
    assert "the stage decode," in failed(decoder.run(decode_request(ltx, last_frame=last_frame), latents())).message


def test_float16_is_named_as_what_overflows(tmp_path: Path) -> None:
    card = svd_card(build_svd(tmp_path / "svd"), dtype="float16")
    spoiled(card, "image_encoder", "post_layernorm.weight", 6e4)
    request, picture = ImageRequest(None, card.default_parameters()), Picture(np.zeros((64, 64, 3), np.uint8))
    message = failed(replica("image", card).run(request, picture)).message
    assert "computed in float16" in message
    assert "bfloat16" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_numbers_are_no_infinity(dtype: torch.dtype) -> None:
    require_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype), Stage.DENOISE, Nowhere())
    for bad in (float("inf"), -float("inf"), float("nan")):
        with pytest.raises(NanInOutput):
            require_finite(torch.tensor([1.0, bad, 1.0], dtype=dtype), Stage.DENOISE, Nowhere())


def test_both_infinities_and_arrays_are_found_and_integers_passed() -> None:
    for output in (torch.tensor([float("inf"), -float("inf")]), np.array([np.nan, 1.0], np.float16)):
        with pytest.raises(NanInOutput):
            require_finite(output, Stage.DENOISE, Nowhere())
    require_finite(np.zeros(3, np.uint8), Stage.DECODE, Nowhere())
    require_finite(torch.zeros(3, dtype=torch.uint8), Stage.DECODE, Nowhere())
    require_finite(None, Stage.TEXT_ENCODE, Nowhere())


def frame(level: int | tuple[int, int, int], noise: int = 0, seed: int = 0) -> Frame:
    """A frame of one color, with noise."""
    spread = np.random.default_rng(seed).integers(-noise, noise + 1, (90, 160, 3))
    return (np.full((90, 160, 3), level) + spread).clip(0, 255).astype(np.uint8)


def moon() -> Frame:
    night = frame(5)
    night[40:50, 70:80] = 230  # 0.7 % of the picture
    return night


def color_of(*frames: Frame) -> str | None:
    watched = OneColor()
    for each in frames:
        watched.see(each)
    return watched.color


@pytest.mark.parametrize(
    ("frames", "color"),
    [
        ([frame(0)] * 3, "#000000"),
        ([frame((0, 128, 255))] * 3, "#0080ff"),
        ([frame(128, noise=6, seed=seed) for seed in range(4)], "#808080"),
        ([frame(0), frame(0), frame(60)], None),
        ([frame(level) for level in range(0, 64, 8)], None),
        ([frame((0, 0, 0)), frame((0, 0, 40))], None),
        ([frame(128, noise=40)] * 3, None),
        ([moon()] * 3, None),
        ([], None),
    ],
    ids=["black", "a color", "noisy gray", "a flash", "a slow fade", "one channel", "noise", "the moon", "no frame"],
)
def test_one_color_is_one_in_all_frames(frames: list[Frame], color: str | None) -> None:
    assert color_of(*frames) == color


@pytest.mark.parametrize("prompt", ["a solid red wall", "A PLAIN background", "black screen", "one-colour", "darkness"])
def test_prompts_that_ask_for_one_color(prompt: str) -> None:
    assert asks_for_one_color(prompt)


@pytest.mark.parametrize(
    "prompt", ["", "a black cat", "a green meadow", "the airplane lands", "solidarity", "a screen"]
)
def test_prompts_that_do_not(prompt: str) -> None:
    assert not asks_for_one_color(prompt)


def test_a_video_of_one_color_is_made_and_reported_unless_the_prompt_asks_for_it(ltx: LTXCard) -> None:
    as_it_is = replica("decode", ltx)
    _, finished, _ = call(as_it_is.run(decode_request(ltx), latents()))
    assert finished.result_metadata.warnings is None
    spoiled(ltx, "vae", "decoder.conv_out.conv.weight", 0.0)
    spoiled(ltx, "vae", "decoder.conv_out.conv.bias", 0.0)
    decoder = replica("decode", ltx)
    video, finished, _ = call(decoder.run(decode_request(ltx), latents()))
    assert finished.result_metadata.warnings == (
        "one_color: every frame is nearly #808080, which the prompt does not ask for",
    )
    assert video.mp4
    _, finished, _ = call(decoder.run(decode_request(ltx, plain=True), latents()))
    assert finished.result_metadata.warnings is None


@pytest.mark.parametrize(("prompt", "asks"), [("a solid red wall", True), ("a red fox", False)])
def test_a_decoder_is_told_whether_the_prompt_asks_for_one_color(ltx: LTXCard, prompt: str, asks: bool) -> None:
    parameters = ltx.default_parameters()
    graph = graph_of(ltx, parameters, False)
    (decode,) = (node for node in graph if node.stage is Stage.DECODE)
    job = new_job(prompt=prompt, model=ltx.id, parameters=parameters.model_dump(mode="json"))
    request, _ = request_of(job, graph, decode)
    assert isinstance(request, DecodeRequest)
    assert request.asks_for_one_color is asks


def test_a_simulated_video_is_not_of_one_color() -> None:
    card = get_card("simulated")
    assert isinstance(card, SimulatedCard)
    card = card.model_copy(update={"timings": Timings(text=Pace(), step=Pace(), decode=Pace())})
    request = decode_request(card, width=64, height=64, num_frames=17)
    _, finished, _ = call(replica("decode", card).run(request, object()))
    assert finished.result_metadata.warnings is None
