"""One job's run through its stages, with doubles for what a cluster would be: how it is migrated, canceled, forgiven,
preempted and continued, node by node."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from deployments import metrics
from deployments.orchestration.job_run import JobRun, plan_of
from deployments.orchestration.lease import LeaseLost
from deployments.orchestration.stage_call import Reference, StageCall, Stream
from deployments.stages.messages import (
    CheckpointRef,
    DecodeRequest,
    DenoiseRequest,
    Ending,
    Event,
    Finished,
    ImageRequest,
    Progress,
    PublishRequest,
    Started,
    Stopped,
    TextRequest,
)
from jobs.record import Job
from jobs.stored import Checkpoint, Checkpoints, Fingerprint, ResultMetadata
from pipelines.catalogue import get_card
from pipelines.errors import LatentsLost
from pipelines.graph import Graph, Node, published
from pipelines.stages import Stage
from storage.keys import input_key
from tests.unit.conftest import new_job

CARD = get_card("ltx-tiny")
PARAMETERS = CARD.default_parameters()
FINISHED = Finished(1.0, 10, ResultMetadata())
PATIENCE_S = 60

Script = list[Event | BaseException | Callable[[], None]]
"""What a stage answers: events in order, an error that ends the call, something to do. A call that has come to the end
of its script without `Finished` waits until it is canceled."""


class Enough(Exception):
    """The test has seen what it wanted."""


class Quiet:
    def observe(self, *_: object) -> None: ...

    def inc(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stage_seconds", "stage_output_bytes"):
        monkeypatch.setattr(metrics, name, Quiet)


def task_error(cause: Exception) -> RayTaskError:
    """What the caller of a replica gets, an error of two classes."""
    wrapped: RayTaskError = RayTaskError("run", "", cause).as_instanceof_cause()
    return wrapped


def died() -> ActorDiedError:
    return ActorDiedError()


@dataclass
class Call(Stream):
    """One call of a stage, by its script."""

    script: Script
    inputs: tuple[object, ...]
    named: dict[str, object]
    log: list[str]
    name: str
    canceled: asyncio.Event = field(default_factory=asyncio.Event)
    after_cancel: BaseException | None = None
    cancels: int = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        for item in self.script:
            await asyncio.sleep(0)
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Started | Progress | Ending | Finished):
                yield item
            else:
                item()
        await self.canceled.wait()
        raise self.after_cancel or task_error(Stopped())

    async def value(self) -> Reference | None:
        return None if self.name in ("publish", "nothing") else Reference(f"<{self.name}>")

    def cancel(self) -> None:
        self.canceled.set()
        self.cancels += 1

    async def drain(self) -> None:
        self.log.append(f"{self.name} drained")

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        self.after_cancel = error
        self.canceled.set()


@dataclass
class Stages:
    """All stages of a model. Each call takes the next script of its stage; without one it just finishes."""

    scripts: dict[Stage, list[Script]] = field(default_factory=dict)
    calls: list[tuple[Stage, Call]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    without_value: Stage | None = None

    def handles(self) -> Mapping[Stage, Any]:
        return {stage: _Handle(self, stage) for stage in Stage}

    def of(self, stage: Stage) -> list[Call]:
        return [call for made, call in self.calls if made is stage]

    def requests(self) -> list[DenoiseRequest]:
        return [each for call in self.of(Stage.DENOISE) for each in call.inputs if isinstance(each, DenoiseRequest)]


@dataclass
class _Handle:
    stages: Stages
    stage: Stage

    def call(self, *inputs: object, **named: object) -> Stream:
        scripts = self.stages.scripts.get(self.stage, [])
        plain: Script = [Started(f"{self.stage}-1"), FINISHED]
        script = scripts.pop(0) if scripts else plain
        name = next((each.node for each in inputs if isinstance(each, DenoiseRequest)), self.stage.value)
        name = "nothing" if self.stage is self.stages.without_value else name
        call = Call(script, inputs, named, self.stages.log, name)
        self.stages.calls.append((self.stage, call))
        self.stages.log.append(call.name)
        self.stages.called.set()
        return call


@dataclass
class Lease:
    """A lease that is valid until `lost`."""

    log: list[str]
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    lost: bool = False
    reports: list[tuple[Stage, int, int | None]] = field(default_factory=list)
    advances: list[tuple[Stage, int]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    token: str = "t1"

    async def estimate(self) -> Mapping[Stage, float]:
        return dict.fromkeys(Stage, 10.0)

    async def advance(self, stage: Stage, percent: int) -> None:
        if self.lost:
            raise LeaseLost
        self.advances.append((stage, percent))
        self.log.append(f"-> {stage}")

    def report(self, stage: Stage, percent: int, replica: str, step: int | None = None) -> None:  # noqa: ARG002
        self.reports.append((stage, percent, step))

    async def checkpoint(self, node: str) -> Checkpoint | None:
        return self.checkpoints.get(node)

    async def forget_checkpoint(self, node: str) -> None:
        self.forgotten.append(node)


@dataclass
class Pool:
    """Gives the denoisers d1, d2, ... in turn."""

    log: list[str]
    given: int = 0
    running: set[str] = field(default_factory=lambda: {"d1", "d2", "d3"})
    lost_ones: list[str | None] = field(default_factory=list)

    async def denoiser(self, model: str, token: str) -> str:  # noqa: ARG002
        self.given += 1
        return f"d{self.given}"

    def denoisers(self, model: str) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(sorted(self.running))

    def freed(self) -> None:
        self.log.append("freed")

    def lost(self, replica: str | None) -> None:
        self.lost_ones.append(replica)


@dataclass
class World:
    """A job and everything it meets."""

    scripts: dict[Stage, list[Script]] = field(default_factory=dict)
    job: Job = field(default_factory=lambda: a_job())
    graph: Graph | None = None

    def __post_init__(self) -> None:
        self.stages = Stages(self.scripts)
        self.lease = Lease(self.stages.log)
        self.pool = Pool(self.stages.log)
        self.plan = self.graph or plan_of(CARD, self.job)
        self.run = JobRun(self.job, lambda _: self.plan, self.stages.handles(), self.lease, self.pool)

    def finish(self, then: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Run the job to its end, beside something else."""

        async def both() -> None:
            running = asyncio.create_task(self.run.run())
            if then is not None:
                await then()
            await running

        asyncio.run(asyncio.wait_for(both(), PATIENCE_S))

    async def until_called(self, stage: Stage, times: int = 1) -> Call:
        """Wait until a stage has been called, and its call has come to the end of its script."""
        while len(self.stages.of(stage)) < times:
            self.stages.called.clear()
            await self.stages.called.wait()
        call = self.stages.of(stage)[-1]
        for _ in range(4 * len(call.script) + 8):
            await asyncio.sleep(0)
        return call


