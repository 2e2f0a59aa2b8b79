"""Simulated stages take the times that their card says, have outputs of real shape, and know no torch."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import time
from typing import Any

import av
import numpy as np
import pytest
import yaml

from pipelines.catalogue import get_card
from pipelines.errors import ConfigError, InvalidRequest
from pipelines.families import family_of, stages_of
from pipelines.frames import consume_meanwhile, pixels, to_frames
from pipelines.output import Output, RenderedVideo
from pipelines.paths import ROOT
from pipelines.protocols import DenoiseInputs, Resources, StageOutput
from pipelines.requests import GenerationRequest, resolve
from pipelines.serialization import from_bytes, to_bytes
from pipelines.simulated.card import SimulatedCard, SimulatedParameters
from pipelines.simulated.outputs import DenoiseState, FinalLatents
from pipelines.simulated.timings import GPUS, Pace, Timings, measured


def card(**timings: Pace) -> SimulatedCard:
    given = get_card("simulated")
    assert isinstance(given, SimulatedCard)
    times = {"text": Pace(), "step": Pace(), "decode": Pace(), **timings}
    return given.model_copy(update={"timings": Timings(**times)})


def run(of: SimulatedCard, parameters: SimulatedParameters) -> tuple[StageOutput, RenderedVideo]:
    """The final latents and the files of one video."""
    family, stages, resources = family_of(of), stages_of(of), Resources(gpu=False)
    assert stages.text is not None
    inputs: DenoiseInputs[Any, Any, Any] = DenoiseInputs(stages.text(of, resources).encode("p", parameters), None)
    denoise = stages.denoise(of, resources).begin(parameters, inputs)
    while denoise.step_index < denoise.num_steps:
        denoise.step()
    final = denoise.result()
    frames = to_frames(pixels(stages.decode(of, resources).chunks([final], parameters)))
    metadata = family.metadata(of.id, parameters)
    return final, consume_meanwhile(
        frames, lambda items: family.render(items, parameters, metadata, Output(), threads=1)
    )


def small(**said: int) -> SimulatedParameters:
    shape = {"width": 64, "height": 64, "num_frames": 17, "num_inference_steps": 4, "seed": 1, **said}
    parameters = resolve(GenerationRequest.model_validate({"prompt": "p", **shape}), card())
    assert isinstance(parameters, SimulatedParameters)
    return parameters


def test_each_stage_takes_its_time() -> None:
    slow = card(text=Pace(fixed_s=0.1), step=Pace(per_megapixel_s=0.1 / 0.069632), decode=Pace(fixed_s=0.2))
    run(card(), small())  # which encodes the test card
    started = time.monotonic()
    run(slow, small())
    assert time.monotonic() - started >= 0.7


def test_latents_have_the_shape_that_the_real_ones_would_and_survive_a_checkpoint() -> None:
    parameters = card().default_parameters()
    final, _ = run(card(), parameters.model_copy(update={"num_inference_steps": 1}))
    assert isinstance(final, FinalLatents)
    assert final.latents.shape == (1, 128, 16, 15, 22)
    again = from_bytes(FinalLatents, to_bytes(final))
    assert (again.latents.shape, again.latents.dtype) == (final.latents.shape, final.latents.dtype)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12.0).reshape(2, 6)[:, ::2],
        np.arange(6.0)[::-1],
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.array(5.0),
    ],
    ids=["by columns", "turned", "every other", "backwards", "spread", "one number"],
)
def test_an_array_comes_back_however_it_lies_in_memory(array: Any) -> None:
    again = from_bytes(FinalLatents, to_bytes(FinalLatents(array)))
    assert again.latents.shape == array.shape
    assert (again.latents == array).all()


def test_a_state_that_cannot_be_stored_names_its_field() -> None:
    with pytest.raises(TypeError, match=r"DenoiseState.step is a numpy.int64; use an array, a tensor or a value"):
        to_bytes(DenoiseState(np.zeros(1, np.float32), np.int64(3)))  # type: ignore[arg-type]


def test_a_value_of_another_versions_class_is_none() -> None:
    data = to_bytes(DenoiseState(np.zeros(1, np.float32), 3))
    for fields, differs in (({"latents": Any}, "step"), ({"latents": Any, "step": int, "sigma": float}, "sigma")):
        other = dataclasses.make_dataclass("DenoiseState", fields.items())
        with pytest.raises(ValueError, match=f"they differ in {differs}"):
            from_bytes(other, data)
    newer = dataclasses.make_dataclass("DenoiseState", {"latents": Any, "step": int}.items())
    newer.VERSION = 2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="hold a DenoiseState 1, not a DenoiseState 2"):
        from_bytes(newer, data)


def test_a_render_goes_on_from_its_state() -> None:
    denoiser = stages_of(card()).denoise(card(), Resources(gpu=False))
    first = denoiser.begin(small(), DenoiseInputs(None, None))
    first.step()
    second = denoiser.begin(small(), DenoiseInputs(None, None), from_bytes(DenoiseState, to_bytes(first.state)))
    assert (second.step_index, second.num_steps) == (1, 4)


def test_the_video_plays_and_is_encoded_once_for_each_shape() -> None:
    _, rendered = run(card(), small())
    with av.open(io.BytesIO(rendered.mp4)) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (17, 64, 64)
    assert rendered.thumbnail is not None
    assert run(card(), small(seed=2))[1] is rendered
    assert run(card(), small(num_frames=9))[1] is not rendered


def test_it_has_no_settings_of_its_own() -> None:
    with pytest.raises(InvalidRequest, match="simulated has no guidance_scale"):
        resolve(GenerationRequest.model_validate({"prompt": "p", "guidance_scale": 3}), card())


def test_no_stage_imports_torch() -> None:
    code = (
        "import sys, deployments.denoiser, deployments.video_decoder, deployments.encoders\n"
        "import deployments.stages.checkpoints\n"
        "from tests.unit.test_simulated import card, run, small\n"
        "run(card(), small())\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_card_may_name_a_gpu_that_was_measured() -> None:
    data = {**get_card("simulated").model_dump(mode="json"), "timings": {"gpu": "h200", "model": "ltx-video-0.9.5"}}
    made = SimulatedCard.model_validate(data)
    assert made.timings == measured("h200", "ltx-video-0.9.5")
    with pytest.raises(ConfigError, match=r"there are .*h200"):
        SimulatedCard.model_validate({**data, "timings": {"gpu": "abacus", "model": "ltx-video-0.9.5"}})


def test_every_measured_model_is_one_of_the_catalogue() -> None:
    for path in GPUS.glob("*.yaml"):
        for model in yaml.safe_load(path.read_text())["models"]:
            assert measured(path.stem, model).step.fixed_s > 0
            assert get_card(model).default_parameters().num_inference_steps
