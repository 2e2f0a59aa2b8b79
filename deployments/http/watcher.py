"""Tells the requests of one API replica when their jobs change: one query for all of them, however many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from jobs.database import UNREACHABLE

LOOK_EVERY_S = 0.2


class Watcher:
    """Looks only while somebody waits. Which replica changes a job does not matter: the store has its version."""

    def __init__(self, versions: Callable[[Collection[str]], Mapping[str, int]]) -> None:
        self._versions = versions
        self._asked: set[str] = set()
        self._look: asyncio.Task[Mapping[str, int] | None] | None = None

    async def changed(self, job_id: str, seen: int) -> int | None:
        """Wait until a job's version is not `seen` any more; returns the new one, None when the job is gone."""
        while True:
            self._asked.add(job_id)
            if self._look is None:
                self._look = asyncio.get_running_loop().create_task(self._next())
            versions = await asyncio.shield(self._look)  # others wait for it too
            if versions is not None and versions.get(job_id) != seen:
                return versions.get(job_id)

    async def _next(self) -> Mapping[str, int] | None:
        await asyncio.sleep(LOOK_EVERY_S)
        asked, self._asked, self._look = self._asked, set(), None
        try:
            return await asyncio.to_thread(self._versions, asked)
        except UNREACHABLE:
            return None  # those who wait go on waiting