def a_job(**values: Any) -> Job:
    claimed = {"stage": Stage.TEXT_ENCODE, "lease_token": "t1", "model": CARD.id}
    return new_job(**{**claimed, "parameters": PARAMETERS.model_dump(mode="json"), **values})


def commit(world: World, node: str = "denoise", *, step: int = 3, final: bool = False, **parts: str) -> Checkpoint:
    """What a denoiser would have committed."""
    nodes = {each.name: each for each in world.plan}
    digest = world.plan.digest(nodes[node], world.job.model, world.job.prompt)
    fingerprint = Fingerprint(**{"input": digest, "revision": "r1", "state": "s1", **parts})
    metadata = ResultMetadata(device="cuda") if final else ResultMetadata()
    return Checkpoint(
        key=f"{node}@{step}", step=step, final=final, seconds=5.0, fingerprint=fingerprint, result_metadata=metadata
    )


def resumed(world: World, **checkpoints: Checkpoint) -> World:
    """The same job, claimed again with what was committed before."""
    job = replace(
        world.job, checkpoint=Checkpoints(nodes={name.replace("_", "."): each for name, each in checkpoints.items()})
    )
    return World(world.scripts, job, world.graph)


def test_a_job_runs_its_stages_in_order_and_leaves_its_denoiser() -> None:
    world = World()
    world.finish()
    order = ["text_encode", "-> denoise", "denoise", "-> decode", "freed", "decode", "-> publish", "publish"]
    assert world.stages.log == order, "the first stage was recorded by the claim"
    denoise, decode = world.stages.of(Stage.DENOISE)[0], world.stages.of(Stage.DECODE)[0]
    assert denoise.named == {"text": "<text_encode>"}
    assert decode.inputs[1:] == ("<denoise>",)
    assert world.stages.of(Stage.PUBLISH)[0].inputs == (PublishRequest(world.job), "<decode>")
    assert world.stages.of(Stage.TEXT_ENCODE)[0].inputs == (TextRequest(world.job.prompt, PARAMETERS),)
    (request,) = world.stages.requests()
    assert (request.token, request.parameters, request.needed) == ("t1", PARAMETERS, frozenset({"denoise"}))
    assert request.input == world.plan.digest(world.plan.nodes[1], CARD.id, world.job.prompt)
    assert world.run.call is None
    assert set(world.run.stage_seconds) == {"text_encode", "denoise", "decode", "publish"}


