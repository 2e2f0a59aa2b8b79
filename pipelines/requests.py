"""What a client may ask of a model, checked against its card without torch.

`GenerationRequest` is what was said; `Parameters` is what will be done: every value filled in, ready to be repeated.
"""

from __future__ import annotations

import secrets
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pipelines.catalogue import ModelCard, StrictModel
from pipelines.errors import InvalidRequest

T = TypeVar("T")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class GenerationRequest(BaseModel):
    """The generation fields of a request; None means the model's default."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    guidance_rescale: Annotated[Finite, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Parameters(StrictModel):
    """The effective parameters of one video. With the model's revision they determine its every pixel."""

    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    negative_prompt: str
    seed: int
    decode_timestep: float
    decode_noise_scale: float | None
    max_sequence_length: int
    timesteps: tuple[float, ...] | None

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs, which doubles the batch."""
        return self.guidance_scale > 1.0

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


def resolve(request: GenerationRequest, card: ModelCard, seconds: float | None = None) -> Parameters:
    """Fill in the card's defaults and refuse what the model cannot do.

    `seconds` chooses the nearest possible num_frames when that field is absent.

    Raises:
        InvalidRequest: with the field at fault and the nearest values that would work.
    """
    defaults, limits = card.defaults, card.limits
    _check_prompt(request, card)
    for name in ("width", "height"):
        _check_size(name, getattr(request, name), card)
    fps = request.fps or defaults.fps
    num_frames = request.num_frames
    if num_frames is None:
        num_frames = defaults.num_frames if seconds is None else _nearest_frames(seconds, fps, card)
    _check_frames(num_frames, card)
    steps = request.num_inference_steps or defaults.num_inference_steps
    if defaults.timesteps is not None and steps != defaults.num_inference_steps:
        raise InvalidRequest(
            f"num_inference_steps must be {defaults.num_inference_steps}: {card.id} is distilled for that many",
            param="num_inference_steps",
        )
    width, height = request.width or defaults.width, request.height or defaults.height
    if width * height * num_frames > limits.max_pixels:
        ratio = card.compression.temporal
        most = (limits.max_pixels // (width * height) - 1) // ratio * ratio + 1
        raise InvalidRequest(
            f"width x height x num_frames must be at most {limits.max_pixels}; at {width}x{height} that is {most}",
            param="num_frames",
        )

    return Parameters(
        width=width,
        height=height,
        num_frames=num_frames,
        fps=fps,
        num_inference_steps=steps,
        guidance_scale=_given(request.guidance_scale, defaults.guidance_scale),
        guidance_rescale=_given(request.guidance_rescale, defaults.guidance_rescale),
        negative_prompt=_given(request.negative_prompt, defaults.negative_prompt),
        seed=secrets.randbelow(2**32) if request.seed is None else request.seed,
        decode_timestep=defaults.decode_timestep,
        decode_noise_scale=defaults.decode_noise_scale,
        max_sequence_length=defaults.max_sequence_length,
        timesteps=defaults.timesteps,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _check_prompt(request: GenerationRequest, card: ModelCard) -> None:
    if not (request.prompt or "").strip():
        raise InvalidRequest("prompt must not be empty; describe the video", param="prompt")
    for name in ("prompt", "negative_prompt"):
        length = len(getattr(request, name) or "")
        if length > card.limits.max_prompt_chars:
            message = f"{name} must be at most {card.limits.max_prompt_chars} characters; it has {length}"
            raise InvalidRequest(message, param=name)


def _check_size(name: str, value: int | None, card: ModelCard) -> None:
    if value is None:
        return
    multiple, low, high = card.limits.size_multiple, card.limits.min_size, card.limits.max_size
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high} for {card.id}; it is {value}", param=name)
    if value % multiple:
        below = value // multiple * multiple
        nearest = [str(n) for n in (below, below + multiple) if low <= n <= high]
        raise InvalidRequest(
            f"{name} must be a multiple of {multiple}; nearest are {' and '.join(nearest)}", param=name
        )


def _check_frames(num_frames: int, card: ModelCard) -> None:
    ratio, most = card.compression.temporal, card.limits.max_num_frames
    if not 1 <= num_frames <= most:
        raise InvalidRequest(
            f"num_frames must be between 1 and {most} for {card.id}; it is {num_frames}", param="num_frames"
        )
    if (num_frames - 1) % ratio:
        below = (num_frames - 1) // ratio * ratio + 1
        nearest = [str(n) for n in (below, below + ratio) if n <= most]
        raise InvalidRequest(
            f"num_frames must be {ratio}k+1 for {card.id}; nearest are {' and '.join(nearest)}", param="num_frames"
        )


def _nearest_frames(seconds: float, fps: int, card: ModelCard) -> int:
    ratio, most = card.compression.temporal, card.limits.max_num_frames
    frames = max(round((seconds * fps - 1) / ratio), 0) * ratio + 1
    if frames > most:
        raise InvalidRequest(f"seconds must be at most {most / fps:.4g} for {card.id} at {fps} fps", param="seconds")
    return frames
