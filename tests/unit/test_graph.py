"""Stage graphs as data: what may follow what, what is left to run, and what each node costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines.card import Parameters
from pipelines.catalogue import get_card
from pipelines.graph import Graph, Node, one_pass, published
from pipelines.simulated.card import SimulatedParameters
from pipelines.stages import Stage

LTX = get_card("ltx-tiny")
SMALL = LTX.default_parameters()
LARGE = SMALL.model_copy(update={"width": 2 * SMALL.width, "height": 2 * SMALL.height, "num_inference_steps": 2})


def two_passes(first: Parameters = SMALL, second: Parameters = LARGE) -> Graph:
    """Denoise at a small size, then from the result at a larger one."""
    return published(
        Node("text_encode", Stage.TEXT_ENCODE, first),
        Node("denoise", Stage.DENOISE, first, text="text_encode"),
        Node("denoise.2", Stage.DENOISE, second, text="text_encode", latents=("denoise",)),
        Node("decode", Stage.DECODE, second, latents=("denoise.2",)),
    )


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [node.name for node in nodes]


@pytest.mark.parametrize(
    ("model", "has_image", "expected"),
    [
        ("ltx-tiny", False, ["text_encode", "denoise", "decode", "publish"]),
        ("ltx-tiny", True, ["text_encode", "image_encode", "denoise", "decode", "publish"]),
        ("svd-tiny", True, ["image_encode", "denoise", "decode", "publish"]),
        ("simulated", True, ["text_encode", "denoise", "decode", "publish"]),
    ],
)
def test_a_job_of_one_pass_runs_what_its_family_and_its_request_have(
    model: str, has_image: bool, expected: list[str]
) -> None:
    card = get_card(model)
    assert names(one_pass(card, card.default_parameters(), has_image).nodes) == expected


@pytest.mark.parametrize(
    ("there", "left"),
    [
        ((), ["text_encode", "denoise", "denoise.2", "decode", "publish"]),
        (("text_encode",), ["denoise", "denoise.2", "decode", "publish"]),
        (("denoise",), ["text_encode", "denoise.2", "decode", "publish"]),
        (("denoise.2",), ["decode", "publish"]),
        (("denoise", "denoise.2"), ["decode", "publish"]),
        (("decode",), ["publish"]),
        (("publish",), []),
    ],
)
def test_only_what_a_later_node_needs_is_left(there: tuple[str, ...], left: list[str]) -> None:
    assert names(two_passes().remaining(there)) == left


def test_the_latents_that_are_needed_are_those_of_what_follows_the_last_denoise() -> None:
    assert two_passes().needed_latents == {"denoise.2"}
    nodes = two_passes().nodes
    both = Graph((*nodes[:3], replace(nodes[3], latents=("denoise", "denoise.2")), nodes[4]))
    assert both.needed_latents == {"denoise", "denoise.2"}


def test_cost_counts_the_work_inside() -> None:
    """Two passes decode at the larger size, whatever size the client asked for."""
    plain = one_pass(LTX, SMALL, False)
    work, once = two_passes().work(), plain.work()
    assert work[Stage.DECODE] == pytest.approx(4 * once[Stage.DECODE])
    assert work[Stage.DENOISE] == pytest.approx(once[Stage.DENOISE] + LARGE.denoising_work)
    assert work[Stage.PUBLISH] == 1
    assert Stage.IMAGE_ENCODE not in work


def test_the_seconds_of_a_stage_are_shared_by_its_nodes_by_their_work() -> None:
    graph = two_passes()
    seconds = graph.seconds({Stage.TEXT_ENCODE: 1, Stage.DENOISE: 10, Stage.DECODE: 3, Stage.PUBLISH: 0})
    assert seconds["denoise"] + seconds["denoise.2"] == pytest.approx(10)
    assert seconds["denoise"] / seconds["denoise.2"] == pytest.approx(SMALL.denoising_work / LARGE.denoising_work)


def test_a_digest_outlives_a_setting_that_a_later_version_adds() -> None:
    class Earlier(SimulatedParameters):
        """A family's parameters."""

    class Later(Earlier):
        style: str = "none"
        """What every job of the earlier version had."""

    said = {**SMALL.model_dump(include=set(Parameters.model_fields)), "family": "simulated"}
    earlier, later = (two_passes(kind(**said), kind(**said)) for kind in (Earlier, Later))
    assert earlier.digest(earlier.nodes[2], "model") == later.digest(later.nodes[2], "model")
    styled = two_passes(Later(**said), Later(**said, style="film"))
    assert styled.digest(styled.nodes[2], "model") != later.digest(later.nodes[2], "model")


