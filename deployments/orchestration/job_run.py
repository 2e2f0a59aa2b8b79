"""Runs one job through its stage graph, node by node. It holds references and small values, never a tensor.

The way of a job is `run`: it takes the next node that still has to run, calls its stage, and keeps the reference of the
stage's output until no other node needs it. How a call is followed and taken back is in `stage_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ray.exceptions import ActorDiedError

from deployments import metrics
from deployments.events import emit
from deployments.orchestration.committed import Committed
from deployments.orchestration.forgiveness import Forgiveness
from deployments.orchestration.stage_call import Migrated, Outcome, Reference, StageCall, StageHandle, cause_of
from deployments.stages.messages import (
    CheckpointRef,
    DecodeRequest,
    DenoiseRequest,
    Ending,
    Finished,
    Progress,
    Started,
)
from jobs.lifecycle import percent
from jobs.record import Job
from jobs.stored import Checkpoint
from pipelines.card import ModelCard
from pipelines.errors import LatentsLost
from pipelines.families import family_of
from pipelines.graph import Graph, Node
from pipelines.output import Output
from pipelines.requests import read_parameters
from pipelines.stages import Stage
from pipelines.strict import read_stored
from storage.keys import input_key


class JobLease(Protocol):
    """What a job run needs of `deployments.orchestration.lease.Lease`."""

    token: str

    async def estimate(self) -> Mapping[Stage, float]: ...

    async def advance(self, stage: Stage, percent: int) -> None: ...

    def report(self, stage: Stage, percent: int, replica: str, step: int | None = None) -> None: ...

    async def checkpoint(self, node: str) -> Checkpoint | None: ...

    async def forget_checkpoint(self, node: str) -> None: ...


class Denoisers(Protocol):
    """What a job run needs of `deployments.orchestration.denoiser_pool.DenoiserPool`."""

    async def denoiser(self, model: str, token: str) -> str: ...

    def denoisers(self, model: str) -> tuple[str, ...]: ...

    def freed(self) -> None: ...

    def lost(self, replica: str | None) -> None: ...


def graph_of(card: ModelCard, job: Job) -> Graph:
    """The stage graph of a job. Raises ValidationError when this version cannot read the job's parameters."""
    return family_of(card).graph(card, read_parameters(job.parameters), job.has_image)


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
        self._stages = stages
        self._lease = lease
        self._denoisers = denoisers
        self._plan = plan
        self._made: dict[str, Reference | None] = {}  # by node
        self._seconds: dict[str, float] = {}  # by node
        self._estimate: Mapping[Stage, float] = {}
        self._entered: Node | None = None
        self._forgiveness = Forgiveness()

    @property
    def replica(self) -> str | None:
        return None if self.call is None else self.call.replica

    @property
    def stage_seconds(self) -> dict[str, float]:
        """The seconds that each stage has taken, over all of its nodes."""
        seconds: dict[str, float] = {}
        for node in self.graph:
            if node.name in self._seconds:
                seconds[node.stage] = round(seconds.get(node.stage, 0.0) + self._seconds[node.name], 4)
        return seconds

    async def run(self) -> None:
        """Run every node that still has to run: those whose finished latents an earlier attempt committed do not."""
        self.graph = self._plan(self.job)
        self._committed = Committed(self.job, self.graph)
        self._estimate = await self._lease.estimate()
        for node, checkpoint in self._committed.finished():
            self._take_over(node, checkpoint)
        while remaining := self.graph.remaining(self._made):
            try:
                await self._run_node(*remaining[:2])
            except LatentsLost as lost:
                await self._make_again(remaining[0], lost)
            self._drop_references()

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
        while node.name not in self._made:
            try:
                outcome = await self._call(node, following, *self._inputs(node))
            except Migrated:
                continue
            self._made[node.name] = outcome.value

    def _inputs(self, node: Node) -> tuple[object, ...]:
        match node.stage:
            case Stage.TEXT_ENCODE:
                return self.job.prompt, node.parameters
            case Stage.IMAGE_ENCODE:
                image = input_key(self.job) if node.frame is None else self._made[node.frame]
                return image, node.parameters
            case Stage.DECODE:
                video, output = self.graph.nodes[-1].parameters, read_stored(Output, self.job.output)
                request = DecodeRequest(self.job.model, node.parameters, video, output, node.last_frame)
                return request, *(self._made[name] for name in node.latents)
            case _:
                assert node.video is not None
                return self.job, self._made[node.video]

    async def _denoise(self, node: Node, following: Node) -> None:
        """Run a denoise at the denoiser that the pool assigns, and at another one each time it is migrated."""
        checkpoint = self._committed.of(node)
        inputs = {"text": node.text, "image": node.image, "latents": node.latents[0] if node.latents else None}
        named = {name: self._made[of] for name, of in inputs.items() if of is not None}
        while node.name not in self._made:
            self._entered = None  # a denoise is entered anew each time, which asks the store for a denoiser
            await self._enter(node)
            replica = await self._denoisers.denoiser(self.job.model, self._lease.token)
            self.result_metadata = self.result_metadata.model_copy(update={"resumed_at_step": None})
            request = DenoiseRequest(
                job_id=self.job.id, model=self.job.model, node=node.name, parameters=node.parameters,
                last=node is self.graph.last_denoise, input=self._committed.input_of(node), token=self._lease.token,
                denoiser=replica, checkpoint=checkpoint,
            )  # fmt: skip
            try:
                outcome = await self._call(node, following, request, replica=replica, **named)
            except Migrated:
                checkpoint = await self._lease.checkpoint(node.name)
                if checkpoint is not None and checkpoint.final:
                    self._take_over(node, checkpoint)  # the denoise had finished before it could be stopped
                continue
            if checkpoint is not None and self.result_metadata.resumed_at_step is not None:
                self._seconds[node.name] += checkpoint.seconds
            self._made[node.name] = outcome.value
        if self._entered is node:
            await self._leave_denoiser(following)

    async def _leave_denoiser(self, following: Node) -> None:
        """Free the denoiser, which may belong to another job from now on."""
        await self._enter(following)
        self._denoisers.freed()

    async def _enter(self, node: Node) -> None:
        """Record that a node begins, unless the claim has done so or its denoise was about to end."""
        if self._entered is None and node.stage is not Stage.DENOISE and node.stage is self.job.stage:
            self._entered = node
        if self._entered is not node:
            await self._lease.advance(node.stage, self._percent(node, 0.0))
            self._entered = node

    async def _call(
        self, node: Node, following: Node | None, *inputs: object, replica: str | None = None, **named_inputs: object
    ) -> Outcome:
        """Call a node's stage.

        Raises:
            Migrated: the node has to be called again.
            LatentsLost: committed latents that it takes cannot be read.
        """

        async def on_event(event: Started | Progress | Ending) -> None:
            if isinstance(event, Ending):
                assert following is not None
                await self._leave_denoiser(following)
            elif isinstance(event, Started):
                self._lease.report(node.stage, self._percent(node, 0.0), event.replica)
            else:
                assert call.replica is not None
                step = event.step if node.stage is Stage.DENOISE else None
                self._lease.report(node.stage, self._percent(node, event.step / event.num_steps), call.replica, step)

        stream = self._stages[node.stage].call(*inputs, **named_inputs)
        call = self.call = StageCall(node.stage, stream, on_event, replica)
        try:
            outcome = await call.run()
        except Migrated:
            self._tell_migrated(call)
            raise
        except Exception as error:
            if node.stage is Stage.DENOISE and isinstance(error, ActorDiedError):
                self._denoisers.lost(call.replica)
            if self._forgiveness.forgives(call, error):
                self._tell_migrated(call)
                raise Migrated from error
            if isinstance(cause := cause_of(error), LatentsLost):
                raise cause from error
            raise
        finally:
            self.call = None
        self._finished(node, outcome.finished)
        return outcome

    def _take_over(self, node: Node, checkpoint: Checkpoint) -> None:
        """Use finished latents that are committed, and do not make them again."""
        self._made[node.name] = CheckpointRef(checkpoint.key)
        self._seconds[node.name] = checkpoint.seconds
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
        needed = {name for node in self.graph.remaining(self._made) for name in node.inputs}
        last = self.graph.nodes[-1].name
        self._made = {name: value for name, value in self._made.items() if name in needed or name == last}

    def _percent(self, node: Node, done: float) -> int:
        return percent(self.graph.progress(node, done, self._estimate))

    def _tell_migrated(self, call: StageCall) -> None:
        emit("job.migrated", job_id=self.job.id, model=self.job.model, stage=call.stage, replica=call.replica)

    def _finished(self, node: Node, finished: Finished) -> None:
        self._seconds[node.name] = seconds = round(finished.seconds, 4)
        self.result_metadata = self.result_metadata.updated(finished.result_metadata)
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
