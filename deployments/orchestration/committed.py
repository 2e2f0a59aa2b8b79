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
        known = job.checkpoint or Checkpoints()
        for node in graph:
            if (checkpoint := known.nodes.get(node.name)) is None:
                continue
            if checkpoint.fingerprint.input == self.input_of(node):
                self._nodes[node.name] = checkpoint
            else:
                log.warning("%s begins %s anew: its checkpoint was made with another input", job.id, node.name)

    def input_of(self, node: Node) -> str:
        """The part of a fingerprint that this process knows: a digest of all that leads to the node's state."""
        # A job's image never changes, so that the job's id stands for it.
        image = self._job.id if self._job.has_image else ""
        return self._graph.digest(node, self._job.model, self._job.prompt, image)

    def of(self, node: Node) -> Checkpoint | None:
        """The last commit of a node, if there is one."""
        return self._nodes.get(node.name)

    def finished(self) -> list[tuple[Node, Checkpoint]]:
        """The nodes whose finished latents are committed."""
        return [(node, self._nodes[node.name]) for node in self._graph if self._is_finished(node)]

    def forget(self, name: str) -> None:
        """Leave out the commit of a node, which cannot be read."""
        self._nodes.pop(name, None)

    def _is_finished(self, node: Node) -> bool:
        return node.name in self._nodes and self._nodes[node.name].final
