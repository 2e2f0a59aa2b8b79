"""One job's run through its stages: how it is migrated, canceled, forgiven, preempted and continued."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping

import pytest
from ray.exceptions import ActorDiedError

from deployments.orchestration.job_run import JobRun
from deployments.orchestration.lease import LeaseLost
from deployments.orchestration.stage_call import StageCall
from deployments.stages.messages import (
    CheckpointRef,
    DenoiseRequest,
    Ending,
    Finished,
    ImageRequest,
    Progress,
    PublishRequest,
    Started,
    Stopped,
    TextRequest,
)
from jobs.record import Job
from jobs.stored import ResultMetadata
from pipelines.errors import LatentsLost, ReplicaUnavailable
from pipelines.graph import Graph
from pipelines.stages import Stage
from storage.keys import input_key
from tests.unit.job_world import (
    CARD,
    FINISHED,
    PARAMETERS,
    PATIENCE_S,
    Enough,
    Script,
    World,
    a_job,
    commit,
    died,
    resumed,
    task_error,
)

pytestmark = pytest.mark.usefixtures("no_metrics")


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


def test_a_job_says_which_weights_each_of_its_stages_had() -> None:
    world = World()
    for stage, component in ((Stage.TEXT_ENCODE, "text_encoder"), (Stage.DENOISE, "transformer")):
        metadata = ResultMetadata(revisions={component: f"of {component}"})
        world.scripts[stage] = [[Started("r"), Finished(1.0, 10, metadata)]]
    world.finish()
    denoise = world.stages.of(Stage.DENOISE)[0].inputs[0]
    assert isinstance(denoise, DenoiseRequest)
    assert denoise.revisions == {"text_encoder": "of text_encoder"}
    assert world.run.result_metadata.model_revision == "text_encoder=of text_encoder,transformer=of transformer"


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


@pytest.mark.parametrize("stage", [Stage.DECODE, Stage.PUBLISH])
def test_a_job_counts_as_unpublished_once_it_needs_no_denoiser(stage: Stage) -> None:
    world = World({stage: [[Started("r1")]]})

    async def look() -> None:
        call = await world.until_called(stage)
        assert world.run.unpublished_bytes == FINISHED.nbytes
        call.fail(Enough())

    assert world.run.unpublished_bytes is None
    with pytest.raises(Enough):
        world.finish(look)


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


@pytest.mark.parametrize(
    "error",
    [died(), task_error(Stopped()), task_error(ReplicaUnavailable("no such file"))],
    ids=["died before it began", "stopped by itself", "has no weights"],
)
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


def test_a_denoiser_without_weights_gets_no_job_for_a_while() -> None:
    world = World({Stage.DENOISE: [[Started("d1"), task_error(ReplicaUnavailable("no such file"))]]})
    world.finish()
    assert [each.denoiser for each in world.stages.requests()] == ["d1", "d2"]
    assert world.pool.lost_ones == ["d1"]


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
