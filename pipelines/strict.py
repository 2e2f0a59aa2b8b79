"""The strict base model of every config, card and set of parameters, and the lenient reading of stored ones."""

from __future__ import annotations

import copy
import functools
import logging
import operator
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

M = TypeVar("M", bound=BaseModel)

log = logging.getLogger(__name__)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """A frozen model; an unknown key is an error at every level of nesting."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def read_stored(kind: type[M], data: Mapping[str, Any]) -> M:
    """Build a model from a job record, which another version of Kinoray may have written.

    Keys that this version does not know have no effect, at any depth, and stay in the record. Raises ValidationError.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        if not unknown:
            raise
    _tell(kind.__name__, tuple(sorted(".".join(map(str, each)) for each in unknown)))
    known = copy.deepcopy(dict(data))
    for *path, name in unknown:
        del functools.reduce(operator.getitem, path, cast(Any, known))[name]
    return kind.model_validate(known)


@cache
def _tell(kind: str, unknown: tuple[str, ...]) -> None:
    """Log what has no effect, once: the same keys are in many records."""
    log.warning("%s: keys of another version have no effect here: %s", kind, ", ".join(unknown))
