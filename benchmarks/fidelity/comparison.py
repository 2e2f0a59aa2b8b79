"""A video asked of the stages and of a reference, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.card import ModelCard, Parameters
from pipelines.families import stages_of
from pipelines.local import LocalPipeline
from pipelines.protocols import StageOutput
from pipelines.requests import GenerationRequest, resolve
from pipelines.serialization import from_bytes, to_bytes

PROMPT = "a red circle moves left on a black background"


@dataclass(frozen=True)
class Case:
    """One video: what is asked for, beside the prompt and the picture."""

    fields: dict[str, Any]
    from_image: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Parameters that no request can set, in place of the card's."""
    bound: float = 0.0
    """The largest difference that is no mistake, where equal bits cannot be had."""
    reason: str = ""
    """Why they cannot."""

    def __str__(self) -> str:
        said = {"from": "image" if self.from_image else "text", **self.fields, **self.settings}
        size = f"{said.pop('width')}x{said.pop('height')}"
        return ", ".join([size, *(f"{name} {_short(value)}" for name, value in said.items())])

    def parameters(self, card: ModelCard) -> Parameters:
        prompt = PROMPT if card.TAKES_PROMPT else None
        request = GenerationRequest.model_validate({"prompt": prompt, "seed": 123, **self.fields})
        return resolve(request, card, has_image=self.from_image).model_copy(update=self.settings)

    def verdict(self, difference: float) -> str:
        """A largest difference in words."""
        if not 0 < difference <= self.bound:
            return verdict(difference)
        return f"{verdict(difference)}, up to {self.bound:.0e} may be: {self.reason}"


@dataclass(frozen=True)
class Subject:
    """A checkpoint with both of its sides: the stages, and the reference."""

    name: str
    staged: LocalPipeline
    stock: Callable[[Any, Image.Image | None], Tensor]
    """Makes the reference's video, [F, 3, H, W] float32 in [0, 1], from parameters and picture."""
    cases: list[Case] = field(repr=False)
    reference: Callable[[Any, Image.Image | None], str] = lambda *_: "its own pipeline"
    """What the reference of a video is called."""
    latents_only: bool = False
    """Whether the reference, and so the comparison, ends with the final latents."""
    _made: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def reference_name(self, case: Case) -> str:
        return self.reference(case.parameters(self.staged.card), picture() if case.from_image else None)

    def difference(self, case: Case) -> float:
        """The largest difference of any pixel between the stages and the reference; 0.0 means equal bits."""
        parameters, image = case.parameters(self.staged.card), picture() if case.from_image else None
        return largest(self._ours(case), self.stock(parameters, image))

    def difference_when_resumed(self, case: Case) -> float:
        """The same, between a denoise that was stopped after every step and one that ran through."""
        parameters, image = case.parameters(self.staged.card), picture() if case.from_image else None
        inputs = self.staged.condition(PROMPT, parameters, image)
        kind = stages_of(self.staged.card).state
        run = self.staged.denoiser.begin(parameters, inputs)
        while run.step_index < run.num_steps:
            run.step()
            run = self.staged.denoiser.begin(parameters, inputs, from_bytes(kind, to_bytes(run.state)))
        return largest(self._seen(run.result(), parameters), self._ours(case))

    def _ours(self, case: Case) -> Tensor:
        """What the stages make of a case; it is made once."""
        if str(case) not in self._made:
            parameters, image = case.parameters(self.staged.card), picture() if case.from_image else None
            if self.latents_only:
                inputs = self.staged.condition(PROMPT, parameters, image)
                made = self._seen(self.staged.denoise(parameters, inputs), parameters)
            else:
                made = self.staged.generate(PROMPT, parameters, image)
            self._made[str(case)] = made
        return self._made[str(case)]

    def _seen(self, final: StageOutput, parameters: Parameters) -> Tensor:
        if not self.latents_only:
            return self.staged.decode([final], parameters)
        latents: Tensor = final.latents  # type: ignore[attr-defined]
        return latents


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


def picture() -> Image.Image:
    """Noise, larger than any of the videos and of another aspect ratio."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 230, 3), dtype=np.uint8))


def verdict(difference: float) -> str:
    """A largest difference in words."""
    return f"differs by {difference:.1e}" if difference else "equal bits"


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two videos; 0.0 means equal bits."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    return 0.0 if torch.equal(ours, theirs) else float((ours - theirs).abs().max()) or float("nan")


def _short(value: Any) -> str:
    """A list of noise levels by its length."""
    return f"of {len(value)} levels" if isinstance(value, tuple) else str(value)
