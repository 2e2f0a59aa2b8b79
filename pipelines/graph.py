"""The stage graph of a job, as data: which stages run, in which order, and what each takes from earlier ones.

Most jobs have one pass: encode, denoise, decode, publish. A family may return any other sequence, with several passes
(denoise, then denoise again from the result) or segments (denoise, decode the last frame, encode it, denoise on).
Progress, cost, checkpoints and migration work node by node. No torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.card import ModelCard, Parameters
from pipelines.stages import Stage

PUBLISH = "publish"
"""The name of every graph's last node."""


@dataclass(frozen=True, slots=True)
class Node:
    """One call of a stage. What it takes from earlier nodes, it names."""

    name: str
    """Unique in its graph, of lower-case letters, digits, `.`, `-` and `_`. Checkpoints are stored under it."""
    stage: Stage
    parameters: Parameters
    """The parameters of this call. A pass at another size has that size here, and so its true cost."""
    text: str | None = None
    """The node whose text conditioning it takes."""
    image: str | None = None
    """The node whose image conditioning it takes."""
    latents: tuple[str, ...] = ()
    """The denoise nodes whose results it takes."""
    frame: str | None = None
    """The decode node whose last frame it encodes; without one, an image encode takes the job's own image."""
    video: str | None = None
    """The decode node whose files it publishes."""
    last_frame: bool = False
    """Whether a decode returns its last frame, for another node, instead of a video's files."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of all nodes whose outputs it takes."""
        single = (self.text, self.image, self.frame, self.video)
        return (*(each for each in single if each is not None), *self.latents)

    @property
    def work(self) -> float:
        """The amount of work, in units that grow with the cost of the stage."""
        if self.stage is Stage.DENOISE:
            return self.parameters.denoising_work
        return self.parameters.megapixels if self.stage is Stage.DECODE else 1.0


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of one job, in the order in which they run."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for nodes that cannot run in this order."""
        earlier: dict[str, Node] = {}
        for node in self.nodes:
            if not re.fullmatch(r"[a-z0-9._-]{1,48}", node.name):
                raise ValueError(f"{node.name!r} is no name: use lower-case letters, digits, '.', '-' and '_'")
            if node.name in earlier:
                raise ValueError(f"two nodes are named {node.name!r}")
            for name, fits, what in _expected(node):
                if name not in earlier or not fits(earlier[name]):
                    raise ValueError(f"{node.name!r} needs an earlier {what} node {name!r}")
            _check(node)
            earlier[node.name] = node
        publishes = [node for node in self.nodes if node.stage is Stage.PUBLISH]
        if publishes != list(self.nodes[-1:]):
            raise ValueError("the last node, and no other, must publish the files of a decode node")

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def needed_latents(self) -> frozenset[str]:
        """The denoises whose latents are needed once no denoise is left to run."""
        last = max((place for place, node in enumerate(self.nodes) if node.stage is Stage.DENOISE), default=-1)
        return frozenset(name for node in self.nodes[last + 1 :] for name in node.latents)

    def remaining(self, there: Collection[str]) -> tuple[Node, ...]:
        """The nodes that still have to run, in order, when the outputs of the nodes `there` exist.

        A node whose output nothing needs any more is left out: a job with finished latents is not encoded again.
        """
        needed = {self.nodes[-1].name}
        for node in reversed(self.nodes):
            if node.name in needed and node.name not in there:
                needed.update(node.inputs)
        return tuple(node for node in self.nodes if node.name in needed and node.name not in there)

    def work(self) -> dict[Stage, float]:
        """The work of each stage, over all of its nodes; a stage that the job does not run is absent."""
        work: dict[Stage, float] = {}
        for node in self.nodes:
            work[node.stage] = work.get(node.stage, 0.0) + node.work
        return work

    def digest(self, node: Node, *inputs: str) -> str:
        """A digest of the job's own `inputs`, and of all that this node and those before it do with them."""
        before = self.nodes[: self.nodes.index(node) + 1]
        said = [
            [each.name, each.stage, each.text, each.image, each.latents, each.frame, each.last_frame,
             # A default is what a row means that was written before the field was there.
             each.parameters.model_dump(mode="json", exclude_defaults=True)]
            for each in before
        ]  # fmt: skip
        return hashlib.sha256(json.dumps([inputs, said], sort_keys=True).encode()).hexdigest()[:16]

    def seconds(self, of_stages: Mapping[Stage, float]) -> dict[str, float]:
        """The estimated seconds of each node: its stage's, in proportion to its work."""
        work = self.work()
        return {node.name: of_stages.get(node.stage, 0.0) * node.work / (work[node.stage] or 1.0) for node in self}

    def progress(self, node: Node, done: float, of_stages: Mapping[Stage, float]) -> float:
        """The share of the whole job, 0 to 1, that is finished when `done` (0 to 1) of a node is."""
        seconds = self.seconds(of_stages)
        before = self.nodes[: self.nodes.index(node)]
        spent = sum(seconds[each.name] for each in before) + seconds[node.name] * min(max(done, 0.0), 1.0)
        return spent / (sum(seconds.values()) or 1.0)


