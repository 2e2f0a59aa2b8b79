"""Put commits in the place of branches and tags in a card, so that everything that loads it gets the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from pipelines.card import CheckpointCard, Component, ModelCard, Source
from pipelines.paths import ROOT

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
"""A `config` on the hub: a repository, perhaps with a revision."""

MAIN = "main"
"""The branch that a repository is meant at where no revision is named."""

Commits = Mapping[tuple[str, str], str]
"""The commits to which repositories and their revisions are pinned."""

CommitOf = Callable[[str, str | None], str]
"""Gives the commit of a repository's branch or tag; of its main branch for None."""


def pin(card: ModelCard, commit_of: CommitOf, components: Collection[Component] | None = None) -> ModelCard:
    """The card with the commit of every hub repository that it names without one: of weights and configurations.

    A local path, and a card without a checkpoint, stay as they are.

    Args:
        components: those that matter; the places of the others stay as they are. By default, all of the card's.
    """
    if not isinstance(card, CheckpointCard):
        return card
    used = set(card.all_components() if components is None else components)
    own = {name: _pinned(source, commit_of) if name in used else source for name, source in card.components.items()}
    source = _pinned(card.source, commit_of) if used - own.keys() else card.source
    return card.model_copy(update={"source": source, "components": own})


def pin_known(card: ModelCard, commits: Commits) -> ModelCard:
    """The card with the commits that are recorded; what has none keeps its branch or tag."""

    def commit(repo: str, revision: str | None) -> str:
        revision = revision or MAIN
        return commits.get((repo, revision), revision)

    return pin(card, commit)


def unpinned(card: ModelCard, components: Collection[Component] | None = None) -> tuple[tuple[str, str | None], ...]:
    """The repositories and revisions that a card names without a commit, each once and in order."""
    asked: dict[tuple[str, str | None], None] = {}

    def note(repo: str, revision: str | None) -> str:
        asked[repo, revision] = None
        return ""

    pin(card, note, components)
    return tuple(asked)


def _pinned(source: Source, commit_of: CommitOf) -> Source:
    update: dict[str, str] = {}
    if source.repo is not None and not is_commit(source.revision):
        update["revision"] = commit_of(source.repo, source.revision)
    if source.config is not None and (named := hub_config(source.config)) is not None and not is_commit(named[1]):
        repo, revision = named
        update["config"] = f"{repo}@{commit_of(repo, revision)}"
    return source.model_copy(update=update)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never moves."""
    return revision is not None and COMMIT.fullmatch(revision) is not None


def hub_config(config: str) -> tuple[str, str | None] | None:
    """The repository and revision that a source's `config` names; None if it is a folder on this machine."""
    if (ROOT / config).is_dir():
        return None
    named = REPOSITORY.fullmatch(config)
    return None if named is None else (named["repo"], named["revision"])
