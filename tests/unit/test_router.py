"""Which denoiser a call goes to, by the router that Serve would make, and without replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from deployments.orchestration.router import ToItsDenoiser
from deployments.stages.messages import DenoiseRequest

DEPLOYMENT = DeploymentID("Denoiser", "kinoray")


class RequestFor(DenoiseRequest):
    """A denoise request of which only the denoiser matters."""

    def __init__(self, denoiser: str) -> None:
        object.__setattr__(self, "denoiser", denoiser)


@dataclass(frozen=True)
class Replica:
    """All that the router looks at."""

    replica_id: ReplicaID


def replicas(*names: str) -> list[Replica]:
    return [Replica(ReplicaID(name, DEPLOYMENT)) for name in names]


@pytest.fixture
def router() -> ToItsDenoiser:
    """Its clock stands still, so that it forgets nothing."""
    return ToItsDenoiser(DEPLOYMENT, DeploymentHandleSource.REPLICA, get_curr_time_s=lambda: 0.0)


def call(*arguments: object) -> PendingRequest:
    """To be called in an event loop."""
    return PendingRequest(list(arguments), {}, RequestMetadata(request_id="r", internal_request_id="i"))


async def chosen(router: ToItsDenoiser, candidates: Sequence[Replica], pending: PendingRequest | None) -> list[str]:
    """The replicas among which Serve may choose, and it may not fall back to others."""
    (group,) = await router.choose_replicas(list(candidates), pending)
    return [each.replica_id.unique_id for each in group]


def trusted(router: ToItsDenoiser, candidates: Sequence[Replica]) -> dict[str, int | None]:
    """What the router believes of how many calls each replica has, without having asked it."""
    return {each.replica_id.unique_id: router.replica_queue_len_cache.get(each.replica_id) for each in candidates}


def test_a_denoise_goes_only_to_its_own_denoiser_which_the_store_says_is_free(router: ToItsDenoiser) -> None:
    async def run() -> None:
        candidates = replicas("d1", "d2", "d3")
        assert await chosen(router, candidates, call("parameters", None, RequestFor("d2"))) == ["d2"]
        assert trusted(router, candidates) == {"d1": None, "d2": 0, "d3": None}

    asyncio.run(run())


def test_what_it_knew_of_an_earlier_call_counts_less_than_the_store(router: ToItsDenoiser) -> None:
    async def run() -> None:
        candidates = replicas("d1", "d2")
        router.replica_queue_len_cache.update(candidates[0].replica_id, 4)
        assert await chosen(router, candidates, call(RequestFor("d1"))) == ["d1"]
        assert trusted(router, candidates) == {"d1": 0, "d2": None}

    asyncio.run(run())


def test_a_call_that_came_back_backs_off_and_asks_the_denoiser(router: ToItsDenoiser) -> None:
    async def run() -> None:
        candidates = replicas("d1", "d2")
        pending = call(RequestFor("d1"))
        await chosen(router, candidates, pending)
        assert pending.routing_context.should_backoff
        router.replica_queue_len_cache.invalidate_key(candidates[0].replica_id)
        assert await chosen(router, candidates, pending) == ["d1"]
        assert trusted(router, candidates) == {"d1": None, "d2": None}

    asyncio.run(run())


def test_a_denoise_whose_denoiser_is_gone_goes_to_no_other(router: ToItsDenoiser) -> None:
    async def run() -> None:
        candidates = replicas("d1", "d2")
        pending = call(RequestFor("d3"))
        for _ in range(2):
            assert await chosen(router, candidates, pending) == []
        assert trusted(router, candidates) == {"d1": None, "d2": None}
        assert pending.routing_context.should_backoff, "else Serve would try again without a pause"
        assert await chosen(router, replicas("d3"), pending) == ["d3"]

    asyncio.run(run())


def test_any_other_call_may_go_to_any(router: ToItsDenoiser) -> None:
    async def run() -> None:
        candidates = replicas("d1", "d2")
        other = call("d1")
        assert await chosen(router, candidates, other) == ["d1", "d2"]
        assert await chosen(router, candidates, None) == ["d1", "d2"]
        assert trusted(router, candidates) == {"d1": None, "d2": None}
        assert not other.routing_context.should_backoff

    asyncio.run(run())
