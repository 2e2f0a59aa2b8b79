"""The check of a client's request against a model's card, without torch.

`GenerationRequest` holds what the client sent. `Parameters` holds the effective values: all are filled in, so the video
can be repeated.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model

from pipelines.card import ModelCard, Parameters, RequestFields
from pipelines.errors import ConfigError, InvalidRequest
from pipelines.families import families, family_of
from pipelines.shape import Asked, frames_for, most_seconds, size_for
from pipelines.strict import read_stored

F = TypeVar("F", bound=BaseModel)

RANDOM_SEED = -1
"""A request's seed that stands for one drawn at random, as if there were none."""


def with_family_fields(base: type[F], name: str) -> type[F]:
    """A model with the fields of `base` and of every family; None is the default of each family's field.

    Raises:
        ConfigError: a field's name has another meaning already, or its default is not None.
    """
    owners: dict[str, tuple[str, str]] = {}
    for family in families().values():
        for field, info in family.fields.model_fields.items():
            if field in base.model_fields:
                raise ConfigError(f"{family.name} has a request field {field!r}, which every family has already")
            if info.default is not None:
                raise ConfigError(f"the default of {family.name}'s request field {field!r} must be None: it is not set")
            kind = repr((info.annotation, info.metadata))  # they are not comparable
            owner, known = owners.setdefault(field, (family.name, kind))
            if known != kind:
                raise ConfigError(f"the request field {field!r} of {family.name} has another meaning for {owner}")
    own = [family.fields for family in families().values() if family.fields is not BaseModel]
    # mypy knows of one base only.
    return cast("type[F]", create_model(name, __base__=(*reversed(own), base)))


class _Generation(RequestFields):
    """The generation fields of a request, for all families; None means the model's default."""

    model_config = ConfigDict(extra="forbid")


GenerationRequest: type[RequestFields] = with_family_fields(_Generation, "GenerationRequest")
"""The generation fields of a request, for all families; None means the model's default."""


def said_by(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of parameters or defaults those that a request can say; a list is the card's alone."""
    return {
        name: value
        for name, value in values.items()
        if name in GenerationRequest.model_fields and value is not None and not isinstance(value, tuple | list)
    }


def read_parameters(data: Mapping[str, Any]) -> Parameters:
    """Build parameters from a job record, by `pipelines.strict.read_stored`."""
    return read_stored(families()[data["family"]].parameters, data)


def resolve(
    request: RequestFields, card: ModelCard, *, asked: Asked | None = None, has_image: bool = False
) -> Parameters:
    """Fill in the card's defaults and reject what the model cannot do.

    `asked` is the shape of the file, from which the one to render follows where the request does not set it.

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
    if said.get("seed", RANDOM_SEED) == RANDOM_SEED:
        said["seed"] = secrets.randbelow(2**32)
    said.update(_rendered(asked or Asked(), said, card))
    family = family_of(card)
    parameters = family.parameters.model_validate({**card.values(said), "family": card.family})
    _check_pixels(parameters, card)
    family.check(card, parameters)
    return parameters


def _check_known(said: dict[str, Any], card: ModelCard) -> None:
    known = set(card.defaults.model_dump()) | {"seed"}
    for name in said:
        if name not in known:
            settable = ", ".join(sorted(known & GenerationRequest.model_fields.keys()))
            raise InvalidRequest(
                f"{card.id} has no {name}; its settings are {settable}", param=name, code="unsupported_field"
            )


def _check_prompt(request: RequestFields, card: ModelCard) -> None:
    if card.TAKES_PROMPT and not (request.prompt or "").strip():
        raise InvalidRequest("prompt must not be empty; describe the video", param="prompt")
    for name, value in request:
        if isinstance(value, str) and len(value) > card.limits.max_prompt_chars:
            message = f"{name} must be at most {card.limits.max_prompt_chars} characters; it has {len(value)}"
            raise InvalidRequest(message, param=name)


def _check_size(name: str, value: int | None, card: ModelCard) -> None:
    if value is None or card.limits.allow_side(value):
        return
    multiple, low, high = card.limits.size_multiple, card.limits.min_size, card.limits.max_size
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high} for {card.id}; it is {value}", param=name)
    below = value // multiple * multiple
    nearest = [str(n) for n in (below, below + multiple) if low <= n <= high]
    raise InvalidRequest(f"{name} must be a multiple of {multiple}; nearest are {' and '.join(nearest)}", param=name)


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
    if not card.limits.allow_pixels(width, height, parameters.num_frames):
        ratio = card.compression.temporal
        most = (limit // (width * height) - 1) // ratio * ratio + 1
        raise InvalidRequest(
            f"width x height x num_frames must be at most {limit}; at {width}x{height} that is {most}",
            param="num_frames",
        )


def _rendered(asked: Asked, said: dict[str, Any], card: ModelCard) -> dict[str, int]:
    """The width, height and num_frames that the model renders for what is asked of the file."""
    shape = {name: said.get(name, getattr(card.defaults, name)) for name in ("width", "height", "num_frames")}
    fps = said.get("fps", card.defaults.fps)
    frames = None if "num_frames" in said else frames_for(asked, fps, card)
    if frames is not None:
        shape["num_frames"] = frames
    _check_frames(shape["num_frames"], card)
    if asked.size is not None:
        shape["width"], shape["height"] = size_for(asked.size, shape["num_frames"], fps, card)
    elif frames is not None and not card.limits.allow_pixels(**shape):
        most = most_seconds(shape["width"], shape["height"], fps, card)
        raise InvalidRequest(
            f"seconds must be at most {most} for {card.id} at {shape['width']}x{shape['height']} and {fps} fps",
            param="seconds",
        )
    return shape
