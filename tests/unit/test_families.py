"""What a family registers, and what is refused of it. tests/families serves one that is a package of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from pipelines import families as registry
from pipelines.card import RequestFields
from pipelines.catalogue import get_card, read_card
from pipelines.errors import ConfigError
from pipelines.families import families, family_of, stages_of
from pipelines.requests import with_family_fields
from pipelines.strict import Finite

HERE = "a_family_of_a_test"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, object], None]]:
    """Install a package that registers a family under a name: a value, or None for one that is not there."""
    module = ModuleType(HERE)
    monkeypatch.setitem(sys.modules, HERE, module)

    def install(name: str, value: object) -> None:
        if value is not None:
            setattr(module, name.upper(), value)

        def installed(group: str) -> list[EntryPoint]:
            return [EntryPoint(name, f"{HERE}:{name.upper()}", group)] if group == "kinoray.families" else []

        monkeypatch.setattr(registry, "entry_points", installed)
        families.cache_clear()

    yield install
    families.cache_clear()


def test_kinorays_own_families_are_there() -> None:
    assert {"ltx", "svd", "simulated"} <= families().keys()
    for model in ("ltx-tiny", "svd-tiny", "simulated"):
        card = get_card(model)
        stages = stages_of(card)
        assert family_of(card).name == card.family
        assert (stages.text is not None, stages.image is not None) == (
            "text_encode" in card.STAGES,
            "image_encode" in card.STAGES,
        )


def test_an_installed_package_adds_a_family(install: Callable[[str, object], None]) -> None:
    install("mine", replace(families()["simulated"], name="mine"))
    assert list(families()) == ["ltx", "svd", "simulated", "mine"]


@pytest.mark.parametrize(
    ("name", "what", "says"),
    [
        ("mine", None, "cannot be imported from a_family_of_a_test:MINE"),
        ("mine", "no family", "must be a pipelines.protocols.Family; it is a str"),
        ("mine", "simulated", "has the name 'simulated', its entry point says 'mine'"),
        ("svd", "svd", "there is a family 'svd' already; choose another name"),
    ],
    ids=["missing", "something else", "another name", "a name that is taken"],
)
def test_a_wrong_package_is_named(
    install: Callable[[str, object], None], name: str, what: str | None, says: str
) -> None:
    install(name, what and dict[str, object](families()).get(what, what))
    with pytest.raises(ConfigError, match=says):
        families()


def test_a_card_of_an_unknown_family_is_told_which_there_are() -> None:
    with pytest.raises(ConfigError, match=r"family must be one of ltx, svd, simulated.*; it is 'wan'"):
        read_card({"id": "x", "family": "wan"})
    with pytest.raises(ConfigError, match="it is None"):
        read_card("no card")


class Same(BaseModel):
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None


class Other(BaseModel):
    guidance_scale: int | None = None


class Taken(BaseModel):
    prompt: str | None = None


class Set(BaseModel):
    glow: float = 0.5


class Demanded(BaseModel):
    glow: float | None


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        (Same, None),
        (Other, "'guidance_scale' of mine has another meaning for ltx"),
        (Taken, "mine has a request field 'prompt', which every family has already"),
        (Set, "the default of mine's request field 'glow' must be None"),
        (Demanded, "the default of mine's request field 'glow' must be None"),
    ],
    ids=["the same field", "another kind of value", "a field of every family", "a default", "no default"],
)
def test_a_request_field_means_one_thing(
    install: Callable[[str, object], None], fields: type[BaseModel], refused: str | None
) -> None:
    install("mine", replace(families()["simulated"], name="mine", fields=fields))
    if refused is not None:
        with pytest.raises(ConfigError, match=refused):
            with_family_fields(RequestFields, "Request")
    else:
        assert with_family_fields(RequestFields, "Request").model_fields.keys() >= {"guidance_scale", "fps"}
