"""What earlier attempts have committed of a job, as far as it is still of use."""

from __future__ import annotations

import logging

from jobs.record import Job
from jobs.stored import Checkpoint, Checkpoints
from pipelines.graph import Graph, Node

log = logging.getLogger("ray.serve")


class Committed:
    """A job's checkpoints by node. Those that were made with another input are left out, with a log line.

    A denoiser compares the rest of a checkpoint's fingerprint before it continues from one. Finished latents are of use
    whichever weights made them: the job says which.
    """

    def __init__(self, job: Job, graph: Graph) -> None:
        self._job = job
        self._graph = graph
        self._nodes: dict[str, Checkpoint] = {}
        self.useless: list[str] = []
        """The nodes whose checkpoints were left out."""
        known = job.checkpoint or Checkpoints()
        for node in (each for each in graph if each.name in known.nodes):
            checkpoint = self.usable(node, known.nodes[node.name])
            if checkpoint is None:
                self.useless.append(node.name)
            else:
                self._nodes[node.name] = checkpoint

    def usable(self, node: Node, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """A checkpoint of a node, unless it was made with another input."""
        if checkpoint is None or checkpoint.fingerprint.input == self.input_of(node):
            return checkpoint
        log.warning("%s begins %s anew: its checkpoint was made with another input", self._job.id, node.name)
        return None

    def input_of(self, node: Node) -> str:
        """The part of a fingerprint that this process knows: a digest of all that leads to the node's state."""
        return self._graph.digest(node, self._job.model, self._job.prompt)

    def of(self, node: Node) -> Checkpoint | None:
        """The last commit of a node, if there is one."""
        return self._nodes.get(node.name)

    def finished(self) -> list[tuple[Node, Checkpoint]]:
        """The nodes whose finished latents are committed."""
        there = [(node, self._nodes[node.name]) for node in self._graph if node.name in self._nodes]
        return [(node, checkpoint) for node, checkpoint in there if checkpoint.final]

    def forget(self, name: str) -> None:
        """Leave out the commit of a node, which cannot be read."""
        self._nodes.pop(name, None)