def test_a_job_that_this_version_cannot_read_fails_alone() -> None:
    def plan(_: Job) -> Graph:
        raise ValueError("no such family")

    world = World()
    run = JobRun(world.job, plan, world.stages.handles(), world.lease, world.pool)  # which raises nothing
    with pytest.raises(ValueError, match="no such family"):
        asyncio.run(run.run())


def test_progress_is_of_the_whole_job_and_steps_are_of_the_denoise() -> None:
    steps: Script = [Started("d1"), Progress(1, 4), Progress(2, 4), FINISHED]
    decode: Script = [Started("v1"), Progress(4, 8), FINISHED]
    world = World({Stage.DENOISE: [steps], Stage.DECODE: [decode]})
    world.finish()
    percents = [percent for _, percent, _ in world.lease.reports]
    assert percents == sorted(percents)
    assert world.lease.reports[1:4] == [(Stage.DENOISE, 25, None), (Stage.DENOISE, 31, 1), (Stage.DENOISE, 37, 2)]
    assert (Stage.DECODE, 62, None) in world.lease.reports
    assert world.lease.advances == [(Stage.DENOISE, 25), (Stage.DECODE, 50), (Stage.PUBLISH, 75)]


def test_a_job_leaves_its_denoiser_as_soon_as_the_denoise_is_about_to_end() -> None:
    world = World({Stage.DENOISE: [[Started("d1"), Ending(), lambda: world.stages.log.append("ends"), FINISHED]]})
    world.finish()
    log = world.stages.log
    assert log.index("-> decode") < log.index("freed") < log.index("ends")
    assert log.count("freed") == 1


def test_a_migrated_denoise_continues_elsewhere_from_its_commit_and_both_parts_count() -> None:
    second: Script = [Started("d2"), Finished(2.0, 10, ResultMetadata(resumed_at_step=3))]
    world = World({Stage.DENOISE: [[Started("d1"), Progress(3, 9)], second]})

    async def migrate() -> None:
        await world.until_called(Stage.DENOISE)
        world.lease.checkpoints["denoise"] = commit(world)
        world.run.migrate()

    world.finish(migrate)
    first, again = world.stages.requests()
    assert (first.denoiser, first.checkpoint) == ("d1", None)
    assert (again.denoiser, again.checkpoint) == ("d2", commit(world))
    drained = world.stages.log.index("denoise drained")
    assert world.stages.log[drained + 1] == "-> denoise", "the store gives its denoiser to another job meanwhile"
    assert world.run.stage_seconds["denoise"] == 7.0
    assert world.run.result_metadata.resumed_at_step == 3


def test_a_call_is_taken_back_once() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def migrate() -> None:
        call = await world.until_called(Stage.DENOISE)
        for _ in range(3):  # every look at the replicas finds that it is stopping
            world.run.migrate()
        assert call.cancels == 1

    world.finish(migrate)


def test_a_denoise_that_had_ended_before_it_was_migrated_is_not_run_again() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def migrate() -> None:
        await world.until_called(Stage.DENOISE)
        world.lease.checkpoints["denoise"] = commit(world, final=True)
        world.run.migrate()

    world.finish(migrate)
    assert len(world.stages.requests()) == 1
    assert world.stages.of(Stage.DECODE)[0].inputs[1:] == (CheckpointRef("denoise@3"),)
    assert world.run.result_metadata.device == "cuda"
    assert world.stages.log.count("freed") == 1
    assert not world.lease.forgotten


