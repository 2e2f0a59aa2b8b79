"""Runs one job through its stage graph, node by node. It holds references and small values, never a tensor.

The way of a job is `run`: it takes the next node that still has to run, calls its stage, and keeps the reference of the
stage's output until no other node needs it. How a call is followed and taken back is in `stage_call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from ray.exceptions import ActorDiedError

from deployments import metrics
from deployments.events import emit
from deployments.orchestration.committed import Committed
from deployments.orchestration.forgiveness import Forgiveness
from deployments.orchestration.requests import denoise_inputs, denoise_request, request_of
from deployments.orchestration.stage_call import Migrated, Reference, StageCall, StageHandle, StageResult, cause_of
from deployments.stages.messages import CheckpointRef, Ending, Finished, Progress, Request, Started
from jobs.lifecycle import AHEAD_OF_DENOISE, percent
from jobs.record import Job
from jobs.stored import Checkpoint
from pipelines.card import ModelCard
from pipelines.errors import LatentsLost, ReplicaUnavailable
from pipelines.families import graph_of
from pipelines.graph import Graph, Node
from pipelines.requests import read_parameters
from pipelines.stages import Stage


class JobLease(Protocol):
    """What a job run needs of `deployments.orchestration.lease.Lease`."""

    token: str

    async def estimate(self) -> Mapping[Stage, float]: ...

    async def advance(self, stage: Stage, percent: int) -> None: ...

    def begin(self, stage: Stage, percent: int) -> None: ...

    def report(self, stage: Stage, percent: int, replica: str, step: int | None = None) -> None: ...

    async def checkpoint(self, node: str) -> Checkpoint | None: ...

    async def forget_checkpoint(self, node: str) -> None: ...


class Denoisers(Protocol):
    """What a job run needs of `deployments.orchestration.denoiser_pool.DenoiserPool`."""

    async def denoiser(self, model: str, token: str) -> str: ...

    def denoisers(self, model: str) -> tuple[str, ...]: ...

    def freed(self) -> None: ...

    def lost(self, replica: str | None) -> None: ...


def plan_of(card: ModelCard, job: Job) -> Graph:
    """The stage graph of a job. Raises ValidationError when this version cannot read the job's parameters."""
    return graph_of(card, read_parameters(job.parameters), job.has_image)


