"""Each kind of file that people have loads whole or is refused with a sentence; docs/models.md has the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from benchmarks.releases import ltx, svd, t5
from benchmarks.releases.networks import Width
from benchmarks.releases.svd_networks import unet
from pipelines.card import CheckpointCard, Component
from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights.check import check, check_component
from pipelines.weights.load import load_network
from tests.unit.kinds_of_files import LOADS, REFUSED, RELEASE, SVD, Kind, Shelf

CPU = torch.device("cpu")
BEGIN, END = "<!-- kinds of files -->", "<!-- end -->"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def told(shelf: Shelf) -> Callable[[Kind], str]:
    """What happens to a kind, in the table's words; each is tried once."""
    return cache(lambda kind: (loads if kind.loads else refused)(kind, shelf))


@pytest.mark.parametrize("kind", [*LOADS, *REFUSED], ids=lambda kind: kind.what)
def test_loads_whole_or_is_refused_with_a_sentence(kind: Kind, told: Callable[[Kind], str]) -> None:
    assert told(kind).startswith("loads") == (kind.loads is not None)


def test_the_table_of_the_docs_is_what_happens(told: Callable[[Kind], str]) -> None:
    rows = [f"| {kind.what} | {told(kind)} |" for kind in (*LOADS, *REFUSED)]
    table = "\n".join(["| Kind of file | What happens |", "|---|---|", *rows])
    page = (ROOT / "docs" / "models.md").read_text()
    shown = page.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table, f"the table is now:\n{table}"


def loads(kind: Kind, shelf: Shelf) -> str:
    """Load a kind and compare it with the release; returns the table's words."""
    card = kind.make(shelf)
    component = kind.loads
    assert component is not None
    check_component(card, component)
    network = load_network(card, component, dtype=torch.float32, device=CPU)
    found, truth = dict(numbers(network)), released(card, component)
    assert found.keys() == truth.keys()
    distance = max(float((found[name] - truth[name]).norm() / truth[name].norm().clamp(min=1e-9)) for name in truth)
    if not kind.within:
        assert distance == 0
        return "loads, every number as published"
    assert 0 < distance <= kind.within
    return f"loads; numbers within {kind.within:.1%}"


def refused(kind: Kind, shelf: Shelf) -> str:
    """The sentence with which a kind is refused, with the folder left out."""
    try:
        card = kind.make(shelf)
    except ValidationError as error:
        return shown(error.errors()[0]["msg"].removeprefix("Value error, "), shelf)
    with pytest.raises(WeightsUnavailable) as checked:
        check(card)
    for component in card.networks():
        try:
            check_component(card, component)
        except WeightsUnavailable as error:
            with pytest.raises(WeightsUnavailable, match=re.escape(error.message)):
                load_network(card, component, dtype=torch.float32, device=CPU)
    return shown(checked.value.message, shelf)


def shown(sentence: str, shelf: Shelf) -> str:
    return sentence.replace(f"{shelf.root}/", "").replace("|", "\\|")


def numbers(network: Any) -> Iterator[tuple[str, Tensor]]:
    """A network's tensors by name, each once and as numbers."""
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    for name, tensor in network.state_dict(keep_vars=True).items():
        if name == t5.TOKENS:
            continue
        yield name, (dequantize_gguf_tensor(tensor) if isinstance(tensor, GGUFParameter) else tensor).detach().float()


def released(card: CheckpointCard, component: Component) -> dict[str, Tensor]:
    small = Width.SMALL
    if card.family == "svd":
        state = unet(svd.REPOSITORIES[SVD].name, small).state_dict()
    elif component == "text_encoder":
        state = t5.t5_tensors(small)
    else:
        state = (ltx.transformer_tensors if component == "transformer" else ltx.vae_tensors)(RELEASE, small)
    return {name: tensor.detach().float() for name, tensor in state.items()}
