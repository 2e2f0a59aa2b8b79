"""Where a conductor's jobs are within their legs, told to the job store for all of them together.

Each denoiser reports once a second. With a transaction for each report, a few dozen of them would keep a core busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobs.changes import Position
from jobs.leases import Leases

PAUSE_S = 0.1
"""After a write. The first report is written at once, what comes meanwhile goes together."""


class Reports:
    """The latest of each job waits here. Losing one loses nothing: it is advice, and the next one is on its way."""

    def __init__(self, leases: Leases, on_lost: Callable[[str], None]) -> None:
        self._leases = leases
        self._on_lost = on_lost
        self._latest: dict[str, Position] = {}
        self._news = asyncio.Event()

    def put(self, token: str, position: Position) -> None:
        """Let it be known soon where the job under this lease is."""
        self._latest[token] = position
        self._news.set()

    async def write(self) -> None:
        """Wait for reports and write them; for a loop. Calls `on_lost` for each lease that has been lost."""
        await self._news.wait()
        self._news.clear()
        reports, self._latest = self._latest, {}
        valid = await asyncio.to_thread(self._leases.report, reports)
        for token in reports.keys() - valid:
            self._on_lost(token)
        await asyncio.sleep(PAUSE_S)