class JobRun:
    """Runs one job. `stage_seconds` and `result_metadata` grow as nodes finish; `replica` is the one that works now."""

    def __init__(
        self,
        job: Job,
        plan: Callable[[Job], Graph],
        stages: Mapping[Stage, StageHandle],
        lease: JobLease,
        denoisers: Denoisers,
    ) -> None:
        """
        Args:
            plan: makes the job's stage graph; what goes wrong with that is this job's fault, and no other's.
        """
        self.job = job
        self.result_metadata = job.result_metadata
        self.call: StageCall | None = None
        self._made_bytes = 0  # of what the last node has made
        self._plan = plan
        self._stages = stages
        self._lease = lease
        self._denoisers = denoisers
        self._made: dict[str, Reference | CheckpointRef | None] = {}  # by node
        self._seconds: dict[str, tuple[Stage, float]] = {}  # by node
        self._entered: Node | None = None
        self._at = job.stage  # as the store knows it
        self._forgiveness = Forgiveness()

    @property
    def replica(self) -> str | None:
        return None if self.call is None else self.call.replica

    @property
    def wants_denoiser(self) -> bool:
        """Whether it has a denoiser or will soon need one."""
        return self._at in AHEAD_OF_DENOISE

    @property
    def unpublished_bytes(self) -> int | None:
        """The size of the latents, or of the finished video, of a job that needs no denoiser any more; else None."""
        return None if self.wants_denoiser else self._made_bytes

    @property
    def stage_seconds(self) -> dict[str, float]:
        """The seconds that each stage has taken, over all of its nodes."""
        seconds: dict[str, float] = {}
        for stage, spent in self._seconds.values():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 4)
        return seconds

    @property
    def partial_stages(self) -> frozenset[str]:
        """The stages of which an earlier attempt ran some nodes, so that their seconds are not known."""
        return frozenset(node.stage for node in self._graph if node.name not in self._seconds)

    async def run(self) -> None:
        """Run every node that still has to run: those whose finished latents an earlier attempt committed do not."""
        self._graph = self._plan(self.job)
        self._committed = Committed(self.job, self._graph)
        self._estimate = asyncio.create_task(self._lease.estimate())
        try:
            for name in self._committed.useless:
                await self._lease.forget_checkpoint(name)
            for node, checkpoint in self._committed.finished():
                self._take_over(node, checkpoint)
            while remaining := self._graph.remaining(self._made):
                try:
                    await self._run_node(*remaining[:2])
                except LatentsLost as lost:
                    await self._make_again(remaining[0], lost)
                self._drop_references()
        finally:
            self._estimate.cancel()

    def waits_in_vain(self) -> bool:
        """Whether the assigned denoiser is gone although it has not begun this job."""
        call = self.call
        waits = call is not None and call.stage is Stage.DENOISE and not call.started
        return waits and self.replica not in self._denoisers.denoisers(self.job.model)

    def preempt(self) -> None:
        """Give this job's denoiser, if it has one, to a job of a higher class."""
        if self.call is not None and self.call.stage is Stage.DENOISE:
            self.call.migrate()

    def migrate(self) -> None:
        """Migrate the job to another replica, which continues a denoise at the next step, or publishes the files."""
        if self.call is not None:
            self.call.migrate()

    async def _run_node(self, node: Node, following: Node | None = None) -> None:
        if node.stage is Stage.DENOISE:
            assert following is not None, "a graph ends with a publish"
            await self._denoise(node, following)
            return
        await self._enter(node)
        request, outputs = request_of(self.job, self._graph, node)
        while node.name not in self._made:
            try:
                result = await self._call(node, following, request, *(self._output(name) for name in outputs))
            except Migrated:
                continue
            self._made[node.name] = result.value

    def _output(self, name: str) -> Reference | CheckpointRef:
        output = self._made[name]
        assert output is not None, f"{name} has no output"
        return output

    async def _denoise(self, node: Node, following: Node) -> None:
        """Run a denoise at the denoiser that the pool assigns, and at another one each time it is migrated."""
        checkpoint = self._committed.of(node)
        outputs = {name: self._output(of) for name, of in denoise_inputs(node).items()}
        while node.name not in self._made:
            await self._enter(node)
            replica = await self._denoisers.denoiser(self.job.model, self._lease.token)
            self.result_metadata = self.result_metadata.model_copy(update={"resumed_at_step": None})
            request = denoise_request(
                self.job, self._graph, node, self._committed,
                token=self._lease.token, denoiser=replica, checkpoint=checkpoint,
                revisions=self.result_metadata.revisions or {},
            )  # fmt: skip
            try:
                result = await self._call(node, following, request, replica=replica, **outputs)
            except Migrated:
                checkpoint = self._committed.usable(node, await self._lease.checkpoint(node.name))
                if checkpoint is not None and checkpoint.final:
                    self._take_over(node, checkpoint)  # the denoise had finished before it could be stopped
                else:
                    self._entered = None  # it asks the store for a denoiser anew
                continue
            if checkpoint is not None and self.result_metadata.resumed_at_step is not None:
                stage, seconds = self._seconds[node.name]
                self._seconds[node.name] = stage, seconds + checkpoint.seconds
            self._made[node.name] = result.value
        await self._enter(following)

    async def _enter(self, node: Node) -> None:
        """Record that a node begins, unless that is recorded: by the claim, or because a denoise was about to end.

        Then another job may have the denoiser that this job leaves, or its place before one.
        """
        if self._entered is node:
            return
        if not (self._entered is None and node.stage is self._at and node.stage is not Stage.DENOISE):
            before, self._at = self._at, node.stage
            if before is Stage.DECODE and node.stage is Stage.PUBLISH:
                self._lease.begin(node.stage, await self._percent(node, 0.0))  # no other job waits for this
            else:
                await self._lease.advance(node.stage, await self._percent(node, 0.0))
            if before is Stage.DENOISE or (before in AHEAD_OF_DENOISE and node.stage not in AHEAD_OF_DENOISE):
                self._denoisers.freed()
        self._entered = node

    async def _call(
        self,
        node: Node,
        following: Node | None,
        request: Request,
        *outputs: Reference | CheckpointRef,
        replica: str | None = None,
        **named_outputs: Reference | CheckpointRef,
    ) -> StageResult:
        """Call a node's stage.

        Raises:
            Migrated: the node has to be called again.
            LatentsLost: committed latents that it takes cannot be read.
        """

        async def on_event(call: StageCall, event: Started | Progress | Ending) -> None:
            if isinstance(event, Ending):
                # The next pass of the same job needs a denoiser too: it asks for one when this pass has really ended.
                if following is not None and following.stage is not Stage.DENOISE:
                    await self._enter(following)
                return
            assert call.replica is not None
            done, step = 0.0, None
            if isinstance(event, Progress):
                done = event.step / event.num_steps
                step = event.step if node.stage is Stage.DENOISE else None
            self._lease.report(node.stage, await self._percent(node, done), call.replica, step)

        stream = self._stages[node.stage].call(request, *outputs, **named_outputs)
        call = self.call = StageCall(node.stage, stream, on_event, replica)
        try:
            result = await call.run()
        except Migrated as migrated:
            self._tell_lost(call, migrated.__cause__)
            self._tell_migrated(call)
            raise
        except Exception as error:
            self._tell_lost(call, error)
            if self._forgiveness.forgives(call, error):
                self._tell_migrated(call)
                raise Migrated from error
            if isinstance(cause := cause_of(error), LatentsLost):
                raise cause from error
            raise
        finally:
            self.call = None
        self._finished(node, result.finished)
        return result

    def _take_over(self, node: Node, checkpoint: Checkpoint) -> None:
        """Use finished latents that are committed, and do not make them again."""
        self._made[node.name] = CheckpointRef(checkpoint.key)
        self._seconds[node.name] = node.stage, checkpoint.seconds
        self.result_metadata = self.result_metadata.updated(checkpoint.result_metadata)

    async def _make_again(self, node: Node, lost: LatentsLost) -> None:
        """Drop the committed latents that a node could not read, so that they are made again."""
        committed = [name for name in node.latents if isinstance(self._made[name], CheckpointRef)]
        if not committed:
            raise lost
        for name in committed:
            del self._made[name]
            self._committed.forget(name)
            await self._lease.forget_checkpoint(name)

    def _drop_references(self) -> None:
        """Let Ray delete what no node needs any more."""
        needed = {name for node in self._graph.remaining(self._made) for name in node.inputs}
        last = self._graph.nodes[-1].name
        self._made = {name: value for name, value in self._made.items() if name in needed or name == last}

    async def _percent(self, node: Node, done: float) -> int:
        """The job's progress. Waits for the first answer of the store, which the first stage does not wait for."""
        return percent(self._graph.progress(node, done, await asyncio.shield(self._estimate)))

    def _tell_lost(self, call: StageCall, error: BaseException | None) -> None:
        if error is None or call.stage is not Stage.DENOISE:
            return
        if isinstance(error, ActorDiedError) or isinstance(cause_of(error), ReplicaUnavailable):
            self._denoisers.lost(call.replica)

    def _tell_migrated(self, call: StageCall) -> None:
        emit("job.migrated", job_id=self.job.id, model=self.job.model, stage=call.stage, replica=call.replica)

    def _finished(self, node: Node, finished: Finished) -> None:
        seconds = round(finished.seconds, 4)
        self._seconds[node.name] = node.stage, seconds
        self.result_metadata = self.result_metadata.updated(finished.result_metadata)
        self._made_bytes = finished.nbytes
        metrics.stage_seconds().observe(finished.seconds, {"model": self.job.model, "stage": node.stage})
        if finished.nbytes:
            metrics.stage_output_bytes().observe(finished.nbytes, {"model": self.job.model, "stage": node.stage})
        emit(
            "stage.finished",
            job_id=self.job.id,
            model=self.job.model,
            stage=node.stage,
            node=node.name,
            seconds=seconds,
            nbytes=finished.nbytes,
        )