@pytest.mark.parametrize(
    ("stage", "script"),
    [
        (Stage.TEXT_ENCODE, [Started("t1")]),
        (Stage.DENOISE, [Started("d1"), Ending()]),
        (Stage.DECODE, [Started("v1")]),
        (Stage.PUBLISH, []),
    ],
    ids=["an encode", "a denoise about to end", "a decode", "a publish that has no replica yet"],
)
def test_what_ends_in_time_anyway_is_not_migrated(stage: Stage, script: Script) -> None:
    world = World({stage: [script]})

    async def migrate() -> None:
        call = await world.until_called(stage)
        world.run.migrate()
        assert not call.canceled.is_set()
        call.fail(Enough())

    with pytest.raises(Enough):
        world.finish(migrate)


def test_a_publish_that_waits_for_the_store_is_migrated_once_it_has_begun() -> None:
    world = World({Stage.PUBLISH: [[Started("p1")], [Started("p2"), FINISHED]]})

    async def migrate() -> None:
        await world.until_called(Stage.PUBLISH)
        world.run.migrate()

    world.finish(migrate)
    assert world.stages.log[-3:] == ["publish", "publish drained", "publish"]


def test_preemption_takes_a_denoiser_and_nothing_else() -> None:
    world = World({Stage.TEXT_ENCODE: [[Started("t1")]], Stage.DENOISE: [[Started("d1")]]})

    async def preempt() -> None:
        encode = await world.until_called(Stage.TEXT_ENCODE)
        world.run.preempt()
        assert not encode.canceled.is_set(), "an encoder is no denoiser"
        encode.fail(Enough())

    with pytest.raises(Enough):
        world.finish(preempt)

    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def preempt_denoise() -> None:
        await world.until_called(Stage.DENOISE)
        world.run.preempt()

    world.finish(preempt_denoise)
    assert [each.denoiser for each in world.stages.requests()] == ["d1", "d2"]


def test_preemption_spares_a_video_that_is_being_published() -> None:
    world = World({Stage.PUBLISH: [[Started("p1")]]})

    async def preempt() -> None:
        call = await world.until_called(Stage.PUBLISH)
        world.run.preempt()
        assert not call.canceled.is_set()
        world.run.migrate()

    world.finish(preempt)


def test_a_canceled_job_run_ends_only_after_its_stage_has() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def cancel() -> None:
        running = asyncio.create_task(world.run.run())
        call = await world.until_called(Stage.DENOISE)
        running.cancel()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.cancelled()
        assert call.canceled.is_set()
        assert world.stages.log[-1] == "denoise drained"

    asyncio.run(cancel())
    assert len(world.stages.requests()) == 1, "it is not taken for a migration"


def test_a_canceled_job_is_not_continued_by_a_migration_that_comes_at_the_same_time() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def both() -> None:
        running = asyncio.create_task(world.run.run())
        call = await world.until_called(Stage.DENOISE)
        call.after_cancel = asyncio.CancelledError()
        world.run.migrate()
        running.cancel()
        await asyncio.wait([running], timeout=PATIENCE_S)
        assert running.cancelled()

    asyncio.run(both())
    assert len(world.stages.requests()) == 1


def test_a_lost_lease_ends_the_job_run() -> None:
    world = World()
    world.lease.lost = True
    with pytest.raises(LeaseLost):
        world.finish()
    assert world.stages.log == ["text_encode"]


@pytest.mark.parametrize("error", [died(), task_error(Stopped())], ids=["died before it began", "stopped by itself"])
def test_what_is_no_fault_of_the_job_is_forgiven_once(error: Exception) -> None:
    world = World({Stage.DENOISE: [[error]]})
    world.finish()
    assert [each.denoiser for each in world.stages.requests()] == ["d1", "d2"]
    world = World({Stage.DENOISE: [[error], [error]]})
    with pytest.raises(type(error)):
        world.finish()
    assert len(world.stages.requests()) == 2


def test_each_reason_is_forgiven_for_itself() -> None:
    world = World({Stage.DENOISE: [[died()], [task_error(Stopped())]]})
    world.finish()
    assert [each.denoiser for each in world.stages.requests()] == ["d1", "d2", "d3"]
    assert world.pool.lost_ones == ["d1"], "and gets no job for a while"


def test_a_denoiser_that_dies_at_work_costs_an_attempt() -> None:
    world = World({Stage.DENOISE: [[Started("d1"), died()]]})
    with pytest.raises(ActorDiedError):
        world.finish()
    assert world.pool.lost_ones == ["d1"]


def test_a_denoiser_that_dies_while_its_job_is_migrated_is_known_to_be_lost() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def preempt() -> None:
        call = await world.until_called(Stage.DENOISE)
        call.after_cancel = died()
        world.run.preempt()

    world.finish(preempt)
    assert world.pool.lost_ones == ["d1"]


