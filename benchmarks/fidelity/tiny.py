"""The families' own little checkpoints, in many shapes and settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import LTXPipeline, StableVideoDiffusionPipeline
from PIL import Image
from torch import Tensor

from benchmarks.fidelity.comparison import PROMPT, Case, Subject, in_memory
from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from pipelines.card import Dtype
from pipelines.local import LocalPipeline
from pipelines.ltx.card import LTXCard
from pipelines.ltx.reference import pipeline_for, reference_of
from pipelines.ltx.reference import reference_video as ltx_reference
from pipelines.svd.reference import reference_video as svd_reference

LTX_FIELDS: list[dict[str, Any]] = [
    {"width": 96, "height": 64, "num_frames": 17, "guidance_scale": 3.0},
    {"width": 96, "height": 64, "num_frames": 17, "guidance_scale": 1.0},
    {"width": 96, "height": 64, "num_frames": 17, "guidance_scale": 3.0, "guidance_rescale": 0.7},
    {"width": 128, "height": 96, "num_frames": 25, "num_inference_steps": 7},
    {"width": 32, "height": 160, "num_frames": 9, "guidance_scale": 5.5, "guidance_rescale": 0.3},
]
LTX_CASES = [
    Case({"width": 64, "height": 64, "num_frames": 1}),
    *(Case(fields, from_image=image) for image in (False, True) for fields in LTX_FIELDS),
    *(
        Case({"width": 96, "height": 64, "num_frames": 9, "fit": fit}, from_image=True)
        for fit in ("contain", "stretch")
    ),
]
NOISE = {"image_cond_noise_scale": 0.15}
SMALL = {"width": 96, "height": 64, "num_frames": 17}
CONDITION_CASES = [
    Case({"width": 64, "height": 64, "num_frames": 1}),
    *(Case(fields) for fields in LTX_FIELDS),
    *(Case(fields, from_image=True, settings=NOISE) for fields in LTX_FIELDS),
    Case(SMALL, from_image=True),
    Case(SMALL, from_image=True, settings={**NOISE, "image_blur": True, "image_crf": 29}),
    Case({**SMALL, "fit": "stretch"}, from_image=True, settings=NOISE),
    *(
        Case({**SMALL, "guidance_scale": 1.0}, image, {"timesteps": (1000.0, 993.75, 725.0, 421.875), **NOISE})
        for image in (False, True)
    ),
]
# What a rounding of 8 bits would show: where guidance is computed, and in which order a layer sums.
BFLOAT16_FIELDS: list[dict[str, Any]] = [
    {**SMALL, "guidance_scale": 1.0},
    {**SMALL, "guidance_scale": 3.0, "guidance_rescale": 0.7},
]
LTX_BFLOAT16_CASES = [Case(fields, image) for image in (False, True) for fields in BFLOAT16_FIELDS]
CONDITION_BFLOAT16_CASES = [
    *(Case(fields) for fields in BFLOAT16_FIELDS),
    *(Case(fields, from_image=True, settings=NOISE) for fields in BFLOAT16_FIELDS),
]
SVD_CASES = [
    Case(fields, from_image=True)
    for fields in (
        {"width": 64, "height": 64, "decode_chunk_size": 8},
        {"width": 64, "height": 64, "decode_chunk_size": 3, "fit": "stretch"},
        {"width": 64, "height": 64, "decode_chunk_size": 4, "max_guidance_scale": 1.0},
        {"width": 96, "height": 64, "num_frames": 5, "min_guidance_scale": 2.0, "decode_chunk_size": 2},
        {"width": 72, "height": 40, "num_frames": 3, "motion_bucket_id": 200, "noise_aug_strength": 0.3, "fps": 12},
        {"width": 40, "height": 56, "num_frames": 1, "num_inference_steps": 1, "max_guidance_scale": 1.0},
    )
]
# Few and small: a CPU emulates float16.
SVD_FLOAT16_CASES = [
    Case({"width": 40, "height": 32, "num_frames": 5, "decode_chunk_size": 2}, from_image=True),
    Case({"width": 32, "height": 32, "num_frames": 3, "max_guidance_scale": 1.0}, from_image=True),
]
UNSHIFTED = {"use_dynamic_shifting": False, "shift_terminal": None}


def ltx(folder: Path, *, timestep_conditioning: bool, dtype: Dtype = "float32") -> Subject:
    """LTX-Video up to 0.9.1; the releases differ in whether the decoder is conditioned on a timestep."""
    build_ltx(folder, timestep_conditioning=timestep_conditioning, dynamic_shifting=timestep_conditioning)
    pipeline = in_memory(LTXPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)))
    decoder = "timestep-conditioned" if timestep_conditioning else "plain"
    name = f"tiny LTX-Video, {decoder} decoder"
    name, cases = (name, LTX_CASES) if dtype == "float32" else (f"{name}, {dtype}", LTX_BFLOAT16_CASES)
    return ltx_subject(name, LocalPipeline(_computing(ltx_card(folder), dtype), gpu=False), pipeline, cases)


def conditions(folder: Path, *, dtype: Dtype = "float32") -> Subject:
    """LTX-Video from 0.9.5 on. Its pipeline asks for a scheduler that does not shift; the stages need no such care."""
    build_ltx(folder)
    pipeline = in_memory(LTXPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)))
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **UNSHIFTED)
    card = ltx_card(folder, schedule="linear-quadratic", causal_positions=True, t5_attends_to_padding=False)
    name = "tiny LTX-Video, 0.9.5"
    name, cases = (name, CONDITION_CASES) if dtype == "float32" else (f"{name}, {dtype}", CONDITION_BFLOAT16_CASES)
    return ltx_subject(name, LocalPipeline(_computing(card, dtype), gpu=False), pipeline, cases)


def _computing(card: LTXCard, dtype: Dtype) -> LTXCard:
    return card.model_copy(update={"dtype": {"cpu": dtype}})


def ltx_subject(name: str, staged: LocalPipeline, pipeline: Any, cases: list[Case]) -> Subject:
    """Stages of LTX-Video, and the pipelines of diffusers that can be made of the components of one."""

    def stock(parameters: Any, image: Image.Image | None) -> Tensor:
        return ltx_reference(pipeline_for(pipeline, parameters, image), parameters, PROMPT, image)

    return Subject(name, staged, stock, cases, lambda parameters, image: reference_of(parameters, image).__name__)


def svd(folder: Path, *, dtype: Dtype) -> Subject:
    """Stable Video Diffusion; in float16 the encoder half of its autoencoder computes in float32."""
    build_svd(folder)
    pipeline = in_memory(StableVideoDiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)))
    pipeline.set_progress_bar_config(disable=True)

    def stock(parameters: Any, image: Image.Image | None) -> Tensor:
        assert image is not None
        return svd_reference(pipeline, parameters, image)

    name, cases = f"tiny Stable Video Diffusion, {dtype}", SVD_CASES
    if dtype == "float16":
        name, cases = f"{name}, force_upcast", SVD_FLOAT16_CASES
    staged = LocalPipeline(svd_card(folder, dtype), gpu=False)
    return Subject(name, staged, stock, cases, lambda *_: type(pipeline).__name__)


def subjects(folder: Path) -> Iterator[Subject]:
    """Every checkpoint that is compared."""
    for conditioned in (True, False):
        yield ltx(folder / f"ltx-{conditioned}", timestep_conditioning=conditioned)
    yield conditions(folder / "ltx-conditions")
    yield ltx(folder / "ltx-bfloat16", timestep_conditioning=True, dtype="bfloat16")
    yield conditions(folder / "ltx-conditions-bfloat16", dtype="bfloat16")
    for dtype in ("float32", "float16"):
        yield svd(folder / f"svd-{dtype}", dtype=dtype)
