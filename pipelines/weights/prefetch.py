"""Bring whole models onto this machine: plan, look for space, then fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.weights.download import RemoteFile
from pipelines.weights.hub import Lack, Need, bytes_to_come, check_space, fetch, first_look, in_cache, pinned
from pipelines.weights.located import Located, located, places
from pipelines.weights.pin import MAIN


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A component that is on this machine."""

    model: str
    component: Component
    located: Located

    @property
    def place(self) -> Path:
        """The single file, or else the component's folder."""
        return self.located.weights[0] if self.located.single else self.located.folder / self.component

    @property
    def size(self) -> int:
        """Bytes of the weights; of a component without weights, of its files."""
        files = self.located.weights or [path for path in self.place.iterdir() if path.is_file()]
        return sum(path.stat().st_size for path in files)


@dataclass(frozen=True, slots=True)
class Plan:
    """What must be fetched."""

    needs: Sequence[Need]
    """Each at its commit."""
    files: Sequence[RemoteFile]
    """Of all of them together."""


Parts = Sequence[tuple[CheckpointCard, Component]]


def prefetch(card: ModelCard) -> list[Path]:
    """Fetch what is missing of a model onto this machine, with progress bars; returns the places of its components.

    Raises:
        WeightsUnavailable: a component is not where the card says, not whole, or cannot be fetched.
    """
    return sorted({each.place for each in prefetch_all([card])})


def prefetch_all(
    cards: Iterable[ModelCard], *, check: Callable[[CheckpointCard, Component], None] | None = None
) -> list[Prefetched]:
    """Fetch what is missing of several models; files that they share are counted and fetched once.

    Args:
        check: called with each component before anything of size is fetched: the commits are known then, the listings
            of their files are in the cache, and the disk is large enough. What it raises ends this.

    Raises:
        WeightsUnavailable: a component is not where its card says, not whole, or cannot be fetched.
    """
    parts = _parts(cards)
    plan = _plan(parts)
    check_space(", ".join(dict.fromkeys(need.model for need in plan.needs)), bytes_to_come(plan.files))
    if plan.needs and check is not None:
        for card, component in parts:
            check(card, component)
    for need in plan.needs:
        fetch(need)
    return [Prefetched(card.id, component, located(card, component)) for card, component in parts]


def files_to_come(card: ModelCard) -> Sequence[RemoteFile]:
    """What is to be fetched of a model; asks the hub for listings only.

    Raises:
        WeightsUnavailable: a component is not where its card says, or the hub cannot be asked.
    """
    return _plan(_parts([card])).files


def _plan(parts: Parts) -> Plan:
    """What must be fetched for components.

    Components from one branch are fetched from one commit: when one of them is not whole in the cache, the hub is asked
    which commit the branch is now, and all of them are brought to it.

    Raises:
        WeightsUnavailable: a component is not where its card says, or the hub cannot be asked.
    """
    needs: list[Need] = []
    for card, component in parts:
        if not (those := places(card, component).needs):
            located(card, component)  # what is wrong with local files is said before anything is fetched
        needs += those
    fetched: list[Need] = []
    files: list[RemoteFile] = []
    for group in _by_revision(needs):
        lacks = [(need, found) for need in group if isinstance(found := first_look(need), Lack)]
        if not lacks:
            continue
        commit = pinned(*lacks[0]).revision or ""
        for need in group:
            lack = in_cache(need.at(commit))
            if isinstance(lack, Lack):
                files += lack.files
                fetched.append(need.at(commit))
    return Plan(fetched, files)


def _parts(cards: Iterable[ModelCard]) -> Parts:
    return [(card, each) for card in cards if isinstance(card, CheckpointCard) for each in card.all_components()]


def _by_revision(needs: list[Need]) -> list[list[Need]]:
    groups: dict[tuple[str, str], list[Need]] = {}
    for need in needs:
        groups.setdefault((need.repo, need.revision or MAIN), []).append(need)
    return list(groups.values())