def test_an_encoder_that_dies_costs_an_attempt() -> None:
    world = World({Stage.TEXT_ENCODE: [[died()]]})
    with pytest.raises(ActorDiedError):
        world.finish()


def test_a_job_whose_assigned_denoiser_is_gone_waits_in_vain_and_is_migrated() -> None:
    world = World({Stage.DENOISE: [[]]})

    async def vanish() -> None:
        call = await world.until_called(Stage.DENOISE)
        call.after_cancel = asyncio.CancelledError()  # so ends a call that had no replica yet
        assert not world.run.waits_in_vain()
        world.pool.running.discard("d1")
        assert world.run.waits_in_vain()
        world.run.migrate()

    world.finish(vanish)
    assert [each.denoiser for each in world.stages.requests()] == ["d1", "d2"]
    assert not world.run.waits_in_vain()


def test_a_denoise_that_has_begun_does_not_wait_in_vain() -> None:
    world = World({Stage.DENOISE: [[Started("d1")]]})

    async def vanish() -> None:
        await world.until_called(Stage.DENOISE)
        world.pool.running.discard("d1")
        assert not world.run.waits_in_vain()
        world.run.migrate()

    world.finish(vanish)


def test_a_retry_decodes_committed_latents_and_denoises_nothing() -> None:
    before = World()
    world = resumed(before, denoise=commit(before, final=True))
    world.finish()
    order = ["-> decode", "freed", "decode", "-> publish", "publish"]
    assert world.stages.log == order, "it leaves its place before a denoiser to another job"
    assert world.run.stage_seconds["denoise"] == 5.0
    assert world.run.partial_stages == {"text_encode"}
    assert world.run.result_metadata.device == "cuda"


def test_a_retry_continues_a_denoise_from_its_state() -> None:
    before = World()
    world = resumed(before, denoise=commit(before))
    world.finish()
    assert world.stages.requests()[0].checkpoint == commit(before)
    assert world.stages.log[0] == "text_encode"


@pytest.mark.parametrize("final", [True, False])
def test_a_checkpoint_of_another_input_is_made_again(final: bool, caplog: pytest.LogCaptureFixture) -> None:
    before = World()
    world = resumed(before, denoise=commit(before, final=final, input="something else"))
    world.finish()
    assert world.stages.requests()[0].checkpoint is None
    assert "another input" in caplog.text
    assert world.lease.forgotten == ["denoise"], "so that no claim takes the job for denoised"


def test_finished_latents_of_another_input_are_not_taken_over_by_a_migration_either() -> None:
    """The assigned denoiser was gone before it had committed, so that the store still has the old checkpoint."""
    before = World({Stage.DENOISE: [[], [Started("d2"), FINISHED]]})
    old = commit(before, final=True, input="something else")
    world = resumed(before, denoise=old)
    world.lease.checkpoints["denoise"] = old

    async def vanish() -> None:
        call = await world.until_called(Stage.DENOISE)
        call.after_cancel = asyncio.CancelledError()
        world.run.migrate()

    world.finish(vanish)
    assert [each.checkpoint for each in world.stages.requests()] == [None, None]
    assert world.stages.of(Stage.DECODE)[0].inputs[1:] == ("<denoise>",)


def test_a_denoise_that_began_anew_does_not_count_what_it_did_not_continue() -> None:
    before = World({Stage.DENOISE: [[Started("d1"), FINISHED]]})
    world = resumed(before, denoise=commit(before))
    world.finish()
    assert world.run.stage_seconds["denoise"] == 1.0


def test_committed_latents_that_cannot_be_read_are_made_again() -> None:
    before = World({Stage.DECODE: [[Started("v1"), task_error(LatentsLost("gone"))]]})
    continued = ResultMetadata(resumed_at_step=2)
    world = resumed(before, denoise=commit(before, final=True).model_copy(update={"result_metadata": continued}))
    world.finish()
    assert world.run.result_metadata.resumed_at_step is None
    assert world.lease.forgotten == ["denoise"]
    assert world.stages.requests()[0].checkpoint is None
    order = ["decode", "decode drained", "-> text_encode", "text_encode", "-> denoise", "denoise", "-> decode", "freed"]
    assert world.stages.log[2:10] == order
    assert world.stages.of(Stage.DECODE)[1].inputs[1:] == ("<denoise>",)


