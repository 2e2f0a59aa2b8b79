"""Staged output equals its reference, bit for bit, also when stopped and resumed in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fidelity import Case, Subject, picture, released, tiny
from pipelines.card import ModelCard
from pipelines.catalogue import get_card, read_card
from pipelines.families import stages_of
from pipelines.ltx.card import LTXCard
from pipelines.ltx.outputs import FinalLatents
from pipelines.protocols import DenoiseInputs, DenoiseRun, Resources
from pipelines.requests import read_parameters
from pipelines.serialization import from_bytes, to_bytes

SUBJECTS: dict[str, Any] = {
    "ltx-conditioned": lambda folder: tiny.ltx(folder, timestep_conditioning=True),
    "ltx-plain": lambda folder: tiny.ltx(folder, timestep_conditioning=False),
    "ltx-conditions": tiny.conditions,
    "ltx-bfloat16": lambda folder: tiny.ltx(folder, timestep_conditioning=True, dtype="bfloat16"),
    "ltx-conditions-bfloat16": lambda folder: tiny.conditions(folder, dtype="bfloat16"),
    "svd-float32": lambda folder: tiny.svd(folder, dtype="float32"),
    "svd-float16": lambda folder: tiny.svd(folder, dtype="float16"),
}
CASES = {
    "ltx-conditioned": tiny.LTX_CASES,
    "ltx-plain": tiny.LTX_CASES,
    "ltx-conditions": tiny.CONDITION_CASES,
    "ltx-bfloat16": tiny.LTX_BFLOAT16_CASES,
    "ltx-conditions-bfloat16": tiny.CONDITION_BFLOAT16_CASES,
    "svd-float32": tiny.SVD_CASES,
    "svd-float16": tiny.SVD_FLOAT16_CASES,
}
EACH_CASE = [pytest.param(name, case, id=f"{name}: {case}") for name in SUBJECTS for case in CASES[name]]
QUICK = {"ltx-video-0.9.6-distilled"}  # of a single file and a repository, against both references
EACH_RELEASED = [
    pytest.param(model, reference, case, marks=[] if model in QUICK else pytest.mark.long, id=f"{model}: {case}")
    for model in released.MODELS
    for reference, cases in enumerate((released.BY_DIFFUSERS, released.PLAINLY))
    for case in cases.get(model, [])
]
PICTURE = Case(tiny.SMALL, from_image=True, settings=tiny.NOISE)
STOCHASTIC = Case(tiny.SMALL, from_image=True, settings={**tiny.NOISE, "stochastic_sampling": True})
ELSEWHERE = [
    ("ltx-conditioned", tiny.LTX_CASES[10]),
    ("ltx-conditions", PICTURE),
    ("ltx-conditions", STOCHASTIC),
    ("svd-float16", tiny.SVD_FLOAT16_CASES[0]),
]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    return cache(lambda name: SUBJECTS[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Subject]]:
    folder = tmp_path_factory.mktemp("releases")
    return cache(lambda model: list(released.release(model, folder)))


@pytest.mark.parametrize(("name", "case"), EACH_CASE)
def test_equals_diffusers(subjects: Callable[[str], Subject], name: str, case: Case) -> None:
    assert subjects(name).difference(case) == 0


@pytest.mark.parametrize(("name", "case"), EACH_CASE)
def test_a_stop_after_every_step_changes_no_bit(subjects: Callable[[str], Subject], name: str, case: Case) -> None:
    assert subjects(name).difference_when_resumed(case) == 0


@pytest.mark.parametrize(("model", "reference", "case"), EACH_RELEASED)
def test_a_release_equals_its_reference(
    releases: Callable[[str], list[Subject]], model: str, reference: int, case: Case
) -> None:
    subject = releases(model)[reference]
    assert subject.difference(case) <= case.bound
    assert subject.difference_when_resumed(case) == 0


def test_the_noise_in_the_decoder_of_091_depends_on_the_seed_alone(
    releases: Callable[[str], list[Subject]],
) -> None:
    staged = releases("ltx-video-0.9.1")[0].staged
    # Without the noise that is laid over the latents, which depends on the seed too.
    parameters = Case(released.SIZE, settings={"decode_noise_scale": 0.0}).parameters(staged.card)
    latents = torch.randn((1, 8, 2, 2, 2), generator=torch.Generator().manual_seed(0))

    def video(seed: int) -> torch.Tensor:
        return staged.decode([FinalLatents(latents, torch.Generator().manual_seed(seed).get_state())], parameters)

    first = video(1)
    before = torch.get_rng_state()
    assert torch.equal(video(1), first)
    assert not torch.equal(video(1), video(2))
    assert torch.equal(torch.get_rng_state(), before), "the process's own numbers go on as they were"


def test_every_release_is_compared_and_what_diffusers_cannot_do_with_the_plain_reference() -> None:
    assert set(released.BY_DIFFUSERS) == set(released.MODELS)
    beyond = {model for model in released.MODELS if is_beyond_diffusers(model)}
    assert set(released.PLAINLY) == beyond


def is_beyond_diffusers(model: str) -> bool:
    card = get_card(model)
    assert isinstance(card, LTXCard)
    defaults = card.defaults
    return bool(defaults.stg_scale or defaults.guidance_timesteps or defaults.stochastic_sampling)


def test_a_difference_is_told_with_what_it_may_be() -> None:
    case = Case({}, bound=1e-6, reason="sums in another order")
    assert case.verdict(0.0) == "equal bits"
    assert case.verdict(5e-7) == "differs by 5.0e-07, up to 1e-06 may be: sums in another order"
    assert case.verdict(2e-6) == "differs by 2.0e-06"
    assert Case({}).verdict(5e-7) == "differs by 5.0e-07"


def test_finishes_in_another_process(subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    """One process for all, since its start takes seconds."""
    started = {
        tmp_path / str(number): start(subjects(name), case, tmp_path / str(number))
        for number, (name, case) in enumerate(ELSEWHERE)
    }
    subprocess.run([sys.executable, "-m", __name__, *map(str, started)], check=True)
    for (name, case), (folder, run) in zip(ELSEWHERE, started.items(), strict=True):
        while run.step_index < run.num_steps:
            run.step()
        finished = from_bytes(type(run.result()), (folder / "final").read_bytes())
        assert to_bytes(finished) == to_bytes(run.result()), f"{name}: {case}"
        staged = subjects(name).staged
        parameters = case.parameters(staged.card)
        assert torch.equal(*(staged.decode([final], parameters) for final in (finished, run.result())))


def start(subject: Subject, case: Case, folder: Path) -> DenoiseRun[Any, Any]:
    """Run the first step, and write all that another process needs for the rest."""
    staged = subject.staged
    parameters = case.parameters(staged.card)
    inputs = staged.condition("a red circle", parameters, picture())
    run = staged.denoiser.begin(parameters, inputs)
    run.step()
    folder.mkdir()
    (folder / "card").write_text(staged.card.model_dump_json())
    (folder / "parameters").write_text(parameters.model_dump_json())
    for stage, value in {"text": inputs.text, "image": inputs.image, "state": run.state}.items():
        if value is not None:
            (folder / stage).write_bytes(to_bytes(value))
    return run


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("ltx-conditioned", Case({"width": 96, "height": 64, "num_frames": 17, "num_inference_steps": 1})),
        ("svd-float32", Case({"width": 64, "height": 64, "num_frames": 1}, from_image=True)),
    ],
    ids=["one step to a terminal sigma", "one frame with guidance"],
)
def test_does_what_diffusers_cannot(subjects: Callable[[str], Subject], name: str, case: Case) -> None:
    staged = subjects(name).staged
    image = picture() if case.from_image else None
    video = staged.generate("x", case.parameters(staged.card), image)
    assert torch.isfinite(video).all()
    assert video.std() > 0


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name == "svd-float16" else name for name in SUBJECTS],  # emulated
)
def test_every_stage_warms_up(subjects: Callable[[str], Subject], name: str) -> None:
    staged = subjects(name).staged
    stages = stages_of(staged.card)
    for load in (stages.text, stages.image, stages.denoise, stages.decode):
        if load is not None:
            load(staged.card, staged.resources).warm_up()
    assert staged.card.default_parameters().seed == 0


def _finish(folder: Path) -> None:
    """The other process: read a checkpoint, run what is left, write the latents."""
    import json

    card: ModelCard = read_card(json.loads((folder / "card").read_text()))
    parameters = read_parameters(json.loads((folder / "parameters").read_text()))
    stages, outputs = stages_of(card), import_module(f"pipelines.{card.family}.outputs")
    kinds = {"text": "TextConditioning", "image": "ImageConditioning"}
    values = {
        stage: from_bytes(getattr(outputs, kind), (folder / stage).read_bytes())
        for stage, kind in kinds.items()
        if (folder / stage).exists()
    }
    state = from_bytes(stages.state, (folder / "state").read_bytes())
    inputs: DenoiseInputs[Any, Any, Any] = DenoiseInputs(values.get("text"), values["image"])
    run = stages.denoise(card, Resources(gpu=False)).begin(parameters, inputs, state)
    while run.step_index < run.num_steps:
        run.step()
    (folder / "final").write_bytes(to_bytes(run.result()))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        _finish(Path(each))