def published(*nodes: Node) -> Graph:
    """A graph of these nodes that publishes what the last one decodes.

    Raises:
        ValueError: the nodes cannot run in this order.
    """
    last = nodes[-1]
    return Graph((*nodes, Node(PUBLISH, Stage.PUBLISH, last.parameters, video=last.name)))


def one_pass(card: ModelCard, parameters: Parameters, has_image: bool) -> Graph:
    """The graph of a job that denoises once: encode what the family and the job have, denoise, decode, publish."""
    nodes = []
    denoise = Node(Stage.DENOISE.value, Stage.DENOISE, parameters)
    if Stage.TEXT_ENCODE in card.STAGES:
        nodes.append(Node(Stage.TEXT_ENCODE.value, Stage.TEXT_ENCODE, parameters))
        denoise = replace(denoise, text=nodes[-1].name)
    if has_image and card.takes_image:
        nodes.append(Node(Stage.IMAGE_ENCODE.value, Stage.IMAGE_ENCODE, parameters))
        denoise = replace(denoise, image=nodes[-1].name)
    decode = Node(Stage.DECODE.value, Stage.DECODE, parameters, latents=(denoise.name,))
    return published(*nodes, denoise, decode)


def _expected(node: Node) -> Iterator[tuple[str, Callable[[Node], bool], str]]:
    """What a node takes: from which name, which nodes may have it, and what these are called."""

    def of(stage: Stage) -> Callable[[Node], bool]:
        return lambda other: other.stage is stage

    if node.text is not None:
        yield node.text, of(Stage.TEXT_ENCODE), Stage.TEXT_ENCODE
    if node.image is not None:
        yield node.image, of(Stage.IMAGE_ENCODE), Stage.IMAGE_ENCODE
    if node.frame is not None:
        yield node.frame, lambda other: other.stage is Stage.DECODE and other.last_frame, "last_frame decode"
    if node.video is not None:
        yield node.video, lambda other: other.stage is Stage.DECODE and not other.last_frame, Stage.DECODE
    for name in node.latents:
        yield name, of(Stage.DENOISE), Stage.DENOISE


def _check(node: Node) -> None:
    if node.stage is Stage.VIDEO_ENCODE:
        raise ValueError(f"{node.name!r}: {node.stage} is a part of {Stage.DECODE}, and no node of its own")
    if node.stage is Stage.DECODE and not node.latents:
        raise ValueError(f"{node.name!r} has no latents to decode")
    if node.stage is Stage.DENOISE and len(node.latents) > 1:
        raise ValueError(f"{node.name!r} begins from the latents of more than one node")
    if node.stage is Stage.PUBLISH and node.video is None:
        raise ValueError(f"{node.name!r} must name the decode node whose files it publishes")
