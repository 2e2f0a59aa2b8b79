"""Staged LTX equals diffusers' own pipelines, bit for bit, also when stopped and resumed in another process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline
from PIL import Image

from pipelines.catalogue import ModelCard
from pipelines.local import LocalPipeline
from pipelines.ltx.handover import DenoiseState, FinalLatents, ImageConditioning, TextConditioning
from pipelines.reference import reference_video
from pipelines.requests import GenerationRequest, Parameters, resolve
from pipelines.serialization import from_bytes, to_bytes
from tests.checkpoints import build_ltx, ltx_card

PROMPT = "a red circle moves left on a black background"


@dataclass(frozen=True)
class Case:
    guidance_scale: float = 3.0
    guidance_rescale: float = 0.0
    width: int = 96
    height: int = 64
    num_frames: int = 17
    steps: int = 4
    seed: int = 123

    def parameters(self, card: ModelCard) -> Parameters:
        request = GenerationRequest(
            prompt=PROMPT, negative_prompt="blurry", width=self.width, height=self.height, num_frames=self.num_frames,
            num_inference_steps=self.steps, guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale, seed=self.seed,
        )  # fmt: skip
        return resolve(request, card)


CASES = [
    Case(),
    Case(guidance_scale=1.0),
    Case(guidance_rescale=0.7),
    Case(width=64, height=64, num_frames=1),
    Case(width=128, height=96, num_frames=25, steps=7, seed=5),
    Case(guidance_scale=5.5, guidance_rescale=0.3, width=32, height=160, num_frames=9, steps=2),
]


@pytest.fixture(scope="module", params=[True, False], ids=["timestep-conditioned", "unconditioned"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    conditioned: bool = request.param
    folder = tmp_path_factory.mktemp("ltx")
    return build_ltx(folder, timestep_conditioning=conditioned, dynamic_shifting=conditioned)


@pytest.fixture(scope="module")
def stock(checkpoint: Path) -> LTXPipeline:
    pipeline = LTXPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def staged(checkpoint: Path) -> LocalPipeline:
    return LocalPipeline(ltx_card(checkpoint), gpu=False)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_to_video_equals_diffusers(stock: LTXPipeline, staged: LocalPipeline, case: Case) -> None:
    parameters = case.parameters(staged.card)
    assert torch.equal(staged.generate(PROMPT, parameters), reference_video(stock, PROMPT, parameters))


@pytest.mark.parametrize("case", [case for case in CASES if case.num_frames > 1], ids=str)
def test_image_to_video_equals_diffusers(
    stock: LTXPipeline, staged: LocalPipeline, picture: Image.Image, case: Case
) -> None:
    parameters = case.parameters(staged.card)
    pipeline = LTXImageToVideoPipeline(**stock.components)
    pipeline.set_progress_bar_config(disable=True)
    expected = reference_video(pipeline, PROMPT, parameters, image=picture)
    assert torch.equal(staged.generate(PROMPT, parameters, image=picture), expected)


@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
def test_resumes_after_any_step(staged: LocalPipeline, picture: Image.Image, with_image: bool) -> None:
    parameters = Case(guidance_rescale=0.7).parameters(staged.card)
    text = staged.text.encode(PROMPT, parameters)
    image = staged.image.encode(picture, parameters) if with_image else None
    whole = staged.denoiser.begin(parameters, text, image)
    states = [to_bytes(whole.state)]
    while whole.step_index < whole.num_steps:
        whole.step()
        states.append(to_bytes(whole.state))
    for data in states:
        run = staged.denoiser.begin(parameters, text, image, from_bytes(DenoiseState, data))
        while run.step_index < run.num_steps:
            run.step()
        assert torch.equal(run.result().latents, whole.result().latents)
        assert torch.equal(run.result().rng_state, whole.result().rng_state)


def test_finishes_in_another_process(staged: LocalPipeline, picture: Image.Image, tmp_path: Path) -> None:
    parameters = Case().parameters(staged.card)
    text, image = staged.text.encode(PROMPT, parameters), staged.image.encode(picture, parameters)
    run = staged.denoiser.begin(parameters, text, image)
    run.step()
    (tmp_path / "card").write_text(staged.card.model_dump_json())
    (tmp_path / "parameters").write_text(parameters.model_dump_json())
    for name, value in {"text": text, "image": image, "state": run.state}.items():
        (tmp_path / name).write_bytes(to_bytes(value))
    subprocess.run([sys.executable, "-m", __name__, str(tmp_path)], check=True)
    finished = from_bytes(FinalLatents, (tmp_path / "final").read_bytes())
    while run.step_index < run.num_steps:
        run.step()
    assert torch.equal(finished.latents, run.result().latents)
    assert torch.equal(staged.decoder.decode(finished, parameters), staged.decoder.decode(run.result(), parameters))


def test_one_step_is_possible_where_diffusers_divides_by_zero(staged: LocalPipeline) -> None:
    video = staged.generate(PROMPT, Case(steps=1).parameters(staged.card))
    assert torch.isfinite(video).all()
    assert video.std() > 0


def _finish(folder: Path) -> None:
    """The other process: read a checkpoint, run what is left, write the latents."""
    from pipelines.devices import place
    from pipelines.ltx.denoise import Denoiser

    card = ModelCard.model_validate_json((folder / "card").read_text())
    parameters = Parameters.model_validate_json((folder / "parameters").read_text())
    run = Denoiser(card, place(card, gpu=False)).begin(
        parameters,
        from_bytes(TextConditioning, (folder / "text").read_bytes()),
        from_bytes(ImageConditioning, (folder / "image").read_bytes()),
        from_bytes(DenoiseState, (folder / "state").read_bytes()),
    )
    while run.step_index < run.num_steps:
        run.step()
    (folder / "final").write_bytes(to_bytes(run.result()))


if __name__ == "__main__":
    _finish(Path(sys.argv[1]))