def test_progress_rises_over_every_node_to_the_end() -> None:
    graph = two_passes()
    estimate = dict.fromkeys(Stage, 2.0)
    seen = [graph.progress(node, done, estimate) for node in graph for done in (0.0, 0.5, 1.0)]
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(1)
    assert graph.progress(graph.nodes[1], 7, estimate) == graph.progress(graph.nodes[1], 1, estimate)
    assert graph.progress(graph.nodes[1], 0.5, {}) == 0, "nothing is known of the seconds"


def test_a_digest_covers_everything_that_leads_to_a_node() -> None:
    graph = two_passes()
    first, second = graph.nodes[1:3]
    known = graph.digest(second, "model", "prompt")
    assert graph.digest(second, "model", "prompt") == known
    assert graph.digest(first, "model", "prompt") != known
    assert graph.digest(second, "model", "another prompt") != known
    apart = Graph((*graph.nodes[:2], replace(second, latents=()), graph.nodes[3], graph.nodes[4]))
    assert apart.digest(apart.nodes[2], "model", "prompt") != known, "it begins from noise"
    named = Graph(
        (*graph.nodes[:2], replace(second, name="b"), replace(graph.nodes[3], latents=("b",)), graph.nodes[4])
    )
    assert named.digest(named.nodes[2], "model", "prompt") != known
    other = two_passes(first=SMALL.model_copy(update={"seed": 5}))
    assert other.digest(other.nodes[2], "model", "prompt") != known, "it begins from another first pass"
    same = two_passes()
    changed = Graph((*same.nodes[:3], replace(same.nodes[3], parameters=SMALL), same.nodes[4]))
    assert changed.digest(changed.nodes[2], "model", "prompt") == known, "what comes later does not matter"


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (lambda: [Node("denoise", Stage.DENOISE, SMALL, text="text_encode")], "needs an earlier text_encode node"),
        (lambda: [*_encoded(), Node("decode", Stage.DECODE, SMALL, latents=("text_encode",))], "earlier denoise node"),
        (lambda: [*_encoded(), Node("decode", Stage.DECODE, SMALL)], "has no latents"),
        (lambda: [*_encoded(), *_encoded()], "two nodes are named"),
        (lambda: [Node("Text Encode", Stage.TEXT_ENCODE, SMALL)], "is no name"),
        (lambda: _encoded(), "needs an earlier decode node"),
        (
            lambda: [*_denoised("a"), Node("still", Stage.DECODE, SMALL, latents=("a",), last_frame=True)],
            "'publish' needs an earlier decode node 'still'",
        ),
        (
            lambda: [
                *_denoised("a"),
                Node("decode", Stage.DECODE, SMALL, latents=("a",)),
                Node("image", Stage.IMAGE_ENCODE, SMALL, frame="decode"),
            ],
            "'image' needs an earlier last_frame decode node 'decode'",
        ),
        (lambda: [Node("video", Stage.VIDEO_ENCODE, SMALL)], "is a part of decode"),
        (lambda: [*_denoised("a", "b"), Node("c", Stage.DENOISE, SMALL, latents=("a", "b"))], "more than one"),
    ],
)
def test_nodes_that_cannot_run_are_refused(nodes: Callable[[], list[Node]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        published(*nodes())


def test_a_graph_ends_with_files_and_publishes_once() -> None:
    with pytest.raises(ValueError, match="the last node, and no other, must publish"):
        Graph(tuple(_encoded()))
    nodes = two_passes().nodes
    with pytest.raises(ValueError, match="the last node, and no other, must publish"):
        Graph((*nodes, replace(nodes[-1], name="again")))
    with pytest.raises(ValueError, match="must name the decode node"):
        Graph((*nodes[:-1], Node("publish", Stage.PUBLISH, SMALL)))


def _encoded() -> list[Node]:
    return [Node("text_encode", Stage.TEXT_ENCODE, SMALL)]


def _denoised(*names: str) -> list[Node]:
    return [Node(name, Stage.DENOISE, SMALL) for name in names]