def test_latents_that_were_never_committed_cannot_be_lost() -> None:
    world = World({Stage.DECODE: [[Started("v1"), task_error(LatentsLost("gone"))]]})
    with pytest.raises(LatentsLost):
        world.finish()


def test_the_jobs_own_image_is_encoded_from_the_artifact_store() -> None:
    world = World(job=a_job(has_image=True))
    world.finish()
    assert world.stages.of(Stage.IMAGE_ENCODE)[0].inputs == (ImageRequest(input_key(world.job), PARAMETERS),)
    assert world.stages.of(Stage.DENOISE)[0].named == {"text": "<text_encode>", "image": "<image_encode>"}
    assert world.stages.log[1] == "-> image_encode"


def test_the_first_stage_does_not_wait_for_the_store() -> None:
    world = World()
    answers = asyncio.Event()

    async def late() -> Mapping[Stage, float]:
        world.stages.log.append("asked")
        await answers.wait()
        return dict.fromkeys(Stage, 10.0)

    world.lease.estimate = late  # type: ignore[method-assign]

    async def answer() -> None:
        await world.until_called(Stage.TEXT_ENCODE)
        answers.set()

    world.finish(answer)
    assert set(world.stages.log[:2]) == {"asked", "text_encode"}
    assert world.lease.reports[0][:2] == (Stage.TEXT_ENCODE, 1)


def test_a_stage_that_says_nothing_is_a_fault() -> None:
    world = World({Stage.DECODE: [[Started("v1"), FINISHED]]})
    world.stages.without_value = Stage.DECODE
    with pytest.raises(AssertionError, match="decode has finished without a value"):
        world.finish()


def test_a_call_is_collected_as_soon_as_it_has_ended() -> None:
    """It holds Ray's stream, and so what is left in it."""
    world = World()
    gone: list[weakref.ref[StageCall]] = []
    enter = world.lease.advance

    async def look(stage: Stage, percent: int) -> None:
        if world.run.call is not None:
            gone.append(weakref.ref(world.run.call))
        await enter(stage, percent)

    world.lease.advance = look  # type: ignore[method-assign]
    world.stages.scripts[Stage.DENOISE] = [[Started("d1"), Ending(), FINISHED]]
    gc.disable()
    try:
        world.finish()
        assert len(gone) == 1
        assert gone[0]() is None
    finally:
        gc.enable()


# Two passes: the second denoises from the result of the first, at another size.

LARGE = PARAMETERS.model_copy(update={"width": 2 * PARAMETERS.width})


def two_passes() -> Graph:
    return published(
        Node("text_encode", Stage.TEXT_ENCODE, PARAMETERS),
        Node("denoise", Stage.DENOISE, PARAMETERS, text="text_encode"),
        Node("denoise.2", Stage.DENOISE, LARGE, text="text_encode", latents=("denoise",)),
        Node("decode", Stage.DECODE, LARGE, latents=("denoise.2",)),
    )


def test_the_second_pass_takes_the_latents_of_the_first_at_its_own_size() -> None:
    world = World(graph=two_passes())
    world.finish()
    first, second = world.stages.of(Stage.DENOISE)
    assert first.named == {"text": "<text_encode>"}
    assert second.named == {"text": "<text_encode>", "latents": "<denoise>"}
    assert [each.parameters for each in world.stages.requests()] == [PARAMETERS, LARGE]
    assert all(each.needed == {"denoise.2"} for each in world.stages.requests())


def test_a_pass_that_is_about_to_end_keeps_its_denoiser_for_another_pass() -> None:
    """Else the store would give the job a second denoiser while it cannot use it."""
    script: Script = [Started("d1"), Ending(), lambda: world.stages.log.append("ends"), FINISHED]
    world = World({Stage.DENOISE: [script, [Started("d2"), Ending(), FINISHED]]}, graph=two_passes())
    world.finish()
    order = ["-> denoise", "denoise", "ends", "-> denoise", "freed", "denoise.2", "-> decode", "freed", "decode"]
    assert world.stages.log[1:10] == order


