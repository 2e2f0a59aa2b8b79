"""The strict base model of every config, card and set of parameters, and the lenient reading of stored ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

M = TypeVar("M", bound=BaseModel)

log = logging.getLogger(__name__)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """A frozen model; an unknown key is an error at every level of nesting."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def read_stored(kind: type[M], data: Mapping[str, Any]) -> M:
    """Build a model from a job record, which another version of Kinoray may have written.

    Keys that this version does not know have no effect, and stay in the record. Raises ValidationError.
    """
    if unknown := data.keys() - kind.model_fields.keys():
        _tell(kind.__name__, tuple(sorted(unknown)))
    return kind.model_validate({name: value for name, value in data.items() if name not in unknown})


@cache
def _tell(kind: str, unknown: tuple[str, ...]) -> None:
    """Log what has no effect, once: the same keys are in many records."""
    log.warning("%s: keys of another version have no effect here: %s", kind, ", ".join(unknown))
