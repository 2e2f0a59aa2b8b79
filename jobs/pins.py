"""The commits to which the weights of hub repositories are pinned, so that every replica loads the same ones.

A card may name a branch, which moves. The first process that needs it learns its commit and records it here; the others
read that. A pin moves only when an operator asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from jobs.database import Database, insert_if_absent, insert_into
from jobs.schema import pins

MAIN = "main"
"""What the hub calls every repository's first branch; a card that names no revision means it."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A commit, and when it was recorded in seconds since the epoch."""

    commit: str
    pinned_at: float


class Pins:
    """The pins of a service. Methods block for the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pinned(self, repo: str, revision: str | None, resolve: Callable[[], str]) -> str:
        """The commit of a repository's branch or tag; the first to ask calls `resolve`, and its answer is recorded.

        When several ask at once, all of them get what the first has recorded.
        """
        revision = revision or MAIN
        if (known := self.all().get((repo, revision))) is not None:
            return known.commit
        commit = resolve()  # not within a transaction: it may ask the hub
        with self._database.write() as connection:
            insert_if_absent(connection, pins, repo=repo, revision=revision, commit=commit, pinned_at=time.time())
        return self.all()[repo, revision].commit

    def move(self, repo: str, revision: str | None, commit: str) -> str | None:
        """Pin a branch or tag to this commit from now on; returns the commit before, if there was one."""
        key = {"repo": repo, "revision": revision or MAIN}
        with self._database.write() as connection:
            query = select(pins.c.commit).where(pins.c.repo == repo, pins.c.revision == key["revision"])
            before: str | None = connection.execute(query.with_for_update()).scalar_one_or_none()
            value = {"commit": commit, "pinned_at": time.time()}
            insert = insert_into(connection.dialect.name, pins).values(**key, **value)
            connection.execute(insert.on_conflict_do_update(index_elements=list(pins.primary_key), set_=value))
        return before

    def commits(self) -> dict[tuple[str, str], str]:
        """The commit of every pin, by repository and revision."""
        return {key: each.commit for key, each in self.all().items()}

    def all(self) -> dict[tuple[str, str], Pin]:
        """Every pin, by repository and revision. There are a few for each model."""
        with self._database.read() as connection:
            return {
                (row.repo, row.revision): Pin(row.commit, row.pinned_at) for row in connection.execute(select(pins))
            }
