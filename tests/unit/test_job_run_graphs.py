"""A job's run through a graph of several passes or segments: what each node takes, keeps and gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from deployments.stages.messages import (
    CheckpointRef,
    DecodeRequest,
    Ending,
    ImageRequest,
    Started,
)
from pipelines.errors import LatentsLost
from pipelines.graph import Graph, Node, published
from pipelines.stages import Stage
from tests.unit.job_world import FINISHED, PARAMETERS, Script, World, commit, resumed, task_error

pytestmark = pytest.mark.usefixtures("no_metrics")


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
