"""The commits to which weights are pinned: recorded when they are first fetched, moved when an operator says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cli.job_store import job_store_name, pins
from pipelines.card import ModelCard
from pipelines.errors import ConfigError
from pipelines.weights.hub import newest_commit
from pipelines.weights.located import commit_to_pin
from pipelines.weights.pin import MAIN, Commits, pin, unpinned


def pinned_card(card: ModelCard, say: Callable[[str], None], *, note: Callable[[str], None] | None = None) -> ModelCard:
    """The card as this service's replicas load it, with a commit for each branch of the hub that it names.

    A pin that the job store has is used. A new one is recorded there: the commit that the hub's cache has whole, or
    else the one that the branch is now. `kinoray prefetch` and `kinoray serve` fetch what this returns. If the job
    store cannot be reached, this says so and returns the card as it is.

    Args:
        say: told why nothing was recorded.
        note: told in which job store a commit was recorded: outside of the service it may be another than its own.

    Raises:
        WeightsUnavailable: a repository has no such branch, or neither the hub nor its cache knows the commit.
    """
    if not unpinned(card):
        return card  # and the job store is not needed
    try:
        with pins() as record:

            def commit(repo: str, revision: str | None) -> str:
                found: list[str] = []

                def find() -> str:
                    found.append(commit_to_pin(card, repo, revision))
                    return found[0]

                pinned = record.pinned(repo, revision, find)
                if found and note is not None:
                    where = f"{card.id}: {repo} {revision or MAIN}"
                    note(f"{where} is pinned to {pinned} in the job store {job_store_name()}")
                return pinned

            return pin(card, commit)
    except ConfigError as error:
        say(f"{card.id}: its commit is not recorded, so a replica may load a later one: {error.message}")
        return card


def recorded_commits(cards: Iterable[ModelCard], say: Callable[[str], None]) -> Commits:
    """The commits that the job store has of what cards name by a branch; asks no hub, and no store for nothing.

    Args:
        say: told why they are not known.
    """
    if not any(unpinned(card) for card in cards):
        return {}
    try:
        with pins() as record:
            return record.commits()
    except (ConfigError, OSError) as error:  # a SQLite store needs a folder that can be written
        say(f"which commits are pinned is not known: {error}")
        return {}


def move_pins(card: ModelCard) -> Iterator[str]:
    """Pin a card's branches to the commits that they are at now; yields a sentence for each.

    Raises:
        WeightsUnavailable: a repository has no such branch, or the hub cannot be reached.
        ConfigError: the job store cannot be reached.
    """
    named = unpinned(card)
    if not named:
        yield f"{card.id}: nothing to update, since its card names no branch or tag of the hub"
        return
    commits = {each: newest_commit(*each, model=card.id) for each in named}  # all of them, before any pin moves
    with pins() as record:
        for (repo, revision), commit in commits.items():
            before = record.move(repo, revision, commit)
            where = f"{card.id}: {repo} {revision or MAIN}"
            if before == commit:
                yield f"{where} is still at {commit}"
            else:
                yield (
                    f"{where} was {f'at {before}' if before else 'not pinned'} and is at {commit}; replicas that "
                    f"start from now on load it: run `./kinoray prefetch {card.id}` first"
                )
