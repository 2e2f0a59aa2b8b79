"""Batches a conductor's writes about its jobs, many per transaction: else a few dozen denoisers would keep it busy."""

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
    """Makes one write at a time; values that arrive meanwhile go together into the next. So under low load none waits.

    Every value is about the job of one lease and is keyed by the lease's token; a later value replaces an earlier one
    whose write has not begun. All callers that wait for one lease then get the answer of the write of the latest value,
    so a caller whose own value must be written writes nothing else about that job meanwhile.
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
            write: writes the values and returns the leases that were valid; blocks for the job store.
            stopped: once it returns True, an unreachable store is tried only once.
            on_lost: called with the token of an invalid lease, if no caller waits for the answer.
            pause_s: seconds after each write during which values that no caller waits for gather.
        """
        self._write = write
        self._stopped = stopped
        self._on_lost = on_lost
        self._pause_s = pause_s
        self._values: dict[str, V] = {}
        self._answers: dict[str, list[asyncio.Future[bool]]] = {}
        self._hurry = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def put(self, token: str, value: V) -> None:
        """Have a value written soon. A lost value does no harm."""
        self._values[token] = value
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    def drop(self, token: str) -> None:
        """Forget a value that nobody waits for and whose write has not begun."""
        if token not in self._answers:
            self._values.pop(token, None)

    async def written(self, token: str, value: V) -> bool:
        """Write a value, or the one that replaces it, and wait; returns whether the lease was valid.

        Raises whatever the write raises.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.setdefault(token, []).append(answer)
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

    async def _write_these(self, values: Mapping[str, V], answers: Mapping[str, list[asyncio.Future[bool]]]) -> None:
        try:
            valid = await until_written(self._write, values, stopped=self._stopped)
        except Exception as error:
            if len(values) > 1 and not isinstance(error, UNREACHABLE):
                for token, value in values.items():  # one faulty value must not fail the others
                    await self._write_these({token: value}, {token: answers[token]} if token in answers else {})
                return
            for answer in (each for waiting in answers.values() for each in waiting if not each.done()):
                answer.set_exception(error)
            if unawaited := values.keys() - answers.keys():
                log.exception("what was to be written of %d jobs is lost", len(unawaited))
            return
        for token in values:
            if token not in answers and token not in valid:
                self._on_lost(token)
            for answer in answers.get(token, ()):
                if not answer.done():
                    answer.set_result(token in valid)