def test_a_decode_of_one_size_makes_the_files_of_the_finished_video() -> None:
    graph = two_passes()
    *nodes, publish = graph.nodes
    world = World(graph=Graph((*nodes, replace(publish, parameters=PARAMETERS))))
    world.finish()
    (request,) = [each for each in world.stages.of(Stage.DECODE)[0].inputs if isinstance(each, DecodeRequest)]
    assert (request.parameters, request.video) == (LARGE, PARAMETERS)


def test_a_second_pass_whose_first_latents_are_lost_begins_with_the_first() -> None:
    script: Script = [Started("d1"), task_error(LatentsLost("gone"))]
    before = World({Stage.DENOISE: [script]}, graph=two_passes())
    world = resumed(before, denoise=commit(before, final=True))
    world.finish()
    assert [each.node for each in world.stages.requests()] == ["denoise.2", "denoise", "denoise.2"]
    assert world.stages.log.count("freed") == 3


# A graph with a loop: two segments, the second from the last frame of the first.


def loop() -> Graph:
    return published(
        Node("text_encode", Stage.TEXT_ENCODE, PARAMETERS),
        Node("denoise.1", Stage.DENOISE, PARAMETERS, text="text_encode"),
        Node("decode.1", Stage.DECODE, PARAMETERS, latents=("denoise.1",), last_frame=True),
        Node("image_encode.2", Stage.IMAGE_ENCODE, PARAMETERS, frame="decode.1"),
        Node("denoise.2", Stage.DENOISE, PARAMETERS, text="text_encode", image="image_encode.2"),
        Node("decode", Stage.DECODE, PARAMETERS, latents=("denoise.1", "denoise.2")),
    )


def test_a_loop_passes_frames_and_latents_on_and_asks_for_a_denoiser_each_time() -> None:
    world = World(graph=loop())
    world.finish()
    still, video = (call.inputs for call in world.stages.of(Stage.DECODE))
    assert isinstance(still[0], DecodeRequest)
    assert still[0].last_frame
    assert video[1:] == ("<denoise.1>", "<denoise.2>")
    assert world.stages.of(Stage.IMAGE_ENCODE)[0].inputs == (ImageRequest(None, PARAMETERS), "<decode>")
    assert world.stages.of(Stage.DENOISE)[1].named == {"text": "<text_encode>", "image": "<image_encode>"}
    assert [(each.node, each.denoiser) for each in world.stages.requests()] == [
        ("denoise.1", "d1"),
        ("denoise.2", "d2"),
    ]
    assert all(each.needed == {"denoise.1", "denoise.2"} for each in world.stages.requests())
    assert world.stages.log.count("freed") == 2
    percents = [percent for _, percent in world.lease.advances]
    assert percents == sorted(percents)
    assert world.run.stage_seconds["denoise"] == 2.0


def test_a_retry_begins_at_the_segment_that_was_not_committed() -> None:
    before = World(graph=loop())
    first, second = commit(before, "denoise.1", final=True), commit(before, "denoise.2")
    world = resumed(before, denoise_1=first, denoise_2=second)
    world.finish()
    assert [(each.node, each.checkpoint) for each in world.stages.requests()] == [("denoise.2", second)]
    assert world.stages.of(Stage.DECODE)[0].inputs[1:] == (CheckpointRef("denoise.1@3"),)
    assert world.stages.of(Stage.DECODE)[1].inputs[1:] == (CheckpointRef("denoise.1@3"), "<denoise.2>")


def test_a_lost_first_segment_is_made_again_and_the_second_is_not() -> None:
    before = World({Stage.DECODE: [[Started("v1"), task_error(LatentsLost("gone"))]]}, graph=loop())
    first, second = commit(before, "denoise.1", final=True), commit(before, "denoise.2", final=True)
    world = resumed(before, denoise_1=first, denoise_2=second)
    world.finish()
    assert world.lease.forgotten == ["denoise.1", "denoise.2"], "which of the two was lost is not known"
    assert [each.node for each in world.stages.requests()] == ["denoise.1", "denoise.2"]


def test_references_are_dropped_as_soon_as_no_node_needs_them() -> None:
    held: list[set[str]] = []
    world = World(graph=loop())

    def look() -> Iterator[Script]:
        for _ in range(2):
            yield [Started("v1"), lambda: held.append(set(world.run._made)), FINISHED]

    world.stages.scripts[Stage.DECODE] = list(look())
    world.finish()
    assert held == [{"text_encode", "denoise.1"}, {"denoise.1", "denoise.2"}]
    assert set(world.run._made) == {"publish"}
