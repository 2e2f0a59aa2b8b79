"""The strict base model of every config, card and set of parameters."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """A frozen model; an unknown key is an error at every level of nesting."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
