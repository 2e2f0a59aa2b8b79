"""The settings of guidance, and what they are in one step. No torch.

A setting is one value for all steps, or as many values as `guidance_timesteps` has: a step takes the value of the first
of these noise levels that is not above its own, or else the last value (LTX-Video, `pipeline_ltx_video.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self, cast

import numpy as np
from pydantic import Field, model_validator

from pipelines.strict import Finite, StrictModel

Scale = Annotated[Finite, Field(ge=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
PerStep = Scale | Annotated[tuple[Scale, ...], Field(min_length=1)]
"""One value for all steps, or one for each of `guidance_timesteps`."""
Block = Annotated[int, Field(ge=0)]
Blocks = tuple[Block, ...] | tuple[tuple[Block, ...], ...]
"""Transformer blocks, counted from 0: the same in all steps, or others for each of `guidance_timesteps`."""
Pass = Literal["negative", "positive", "perturbed"]
"""A forward pass of one step: with the negative prompt, with the prompt, with the prompt and without self-attention."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """The guidance of one step."""

    scale: float
    """Classifier-free guidance; at 1 and below there is none."""
    rescale: float
    """The share to which its result gets the conditional prediction's deviation, 0 to 1 (arXiv 2305.08891, 3.4)."""
    stg_scale: float
    """Spatio-temporal guidance (arXiv 2411.18664); at 0, or without blocks, there is none."""
    stg_rescale: float
    """The same share of the sum of both guidances; it has no effect without spatio-temporal guidance."""
    stg_blocks: tuple[int, ...]
    """The blocks whose self-attention the perturbed pass leaves out."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The forward passes that the step needs, in the order of the batch."""
        negative: tuple[Pass, ...] = ("negative",) if self.scale > 1 else ()
        perturbed: tuple[Pass, ...] = ("perturbed",) if self.stg_scale > 0 and self.stg_blocks else ()
        return (*negative, "positive", *perturbed)


class GuidanceSettings(StrictModel):
    """The settings of guidance on a card and in a video's parameters."""

    guidance_scale: PerStep
    guidance_rescale: Share = 0.0
    """As in diffusers: 0 is off. It acts on classifier-free guidance, before spatio-temporal guidance."""
    stg_scale: PerStep = 0.0
    stg_rescale: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = 0.0
    """The makers' `rescaling_scale`, except that off, 1 for them, is 0 here."""
    stg_blocks: Blocks = ()
    guidance_timesteps: tuple[Share, ...] | None = None
    """Noise levels in descending order, 1 to 0."""
    cfg_star_rescale: bool = False
    """Whether the projection of the positive prediction onto the negative one stands for the latter (CFG-Zero*,
    arXiv 2503.18886)."""
    joint_guidance: bool = True
    """Whether the passes of a step run as one batch, as in diffusers, or one after the other in less memory.

    The order of sums in a batch is another one, so this changes bits.
    """

    @model_validator(mode="after")
    def _one_value_for_each_level(self) -> Self:
        levels = len(self.guidance_timesteps or ())
        for name in ("guidance_scale", "stg_scale", "stg_rescale", "stg_blocks"):
            values = getattr(self, name)
            if _one_for_each_level(values) and len(values) != levels:
                raise ValueError(
                    f"{name} has {len(values)} values and guidance_timesteps {levels}; give one for each, or one alone"
                )
        descending = sorted(set(self.guidance_timesteps or ()), reverse=True)
        if list(self.guidance_timesteps or ()) != descending:
            raise ValueError("guidance_timesteps must descend")
        return self

    @property
    def guided(self) -> bool:
        """Whether any step needs the negative prompt."""
        scales = self.guidance_scale if isinstance(self.guidance_scale, tuple) else (self.guidance_scale,)
        return max(scales) > 1

    @property
    def perturbed_blocks(self) -> frozenset[int]:
        """The blocks that any step can perturb."""
        lists = self.stg_blocks if _one_for_each_level(self.stg_blocks) else (self.stg_blocks,)
        return frozenset(block for each in cast("tuple[tuple[int, ...], ...]", lists) for block in each)

    def guidance_at(self, level: float) -> Guidance:
        """The guidance of the step that begins at a noise level, 0 to 1."""
        # In float32, as the makers compare: a level that a list names may be another number in double precision.
        reached = [i for i, each in enumerate(self.guidance_timesteps or ()) if np.float32(each) <= np.float32(level)]
        index = reached[0] if reached else -1

        def of(values: PerStep) -> float:
            return values[index] if isinstance(values, tuple) else values

        blocks = self.stg_blocks[index] if _one_for_each_level(self.stg_blocks) else self.stg_blocks
        return Guidance(
            scale=of(self.guidance_scale),
            rescale=self.guidance_rescale,
            stg_scale=of(self.stg_scale),
            stg_rescale=of(self.stg_rescale),
            stg_blocks=cast("tuple[int, ...]", blocks),
        )


def _one_for_each_level(values: PerStep | Blocks) -> bool:
    """Whether a setting is a list over `guidance_timesteps`: of blocks, only a list of lists is one."""
    return isinstance(values, tuple) and bool(values) and not isinstance(values[0], int)
