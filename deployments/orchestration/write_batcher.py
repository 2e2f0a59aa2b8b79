"""What a conductor writes of its many jobs, many in one transaction: a few dozen denoisers keep it busy otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from deployments.background import until_set, until_written
from jobs.database import UNREACHABLE

V = TypeVar("V")

log = logging.getLogger("ray.serve")


class WriteBatcher(Generic[V]):
    """One write at a time; what comes meanwhile goes together in the next. So nothing waits while there is little.

    Every value is of the job under one lease, whose token it goes by; a later one replaces one that is not on its way.
    Who waits for the answer to one writes nothing else of that job meanwhile.
    """

    def __init__(
        self,
        write: Callable[[Mapping[str, V]], Collection[str]],
        *,
        stopped: Callable[[], bool] = lambda: False,
        on_lost: Callable[[str], None] = lambda _: None,
        pause_s: float = 0.0,
    ) -> None:
        """
        Args:
            write: blocks for the job store; returns the leases that were valid.
            stopped: from then on an unreachable store is tried once.
            on_lost: hears of a lease that was not valid, where nobody waits for the answer.
            pause_s: so long after a write, what nobody waits for is left to gather.
        """
        self._write = write
        self._stopped = stopped
        self._on_lost = on_lost
        self._pause_s = pause_s
        self._values: dict[str, V] = {}
        self._answers: dict[str, asyncio.Future[bool]] = {}
        self._hurry = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def put(self, token: str, value: V) -> None:
        """Let it be written soon. Losing it loses nothing."""
        self._values[token] = value
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def written(self, token: str, value: V) -> bool:
        """Have it written; whether the lease was valid."""
        answer = self._answers[token] = asyncio.get_running_loop().create_future()
        self._hurry.set()
        self.put(token, value)
        return await answer

    async def _write_all(self) -> None:
        while self._values:
            values, self._values = self._values, {}
            answers, self._answers = self._answers, {}
            self._hurry.clear()
            await self._write_these(values, answers)
            await until_set(self._hurry, self._pause_s)

    async def _write_these(self, values: Mapping[str, V], answers: Mapping[str, asyncio.Future[bool]]) -> None:
        try:
            valid = await until_written(self._write, values, stopped=self._stopped)
        except Exception as error:
            if len(values) > 1 and not isinstance(error, UNREACHABLE):
                for token, value in values.items():  # what is wrong with one is no matter of the others
                    await self._write_these({token: value}, {token: answers[token]} if token in answers else {})
                return
            for answer in answers.values():
                if not answer.done():
                    answer.set_exception(error)
            if not answers:
                log.exception("what was to be written of %d jobs is lost", len(values))
            return
        for token in values:
            if token not in answers:
                if token not in valid:
                    self._on_lost(token)
            elif not answers[token].done():
                answers[token].set_result(token in valid)
