"""The check of a client's request against a model's card, without torch.

`GenerationRequest` holds what the client sent. `Parameters` holds the effective values: all are filled in, so the video
can be repeated.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

from pipelines.card import CommonFields
from pipelines.catalogue import ModelCard
from pipelines.errors import InvalidRequest
from pipelines.ltx.card import LTXFields, LTXParameters
from pipelines.simulated.card import SimulatedParameters
from pipelines.svd.card import SVDFields, SVDParameters

Parameters = Annotated[LTXParameters | SVDParameters | SimulatedParameters, Field(discriminator="family")]
"""The effective parameters of one video, of any family."""

_PARAMETERS: TypeAdapter[Parameters] = TypeAdapter(Parameters)


class GenerationRequest(SVDFields, LTXFields, CommonFields):
    """The generation fields of a request, for all families; None means the model's default."""

    model_config = ConfigDict(extra="forbid")


def read_parameters(data: Any) -> Parameters:
    """Build parameters from the plain values of a job record. Raises ValidationError."""
    return _PARAMETERS.validate_python(data)


def resolve(
    request: GenerationRequest, card: ModelCard, *, seconds: float | None = None, has_image: bool = False
) -> Parameters:
    """Fill in the card's defaults and reject what the model cannot do.

    `seconds` selects the nearest possible num_frames when that field is absent.

    Raises:
        InvalidRequest: names the invalid field and the nearest valid values.
    """
    _check_prompt(request, card)
    if card.NEEDS_IMAGE and not has_image:
        raise InvalidRequest(
            f"input_reference is missing: {card.id} makes a video from an image", param="input_reference"
        )
    said = request.model_dump(exclude_none=True, exclude={"prompt"})
    _check_known(said, card)
    for name in ("width", "height"):
        _check_size(name, said.get(name), card)
    if seconds is not None and "num_frames" not in said:
        said["num_frames"] = _nearest_frames(seconds, said.get("fps", card.defaults.fps), card)
    said.setdefault("seed", secrets.randbelow(2**32))
    parameters = read_parameters({**card.defaults.model_dump(), **said, "family": card.family})
    _check_frames(parameters.num_frames, card)
    _check_pixels(parameters, card)
    card.check(parameters)  # type: ignore[arg-type]  # a card's family is its parameters' family
    return parameters


def _check_known(said: dict[str, Any], card: ModelCard) -> None:
    known = set(card.defaults.model_dump()) | {"seed"}
    for name in said:
        if name not in known:
            settable = ", ".join(sorted(known & GenerationRequest.model_fields.keys()))
            raise InvalidRequest(
                f"{card.id} has no {name}; its settings are {settable}", param=name, code="unsupported_field"
            )


def _check_prompt(request: GenerationRequest, card: ModelCard) -> None:
    if card.TAKES_PROMPT and not (request.prompt or "").strip():
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


def _check_pixels(parameters: Parameters, card: ModelCard) -> None:
    width, height, limit = parameters.width, parameters.height, card.limits.max_pixels
    if width * height * parameters.num_frames > limit:
        ratio = card.compression.temporal
        most = (limit // (width * height) - 1) // ratio * ratio + 1
        raise InvalidRequest(
            f"width x height x num_frames must be at most {limit}; at {width}x{height} that is {most}",
            param="num_frames",
        )


def _nearest_frames(seconds: float, fps: int, card: ModelCard) -> int:
    ratio, most = card.compression.temporal, card.limits.max_num_frames
    frames = max(round((seconds * fps - 1) / ratio), 0) * ratio + 1
    if frames > most:
        raise InvalidRequest(f"seconds must be at most {most / fps:.4g} for {card.id} at {fps} fps", param="seconds")
    return frames
