"""Where the files of a component are on this machine, whatever its source: a folder, the hub or a single file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.card import WEIGHTLESS, CheckpointCard, Component, ModelCard, Source
from pipelines.errors import WeightsUnavailable
from pipelines.paths import ROOT
from pipelines.weights.files import description_files, weight_files
from pipelines.weights.hub import Lack, Need, Snapshot, cached_commit, commit_of, fetch, in_cache
from pipelines.weights.pin import MAIN, hub_config


@dataclass(frozen=True, slots=True)
class Located:
    """A component's files on this machine."""

    folder: Path
    """A diffusers folder: `folder / component` holds the component's descriptions."""
    weights: tuple[Path, ...]
    """The files with tensors, in order; empty for a component without weights."""
    single: bool
    """Whether `weights` is one file in its makers' layout, not those of a component's folder."""
    commit: str | None
    """Of the weights, or of the folder for a component without; None for local files."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A component that is not whole on this machine."""

    place: str
    """Where it is to come from: a path, or a repository on the hub."""
    what: str
    """The files, or the sentence that says what is wrong with those that are there."""


@dataclass(frozen=True, slots=True)
class Places:
    """The two places that a component's files come from: local, or needed of a repository."""

    folder: Path | Need
    """The diffusers folder."""
    file: Path | Need | None
    """The single file; None where `folder` has the weights, or the component has none."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What is needed of the hub."""
        return tuple(each for each in (self.file, self.folder) if isinstance(each, Need))


def places(card: CheckpointCard, component: Component) -> Places:
    """The places of a component's files, as its source names them.

    Raises:
        WeightsUnavailable: the source names a folder or file that is not here.
    """
    source = card.component_source(component)
    if source.file is None:
        folder = source.path()
        if folder is None:
            return Places(Need(card.id, source.repo or "", source.revision, component, variant=source.variant), None)
        return Places(folder, None)
    return Places(
        _config(card, source, component), None if component in WEIGHTLESS else _single_file(card, source, component)
    )


def located(card: CheckpointCard, component: Component) -> Located:
    """A component's files on this machine; fetches from the hub what is not here.

    Raises:
        WeightsUnavailable: they are not where the card says, not whole, or cannot be fetched.
    """
    where = places(card, component)
    file = fetch(where.file) if isinstance(where.file, Need) else where.file
    folder = fetch(where.folder) if isinstance(where.folder, Need) else where.folder
    return _located(card, component, folder, file)


def commit_to_pin(
    card: ModelCard, repo: str, revision: str | None, components: Iterable[Component] | None = None
) -> str:
    """The commit to which a branch or tag is pinned when nobody has yet: the cache's, if it is whole, or the hub's.

    Args:
        components: those that need something; by default, all of the card's.

    Raises:
        WeightsUnavailable: there is no such repository or revision, or neither hub nor cache know it.
    """
    return whole_commit(card, repo, revision, components) or commit_of(repo, revision, model=card.id)


def whole_commit(
    card: ModelCard, repo: str, revision: str | None, components: Iterable[Component] | None = None
) -> str | None:
    """The commit that a branch or tag is in the cache, if all that a card needs of it is there; without the network.

    The hub may have a newer one, which would have to be fetched.

    Args:
        components: those that need something; by default, all of the card's.
    """
    if not isinstance(card, CheckpointCard):
        return None
    try:
        needs = [
            need
            for component in (card.all_components() if components is None else components)
            for need in places(card, component).needs
            if (need.repo, need.revision or MAIN) == (repo, revision or MAIN)
        ]
        if not needs or any(isinstance(in_cache(need), Lack) for need in needs):
            return None
    except WeightsUnavailable:
        return None
    return cached_commit(needs[0])


def missing(card: CheckpointCard, component: Component) -> Missing | None:
    """What of a component is not on this machine, without fetching and without the network; None if it is whole."""
    source = card.component_source(component)
    try:
        where = places(card, component)
        file, folder = _seen(where.file), _seen(where.folder)
        if isinstance(file, Missing):
            return file
        if isinstance(folder, Missing):
            return folder
        assert folder is not None
        _located(card, component, folder, file)
    except WeightsUnavailable as error:
        return Missing(source.repo or str(source.path()), error.message)
    return None


def _seen(place: Path | Need | None) -> Path | Snapshot | Missing | None:
    """What is there of a place, without the network."""
    if not isinstance(place, Need):
        return place
    found = in_cache(place)
    return Missing(place.repo, found.reason) if isinstance(found, Lack) else found


def _located(
    card: CheckpointCard, component: Component, folder: Path | Snapshot, file: Path | Snapshot | None
) -> Located:
    commit = folder.commit if isinstance(folder, Snapshot) else None
    if isinstance(folder, Path):
        source = card.component_source(component)
        weights = _in_folder(card, component, folder, source.variant, wanted=file is None)
    else:
        weights = folder.weights
    root = folder if isinstance(folder, Path) else folder.folder
    if file is None:
        return Located(root, weights, False, commit)
    if isinstance(file, Path):
        return Located(root, (file,), True, None)
    return Located(root, file.weights, True, file.commit)


def _in_folder(
    card: CheckpointCard, component: Component, folder: Path, variant: str | None, *, wanted: bool
) -> tuple[Path, ...]:
    """The weights of a component in a local diffusers folder, which must be whole."""
    place = folder / component
    if not folder.is_dir():
        instead = "is a file: name it as `file`" if folder.is_file() else "is no folder on this machine"
        raise WeightsUnavailable(f"{card.id}: {folder} {instead}, in the card {card.id}.yaml")
    if not place.is_dir():
        raise WeightsUnavailable(f"{card.id}: {folder} has no folder {component}; it must be a diffusers checkpoint")
    names = [each.name for each in place.iterdir() if each.is_file()]
    where = f"{card.id}: {place}"
    description_files(names, component=component, variant=variant, where=where)
    if not wanted or component in WEIGHTLESS:
        return ()
    return tuple(place / name for name in weight_files(names, variant=variant, where=where))


def _single_file(card: CheckpointCard, source: Source, component: Component) -> Path | Need:
    if (path := source.path()) is None:
        return Need(card.id, source.repo or "", source.revision, component, file=source.file)
    if not path.is_file():
        raise WeightsUnavailable(f"{card.id}: there is no file {path}; set source.file in the card {card.id}.yaml")
    return path


def _config(card: CheckpointCard, source: Source, component: Component) -> Path | Need:
    """The folder with a single file's configuration: local, or on the hub (`owner/name` or with `@commit`)."""
    config = source.config or ""
    folder = ROOT / config
    if folder.is_dir():
        return folder
    if (named := hub_config(config)) is None:
        raise WeightsUnavailable(f"{card.id}: there is no folder {folder}; set `config` in the card {card.id}.yaml")
    return Need(card.id, *named, component, weights=False)
