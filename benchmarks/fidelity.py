"""Staged output against diffusers' own pipelines, bit for bit, on random-weight checkpoints: `make fidelity`.

Each case is computed three times from one seed: by diffusers in one call, by the stages one after the other, and by the
stages with the denoise stopped after every step, serialised to bytes and begun anew from them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline, StableVideoDiffusionPipeline
from PIL import Image
from torch import Tensor

from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from pipelines.card import Dtype, ModelCard, Parameters
from pipelines.families import stages_of
from pipelines.local import LocalPipeline
from pipelines.ltx.reference import reference_video as ltx_reference
from pipelines.requests import GenerationRequest, resolve
from pipelines.serialization import from_bytes, to_bytes
from pipelines.svd.reference import reference_video as svd_reference

PROMPT = "a red circle moves left on a black background"


@dataclass(frozen=True)
class Case:
    """One video: what is asked for, beside the prompt and the picture."""

    fields: dict[str, Any]
    from_image: bool = False

    def __str__(self) -> str:
        said = {"from": "image" if self.from_image else "text", **self.fields}
        size = f"{said.pop('width')}x{said.pop('height')}"
        return ", ".join([size, *(f"{name} {value}" for name, value in said.items())])

    def parameters(self, card: ModelCard) -> Parameters:
        prompt = PROMPT if card.TAKES_PROMPT else None
        request = GenerationRequest.model_validate({"prompt": prompt, "seed": 123, **self.fields})
        return resolve(request, card, has_image=self.from_image)


@dataclass(frozen=True)
class Subject:
    """A checkpoint with both of its sides: the stages, and diffusers' own pipeline."""

    name: str
    staged: LocalPipeline
    stock: Callable[[Parameters, Image.Image | None], Tensor]
    cases: list[Case] = field(repr=False)

    def difference(self, case: Case) -> float:
        """The largest difference of any pixel between the stages and diffusers; 0.0 means equal bits."""
        parameters, image = case.parameters(self.staged.card), picture() if case.from_image else None
        return largest(self.staged.generate(PROMPT, parameters, image), self.stock(parameters, image))

    def difference_when_resumed(self, case: Case) -> float:
        """The same, between a denoise that was stopped after every step and one that ran through."""
        parameters, image = case.parameters(self.staged.card), picture() if case.from_image else None
        inputs = self.staged.condition(PROMPT, parameters, image)
        kind = stages_of(self.staged.card).state
        run = self.staged.denoiser.begin(parameters, inputs)
        while run.step_index < run.num_steps:
            run.step()
            run = self.staged.denoiser.begin(parameters, inputs, from_bytes(kind, to_bytes(run.state)))
        resumed = self.staged.decode([run.result()], parameters)
        return largest(resumed, self.staged.generate(PROMPT, parameters, image))


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
]
SVD_CASES = [
    Case(fields, from_image=True)
    for fields in (
        {"width": 64, "height": 64, "decode_chunk_size": 8},
        {"width": 64, "height": 64, "decode_chunk_size": 3},
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


def ltx(folder: Path, *, timestep_conditioning: bool) -> Subject:
    """LTX-Video; the releases differ in whether the decoder is conditioned on a timestep, and in the schedule."""
    build_ltx(folder, timestep_conditioning=timestep_conditioning, dynamic_shifting=timestep_conditioning)
    text_to_video = in_memory(LTXPipeline.from_pretrained(folder))
    image_to_video = LTXImageToVideoPipeline(**text_to_video.components)
    for pipeline in (text_to_video, image_to_video):
        pipeline.set_progress_bar_config(disable=True)

    def stock(parameters: Any, image: Image.Image | None) -> Tensor:
        if image is None:
            return ltx_reference(text_to_video, parameters, PROMPT)
        return ltx_reference(image_to_video, parameters, PROMPT, image=image)

    decoder = "timestep-conditioned" if timestep_conditioning else "plain"
    return Subject(
        f"LTX-Video, {decoder} decoder, float32", LocalPipeline(ltx_card(folder), gpu=False), stock, LTX_CASES
    )


def svd(folder: Path, *, dtype: Dtype) -> Subject:
    """Stable Video Diffusion; in float16 the encoder half of its autoencoder computes in float32."""
    build_svd(folder)
    pipeline = in_memory(StableVideoDiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)))
    pipeline.set_progress_bar_config(disable=True)

    def stock(parameters: Any, image: Image.Image | None) -> Tensor:
        assert image is not None
        return svd_reference(pipeline, parameters, image)

    name, cases = f"Stable Video Diffusion, {dtype}", SVD_CASES
    if dtype == "float16":
        name, cases = f"{name}, force_upcast", SVD_FLOAT16_CASES
    return Subject(name, LocalPipeline(svd_card(folder, dtype), gpu=False), stock, cases)


def in_memory(pipeline: Any) -> Any:
    """Copy a pipeline's weights out of their files, where diffusers leaves what needs no conversion.

    A tensor in a mapped file lies where the file's header ends, and MKL's sums depend on where their operands lie.
    Kinoray copies every tensor, so that a model has the same bits however its files are cut.
    """
    for network in pipeline.components.values():
        if isinstance(network, torch.nn.Module):
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = tensor.data.clone()
    return pipeline


def subjects(folder: Path) -> Iterator[Subject]:
    """Every checkpoint that is compared."""
    for conditioned in (True, False):
        yield ltx(folder / f"ltx-{conditioned}", timestep_conditioning=conditioned)
    for dtype in ("float32", "float16"):
        yield svd(folder / f"svd-{dtype}", dtype=dtype)


def picture() -> Image.Image:
    """Noise, larger than any of the videos and of another aspect ratio."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 230, 3), dtype=np.uint8))


def main() -> None:
    """Print the table; exit with 1 when a bit differs."""
    torch.set_num_threads(1)
    wrong = 0
    print("| checkpoint | video | against diffusers | resumed after every step |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder)):
            for case in subject.cases:
                differences = subject.difference(case), subject.difference_when_resumed(case)
                wrong += any(differences)
                print(f"| {subject.name} | {case} | {' | '.join(map(verdict, differences))} |", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} videos differ")


def verdict(difference: float) -> str:
    """A largest difference in words."""
    return f"differs by {difference:.1e}" if difference else "equal bits"


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two videos; 0.0 means equal bits."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return 0.0 if torch.equal(ours, theirs) else float((ours - theirs).abs().max()) or float("nan")


if __name__ == "__main__":
    main()
