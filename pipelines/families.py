"""The families of this installation, by name: Kinoray's own, and those of installed packages.

A package registers a family with an entry point, whose name is the family's:

    [project.entry-points."kinoray.families"]
    wan = "kinoray_wan.family:FAMILY"

It must be installed wherever Kinoray runs: the API checks its requests, and each replica loads its stages.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pipelines.card import ModelCard, Parameters
from pipelines.errors import ConfigError
from pipelines.graph import Graph
from pipelines.protocols import Family, StageOutput, Stages
from pipelines.stages import Stage

if TYPE_CHECKING:
    from typing import TypeAlias

    # A card's family is its parameters' family, which no type can say: so whoever takes a family from here sees the
    # base classes. That a family fits together is checked where it registers.
    Conditioning: TypeAlias = StageOutput | None
    AnyFamily: TypeAlias = Family[ModelCard, Parameters, Conditioning, Conditioning, StageOutput, StageOutput]
    AnyStages: TypeAlias = Stages[ModelCard, Parameters, Conditioning, Conditioning, StageOutput, StageOutput]

GROUP = "kinoray.families"
OWN = tuple(EntryPoint(name, f"pipelines.{name}.family:FAMILY", GROUP) for name in ("ltx", "svd", "simulated"))


@cache
def families() -> dict[str, AnyFamily]:
    """Every family, by name. Imports no torch.

    Raises:
        ConfigError: an installed package's family cannot be imported, is none, or has a name that is taken.
    """
    found: dict[str, AnyFamily] = {}
    for entry in (*OWN, *entry_points(group=GROUP)):
        try:
            family = entry.load()
        except Exception as error:  # it is somebody else's code
            cause = f"{type(error).__name__}: {error}"
            raise ConfigError(f"the family {entry.name!r} cannot be imported from {entry.value}: {cause}") from error
        if not isinstance(family, Family):
            raise ConfigError(f"{entry.value} must be a pipelines.protocols.Family; it is a {type(family).__name__}")
        if family.name != entry.name:
            raise ConfigError(f"{entry.value} has the name {family.name!r}, its entry point says {entry.name!r}")
        if family.name in found:
            raise ConfigError(f"{entry.value}: there is a family {family.name!r} already; choose another name")
        found[family.name] = family
    return found


def family_of(of: ModelCard | Parameters) -> AnyFamily:
    """The family of a card or of parameters."""
    return families()[of.family]


def graph_of(card: ModelCard, parameters: Parameters, has_image: bool) -> Graph:
    """The stage graph of one job.

    Raises:
        ValueError: the family's graph has a stage that its card does not, or cannot run.
    """
    graph = family_of(card).graph(card, parameters, has_image)
    if missing := sorted(graph.work().keys() - card.STAGES.keys() - {Stage.PUBLISH}):
        raise ValueError(f"the graph of {card.family} has a stage {missing[0]}, which its card's STAGES do not name")
    return graph


def stages_of(card: ModelCard) -> AnyStages:
    """The stages of a model. Imports torch, where the family uses it."""
    return family_of(card).stages()
