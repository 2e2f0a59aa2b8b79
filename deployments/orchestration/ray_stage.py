"""The replicas of a stage through Ray Serve, as `deployments.orchestration.stage_call` knows them.

A call is a stream of references: the events are fetched, the value is not. Serve's own response would fetch every item,
so this uses the object references underneath.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.exceptions import ObjectRefStreamEndOfStreamError
from ray.serve.handle import DeploymentHandle

from deployments.orchestration.stage_call import Reference, Stream
from deployments.stages.messages import CheckpointRef, Event, Request, unpacked

# A stream may make its reader wait as long as a step takes, which must not occupy the threads that write to the store.
_WAITS = ThreadPoolExecutor(64, thread_name_prefix="stream")


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
        references = self._references = await self._response._to_object_ref_gen()
        ahead = _Ahead(references)
        while True:
            try:
                event = unpacked(await ahead.reference())
            except Exception:
                break
            ahead.take()
            yield event
        async for reference in references:  # an error of the stage, or its end
            yield unpacked(await reference)

    async def value(self) -> Reference | None:
        # Not `anext`: that would fetch and read the value here, only to learn that it exists.
        ahead = _Ahead(self._references)
        if ahead.is_there():
            value: Reference | None = ahead.take()
        else:
            value = await asyncio.get_running_loop().run_in_executor(_WAITS, next, self._references, None)
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

        ended = asyncio.get_running_loop().run_in_executor(_WAITS, pass_over)
        await asyncio.gather(ended, return_exceptions=True)


class _Ahead:
    """The next item of a Ray stream of references, before it is taken.

    Iterating over the stream would fetch every item twice: Ray fetches it to learn that it is there, and its reader to
    have it. Fetching is what a conductor does most.
    """

    def __init__(self, references: Any) -> None:
        self._stream = references.worker.core_worker
        self._key = references._generator_ref

    def reference(self) -> Any:
        """Its reference, of an item that may not be there yet."""
        return self._stream.peek_object_ref_stream(self._key)[0]

    def is_there(self) -> bool:
        there: bool = self._stream.peek_object_ref_stream(self._key)[1]
        return there

    def take(self) -> Reference | None:
        """Take it from the stream, in which it is; None if the stream has ended instead."""
        try:
            reference: Reference = self._stream.try_read_next_object_ref_stream(self._key)
        except ObjectRefStreamEndOfStreamError:
            return None
        return reference
