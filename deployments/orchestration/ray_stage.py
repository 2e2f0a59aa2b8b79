"""The replicas of a stage through Ray Serve, as `deployments.orchestration.stage_call` knows them.

A call is a stream of references: the events are fetched, the value is not. Serve's own response would fetch every item,
so this uses the object references underneath.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.orchestration.stage_call import Reference, Stream
from deployments.stages.messages import CheckpointRef, Event, Request

# Draining a stream takes as long as a step, so it must not occupy the threads that write to the job store.
_DRAINS = ThreadPoolExecutor(64, thread_name_prefix="drain")


class RayStage:
    """The deployment of a stage."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(method_name="run", stream=True)

    def call(
        self, request: Request, *outputs: Reference | CheckpointRef, **named_outputs: Reference | CheckpointRef
    ) -> Stream:
        return RayStream(self._handle.remote(request, *outputs, **named_outputs))


class RayStream:
    """One call's stream, of a `DeploymentResponseGenerator`."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._references: Any = None

    async def events(self) -> AsyncGenerator[Event, None]:
        self._references = await self._response._to_object_ref_gen()
        async for reference in self._references:
            yield await reference

    async def value(self) -> Reference | None:
        # Not `anext`: that would fetch and read the value here, only to learn that it exists.
        value: Reference | None = await asyncio.to_thread(next, self._references, None)
        async for _ in self._references:
            raise AssertionError("a stage's value is the last item of its stream")
        return value

    def cancel(self) -> None:
        self._response.cancel()

    async def drain(self) -> None:
        """Wait for the stream's end, when the stage's thread has stopped; return early if cancelled again.

        Items still in the stream are skipped unread: a stage that had just finished has put its value there.
        """
        if self._references is None:
            return

        def pass_over() -> None:
            for _ in self._references:
                pass

        ended = asyncio.get_running_loop().run_in_executor(_DRAINS, pass_over)
        await asyncio.gather(ended, return_exceptions=True)
