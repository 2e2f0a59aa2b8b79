"""Tells the requests of one API replica when their jobs change. One query serves all of them, however many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from jobs.database import UNREACHABLE

LOOK_EVERY_S = 0.2


class Watcher:
    """Polls the job store only while requests wait. Any replica may change a job: the store has the job's version."""

    def __init__(self, versions: Callable[[Collection[str]], Mapping[str, int]]) -> None:
        self._versions = versions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watcher")  # no lane of requests is held up by it
        self._asked: set[str] = set()
        self._look: asyncio.Task[Mapping[str, int] | None] | None = None

    async def changed(self, job_id: str, seen: int) -> int | None:
        """Wait until a job's version differs from `seen`; returns the new version, or None when the job is gone."""
        while True:
            self._asked.add(job_id)
            if self._look is None:
                self._look = asyncio.get_running_loop().create_task(self._next())
            versions = await asyncio.shield(self._look)  # other requests wait for it too
            if versions is not None and versions.get(job_id) != seen:
                return versions.get(job_id)

    async def _next(self) -> Mapping[str, int] | None:
        await asyncio.sleep(LOOK_EVERY_S)
        asked, self._asked, self._look = self._asked, set(), None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._versions, asked)
        except UNREACHABLE:
            return None  # the requests keep waiting
