"""Staged output equals diffusers' own pipelines, bit for bit, also when stopped and resumed in another process."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fidelity import LTX_CASES, SVD_CASES, SVD_FLOAT16_CASES, Case, Subject, ltx, picture, svd
from pipelines.card import ModelCard
from pipelines.catalogue import read_card
from pipelines.families import stages_of
from pipelines.protocols import DenoiseInputs, Resources
from pipelines.requests import read_parameters
from pipelines.serialization import from_bytes, to_bytes

SUBJECTS: dict[str, Any] = {
    "ltx-conditioned": lambda folder: ltx(folder, timestep_conditioning=True),
    "ltx-plain": lambda folder: ltx(folder, timestep_conditioning=False),
    "svd-float32": lambda folder: svd(folder, dtype="float32"),
    "svd-float16": lambda folder: svd(folder, dtype="float16"),
}
CASES = {
    "ltx-conditioned": LTX_CASES,
    "ltx-plain": LTX_CASES,
    "svd-float32": SVD_CASES,
    "svd-float16": SVD_FLOAT16_CASES,
}
EACH_CASE = [pytest.param(name, case, id=f"{name}: {case}") for name in SUBJECTS for case in CASES[name]]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in SUBJECTS.items()}


@pytest.mark.parametrize(("name", "case"), EACH_CASE)
def test_equals_diffusers(subjects: dict[str, Subject], name: str, case: Case) -> None:
    assert subjects[name].difference(case) == 0


@pytest.mark.parametrize(("name", "case"), EACH_CASE)
def test_a_stop_after_every_step_changes_no_bit(subjects: dict[str, Subject], name: str, case: Case) -> None:
    assert subjects[name].difference_when_resumed(case) == 0


@pytest.mark.parametrize(("name", "case"), [("ltx-conditioned", LTX_CASES[-1]), ("svd-float16", SVD_FLOAT16_CASES[0])])
def test_finishes_in_another_process(subjects: dict[str, Subject], name: str, case: Case, tmp_path: Path) -> None:
    staged = subjects[name].staged
    parameters = case.parameters(staged.card)
    inputs = staged.condition("a red circle", parameters, picture())
    run = staged.denoiser.begin(parameters, inputs)
    run.step()
    (tmp_path / "card").write_text(staged.card.model_dump_json())
    (tmp_path / "parameters").write_text(parameters.model_dump_json())
    for stage, value in {"text": inputs.text, "image": inputs.image, "state": run.state}.items():
        if value is not None:
            (tmp_path / stage).write_bytes(to_bytes(value))
    subprocess.run([sys.executable, "-m", __name__, str(tmp_path)], check=True)
    while run.step_index < run.num_steps:
        run.step()
    finished = from_bytes(type(run.result()), (tmp_path / "final").read_bytes())
    assert to_bytes(finished) == to_bytes(run.result())
    videos = [staged.decode([final], parameters) for final in (finished, run.result())]
    assert torch.equal(*videos)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("ltx-conditioned", Case({"width": 96, "height": 64, "num_frames": 17, "num_inference_steps": 1})),
        ("svd-float32", Case({"width": 64, "height": 64, "num_frames": 1}, from_image=True)),
    ],
    ids=["one step to a terminal sigma", "one frame with guidance"],
)
def test_does_what_diffusers_cannot(subjects: dict[str, Subject], name: str, case: Case) -> None:
    staged = subjects[name].staged
    image = picture() if case.from_image else None
    video = staged.generate("x", case.parameters(staged.card), image)
    assert torch.isfinite(video).all()
    assert video.std() > 0


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_stage_warms_up(subjects: dict[str, Subject], name: str) -> None:
    staged = subjects[name].staged
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
    _finish(Path(sys.argv[1]))
