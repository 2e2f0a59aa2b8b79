"""A call's stream of references: the events are fetched, the value never is. Without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from ray.exceptions import ObjectRefStreamEndOfStreamError

from deployments.orchestration.ray_stage import RayStage, RayStream
from deployments.stages.messages import Event, Finished, Started, TextRequest, packed
from jobs.stored import ResultMetadata
from pipelines.catalogue import get_card

PATIENCE_S = 60
STARTED, FINISHED = Started("r1"), Finished(1.0, 10, ResultMetadata())


class Reference:
    """An object reference: to await it is to fetch the object."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.fetched = 0

    def __await__(self) -> Generator[Any, None, object]:
        self.fetched += 1
        if isinstance(self.value, BaseException):
            raise self.value
        yield from asyncio.sleep(0).__await__()
        return self.value


class References:
    """What `_to_object_ref_gen` gives: references, to be looked at ahead, and iterated with and without an event loop.

    With `ends`, what is no event is not there before it.
    """

    def __init__(self, *values: object, ends: threading.Event | None = None) -> None:
        self.all = [Reference(packed(value) if isinstance(value, Event) else value) for value in values]
        self._place = 0
        self._ends = ends
        self.threads: list[str] = []
        self.worker = self.core_worker = self
        self._generator_ref = object()

    def peek_object_ref_stream(self, key: object) -> tuple[Reference, bool]:
        assert key is self._generator_ref
        if self._place == len(self.all):
            return Reference(ObjectRefStreamEndOfStreamError()), self._ends is None
        reference = self.all[self._place]
        return reference, self._ends is None or isinstance(reference.value, bytes)

    def try_read_next_object_ref_stream(self, key: object) -> Reference:
        assert key is self._generator_ref
        if self._place == len(self.all):
            raise ObjectRefStreamEndOfStreamError
        self._place += 1
        return self.all[self._place - 1]

    def __aiter__(self) -> AsyncIterator[Reference]:
        return self

    async def __anext__(self) -> Reference:
        try:
            reference = self.try_read_next_object_ref_stream(self._generator_ref)
        except ObjectRefStreamEndOfStreamError:
            raise StopAsyncIteration from None
        reference.fetched += 1  # so does Ray, to learn that the object is there
        return reference

    def __iter__(self) -> Iterator[Reference]:
        return self

    def __next__(self) -> Reference:
        self.threads.append(threading.current_thread().name)
        ended = self._place == len(self.all)
        if ended or not isinstance(self.all[self._place].value, Event):
            assert self._ends is None or self._ends.wait(PATIENCE_S)
        if ended:
            raise StopIteration
        return self.try_read_next_object_ref_stream(self._generator_ref)


class Response:
    """A `DeploymentResponseGenerator`."""

    def __init__(self, references: References) -> None:
        self.references = references
        self.canceled = False

    async def _to_object_ref_gen(self) -> References:
        return self.references

    def cancel(self) -> None:
        self.canceled = True


async def events_of(stream: RayStream) -> list[Event]:
    """All events; like a stage call, it asks for the value once the last has come."""
    seen: list[Event] = []
    async for event in stream.events():
        seen.append(event)
        if event == FINISHED:
            break
    return seen


def test_the_events_are_read_and_the_value_is_passed_on_unread() -> None:
    references = References(STARTED, FINISHED, "gigabytes")

    async def run() -> None:
        stream = RayStream(Response(references))
        assert await events_of(stream) == [STARTED, FINISHED]
        assert await stream.value() is references.all[2]  # type: ignore[comparison-overlap]

    asyncio.run(run())
    assert [each.fetched for each in references.all] == [1, 1, 0], "each event is fetched once"


def test_a_value_that_is_on_its_way_is_waited_for_beside_the_job_store() -> None:
    arrives = threading.Event()
    references = References(STARTED, FINISHED, "gigabytes", ends=arrives)

    async def run() -> None:
        stream = RayStream(Response(references))
        await events_of(stream)
        waiting = asyncio.create_task(stream.value())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        arrives.set()
        assert await asyncio.wait_for(waiting, PATIENCE_S) is references.all[2]  # type: ignore[comparison-overlap]

    asyncio.run(run())
    assert [name.partition("_")[0] for name in references.threads] == ["stream"], "not one of asyncio's own threads"


def test_a_stage_without_a_value_has_none_and_nothing_may_follow_a_value() -> None:
    async def run(*values: object) -> object:
        stream = RayStream(Response(References(*values)))
        await events_of(stream)
        return await stream.value()

    assert asyncio.run(run(FINISHED)) is None
    with pytest.raises(AssertionError, match="the last item"):
        asyncio.run(run(FINISHED, "value", "more"))


def test_an_error_of_the_stage_is_raised_where_it_came() -> None:
    async def run() -> list[Event]:
        return await events_of(RayStream(Response(References(STARTED, ValueError("at the second")))))

    with pytest.raises(ValueError, match="at the second"):
        asyncio.run(run())


def test_draining_reads_nothing_and_ends_with_the_stage() -> None:
    stage_ends = threading.Event()
    references = References(STARTED, FINISHED, "gigabytes", ends=stage_ends)

    async def run() -> None:
        response = Response(references)
        stream = RayStream(response)
        await stream.drain()  # before it has begun there is nothing to wait for
        async for _ in stream.events():
            break
        stream.cancel()
        assert response.canceled
        draining = asyncio.create_task(stream.drain())
        _, waiting = await asyncio.wait([draining], timeout=0.05)
        assert waiting, "the stage has not ended"
        stage_ends.set()
        await asyncio.wait_for(draining, PATIENCE_S)

    asyncio.run(run())
    assert [each.fetched for each in references.all] == [1, 0, 0]
    assert {name.partition("_")[0] for name in references.threads} == {"stream"}, "not one of asyncio's own"


def test_draining_that_is_itself_canceled_returns_at_once() -> None:
    stage_ends = threading.Event()

    async def run() -> None:
        stream = RayStream(Response(References(STARTED, ends=stage_ends)))
        async for _ in stream.events():
            break
        draining = asyncio.create_task(stream.drain())
        await asyncio.sleep(0)
        draining.cancel()
        await asyncio.wait([draining], timeout=PATIENCE_S)
        assert draining.cancelled()
        stage_ends.set()

    asyncio.run(run())


def test_a_stage_is_called_by_its_method_run_as_a_stream() -> None:
    calls: list[tuple[object, ...]] = []

    class Handle:
        def options(self, **options: object) -> Handle:
            calls.append(tuple(sorted(options.items())))
            return self

        def remote(self, *inputs: object, **named: object) -> Response:
            calls.append((inputs, named))
            return Response(References())

    request = TextRequest("p", get_card("ltx-tiny").default_parameters())
    RayStage(Handle()).call(request, latents=request)  # type: ignore[arg-type]
    assert calls == [(("method_name", "run"), ("stream", True)), ((request,), {"latents": request})]
