"""What is wrong with a value is said in words of ours, and of a name that there is not what may have been meant."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.configuration.settings import load_settings
from pipelines.errors import ConfigError
from pipelines.wrong_values import all_wrong


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = Field(default=1, ge=1, le=9)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner | None = None
    several: list[Inner] = Field(default=[], max_length=2)
    kind: Literal["a", "b"] = "a"
    name: str = Field(default="x", min_length=1)
    share: float = Field(default=0.5, gt=0, lt=1, allow_inf_nan=False)
    on: bool = True
    needed: int

    @field_validator("name")
    @classmethod
    def _no_dots(cls, name: str) -> str:
        if "." in name:
            raise ValueError("must have no dots")
        return name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "needed: is missing"),
        ({"needed": "x"}, "needed: must be a whole number"),
        ({"needed": 1.5}, "needed: must be a whole number"),
        ({"needed": 1, "inner": {"steps": 0}}, "inner.steps: must be at least 1"),
        ({"needed": 1, "several": [{}, {"steps": 10}]}, "several.1.steps: must be at most 9"),
        ({"needed": 1, "several": [{}] * 3}, "several: must have at most 2 entries"),
        ({"needed": 1, "several": 1}, "several: must be a list"),
        ({"needed": 1, "inner": 1}, "inner: must be a mapping"),
        ({"needed": 1, "kind": "c"}, "kind: must be 'a' or 'b'"),
        ({"needed": 1, "name": ""}, "name: must not be empty"),
        ({"needed": 1, "name": "a.b"}, "name: must have no dots"),
        ({"needed": 1, "name": 1}, "name: must be text"),
        ({"needed": 1, "share": 0}, "share: must be above 0"),
        ({"needed": 1, "share": 1}, "share: must be below 1"),
        ({"needed": 1, "share": float("nan")}, "share: must be a finite number"),
        ({"needed": 1, "share": "x"}, "share: must be a number"),
        ({"needed": 1, "on": "x"}, "on: must be true or false"),
        ({"needed": 1, "shares": 1}, "shares: is not known; did you mean share?"),
        ({"needed": 1, "several": [{"step": 1}]}, "several.0.step: is not known; did you mean steps?"),
        ({"needed": 1, "inner": {"zzz": 1}}, "inner.zzz: is not known; there are steps"),
    ],
)  # fmt: skip
def test_what_is_wrong(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(given)
    assert list(all_wrong(refused.value, Outer)) == [says]


def test_a_name_of_an_older_version_is_told_from_a_typo() -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings({"model": ["ltx-tiny"], "threads": {"denoises": 1}})
    assert refused.value.message == (
        "the application's args are wrong: args.threads.denoises: is not known; did you mean denoise?; "
        "args.model: is not known; did you mean models?"
    )
