"""One call of one stage: it reads the small events, passes the stage's value on unread, and can be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import NewType, Protocol

from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError

from deployments.stages.messages import CheckpointRef, Ending, Event, Finished, Progress, Request, Started
from pipelines.stages import Stage

CAN_MIGRATE = (Stage.DENOISE, Stage.PUBLISH)
"""The stages that can outlast the time a replica has to stop: denoising, and a wait for the artifact store."""


Reference = NewType("Reference", object)
"""A stage output that this process holds and never reads: a `ray.ObjectRef`."""


class Stream(Protocol):
    """What a stage answers to one call."""

    def events(self) -> AsyncGenerator[Event, None]:
        """Its events; the last is `Finished`. Raises what ended the call."""

    async def value(self) -> Reference | None:
        """The reference of its value, after `Finished`; None if it has no value."""

    def cancel(self) -> None:
        """Ask the replica to stop. Canceling twice does no harm."""

    async def drain(self) -> None:
        """Wait until the replica has stopped; what it still sends is not read."""


class StageHandle(Protocol):
    """The replicas of one stage."""

    def call(
        self, request: Request, *outputs: Reference | CheckpointRef, **named_outputs: Reference | CheckpointRef
    ) -> Stream:
        """Call one of them with outputs of other stages; references reach it as their values."""


class Migrated(Exception):
    """Raised when a replica that was told to stop has given the call back, or was killed because it took too long.

    A denoiser has committed its step before.
    """


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage's value, by reference, and what it said of its work."""

    value: Reference | None
    finished: Finished


class StageCall:
    """One call. `replica` is the one that works on it, once it has started."""

    def __init__(
        self,
        stage: Stage,
        stream: Stream,
        on_event: Callable[[StageCall, Started | Progress | Ending], Awaitable[None]],
        replica: str | None = None,
    ) -> None:
        """
        Args:
            on_event: told of each event; the next is read once it is done.
            replica: the one that the call is meant for, if that is known before it has started.
        """
        self.stage = stage
        self.replica = replica
        self.started = self.is_ending = False
        self._stream = stream
        self._on_event = on_event
        self._migrating = False

    def migrate(self) -> None:
        """Take the call back, so that `run` raises `Migrated`.

        A denoise is taken back even before it has started: its denoiser may be gone. A call that is about to end, or a
        stage that ends before a stopping replica must be gone, is not.
        """
        reached = self.started or self.stage is Stage.DENOISE
        if self.stage in CAN_MIGRATE and reached and not self.is_ending and not self._migrating:
            self._migrating = True
            self._stream.cancel()

    async def run(self) -> StageResult:
        """Wait for the stage's end.

        When this is cancelled, it ends only after the stage has: what the stage commits while stopping is still written
        under the job's lease.

        Raises:
            Migrated: the call was taken back.
        """
        try:
            return await self._follow()
        except BaseException as error:
            self._stream.cancel()
            await self._stream.drain()
            if self._migrating and _was_taken_back(error):
                raise Migrated from error
            raise

    async def _follow(self) -> StageResult:
        async with aclosing(self._stream.events()) as events:
            async for event in events:
                if isinstance(event, Finished):
                    value = await self._stream.value()
                    if value is None and self.stage is not Stage.PUBLISH:
                        raise AssertionError(f"{self.stage} has finished without a value")
                    return StageResult(value, event)
                if isinstance(event, Started):
                    self.replica, self.started = event.replica, True
                elif isinstance(event, Ending):
                    self.is_ending = True
                await self._on_event(self, event)
        raise AssertionError(f"the stream of {self.stage} ended before it had finished")


def cause_of(error: BaseException) -> BaseException:
    """The original error of a stage, without Ray's wrapper, which shows the class's `code` instead of the error's."""
    cause: BaseException = error.cause if isinstance(error, RayTaskError) else error
    return cause


def _was_taken_back(error: BaseException) -> bool:
    """Whether a call ended the way a canceled call does: here, before it had a replica, or on the replica."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()  # the call was canceled, not this job run
    return isinstance(error, RayTaskError | RayActorError | TaskCancelledError)
