"""One round: a loaded service is struck, and has to make good every promise that it had given."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jobs.priority import Priority
from pipelines.stages import Stage
from tests.harness.chaos.postgres import Postgres
from tests.harness.chaos.verdict import Verdict, judge, references, repeated, wait_until_ended, went_on_at
from tests.harness.chaos.victims import Held, hunt, in_flight, mid_step, somewhen
from tests.harness.chaos.workload import LONG, Client, Submitted
from tests.harness.chaos.world import DENOISER, LEASE_S, Replica, World
from tests.harness.timeline import Timeline

SPARE = 12
"""Jobs beyond the promised number: a quick machine ends some between the last count and the blow."""
COUNT_EVERY_S = 0.3


@dataclass(slots=True)
class Blow:
    """What was killed, and what it held by the database's word at that moment."""

    at: float  # seconds since the epoch
    held: list[Held]
    how: str
    in_flight: int
    again: bool = True
    """Whether the jobs need another attempt to go on."""
    denoisers_died: bool = False
    told_to_stop: bool = False
    """Nothing was killed: whoever held a job had to commit it and give it up, at no attempt's cost."""
    moments: dict[str, float] = field(default_factory=dict)
    """When each job was interrupted, where that was not at the blow: seconds since the epoch by job id."""
    replaced: frozenset[str] = frozenset()
    """Ids of the replicas that have to be replaced."""
    started_s: float | None = None
    """Seconds from the blow until everything ran again; None where the round is to wait for it."""
    went_on_s: float | None = None
    """Seconds until what was interrupted went on; None where the jobs held tell."""
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Row:
    """A line of the report."""

    name: str
    blow: Blow
    verdict: Verdict
    seconds: float
    repeated: tuple[int, float] | None = None  # steps done twice, and how many may be
    went_on: tuple[float, float] = (0.0, 0.0)  # seconds, and the bound

    @property
    def good(self) -> bool:
        return not self.verdict.problems


@dataclass(slots=True)
class Scene:
    """The service under load, and those who watch it."""

    world: World
    client: Client
    timeline: Timeline
    dice: random.Random
    expected: Mapping[int, str]
    size: int
    """Jobs in flight when something is killed."""
    postgres: Postgres | None = None
    _known: set[str] = field(default_factory=set)
    _counted_at: float = 0.0

    def keep_loaded(self) -> None:
        """Submit more once fewer jobs are in flight than there should be."""
        if time.monotonic() - self._counted_at < COUNT_EVERY_S:
            return
        if (count := in_flight(self.world.database)) < self.size + SPARE // 2:
            self._accept_long_ones(1)
            self.client.accept(self.size + SPARE - count - 1)
        self._counted_at = time.monotonic()

    def loaded(self) -> int:
        """How many jobs are in flight now, which must be enough."""
        count = in_flight(self.world.database)
        if count < self.size:
            raise RuntimeError(f"only {count} jobs are in flight, not {self.size}; the blow would prove little")
        return count

    def busy_denoiser(self) -> tuple[Replica, Held]:
        """A denoiser in the middle of a long job, at a moment that the dice choose."""
        replicas = self.world.running(DENOISER)

        def found() -> tuple[Replica, Held] | None:
            if mid_step(self.world.database, replicas) is None:
                return None
            somewhen(self.dice)
            return mid_step(self.world.database, replicas)

        return hunt(found, self.keep_loaded, "a denoiser mid-step")

    def all_denoisers_busy(self) -> None:
        """Wait until each has most of a long job before it: Serve chooses which to stop, and when."""
        replicas = self.world.running(DENOISER)
        hunt(
            lambda: all(mid_step(self.world.database, [each], at_most=0.35) for each in replicas) or None,
            self.keep_loaded, "every denoiser mid-step",
        )  # fmt: skip

    def num_steps(self, job_id: str) -> int:
        """How many denoising steps a job has."""
        (kind,) = [each.kind for each in self.client.submitted if each.job_id == job_id]
        return int(self.client.kinds[kind]["num_inference_steps"])

    def run(self, name: str, strike: Callable[[Scene], Blow]) -> Row:
        """Load the service, strike, wait for all of its jobs, and judge."""
        began = time.monotonic()
        earlier = len(self.client.submitted)
        self._accept_long_ones(2)
        self.client.accept(self.size + SPARE - 2)
        blow = strike(self)
        if blow.started_s is None:
            self.world.wait_until_complete(but=blow.replaced)
            blow.started_s = time.time() - blow.at
        mine = self.client.submitted[earlier:]
        verdict = judge(self.world, self.client, mine, self.expected)
        row = Row(name, blow, verdict, 0.0)
        self._follow(row, mine)
        # A file that one round left behind is not every later round's fault, too.
        verdict.problems[:] = [each for each in [*verdict.problems, *blow.problems] if each not in self._known]
        self._known.update(verdict.problems)
        row.seconds = time.monotonic() - began
        return row

    def _accept_long_ones(self, count: int) -> None:
        """First in the queue, so that a denoiser is soon busy for a while."""
        for kind in self.dice.sample(range(len(LONG)), count):
            self.client.accept(1, kind=kind, priority=Priority.HIGH)

    def _follow(self, row: Row, submitted: list[Submitted]) -> None:
        """What became of the jobs that were held: when they went on, and from which step."""
        blow, problems = row.blow, row.verdict.problems
        assert blow.started_s is not None
        bound = LEASE_S + blow.started_s
        rows = wait_until_ended(self.world, submitted)
        moments: list[float] = []
        for each in blow.held:
            since = blow.moments.get(each.job_id, blow.at)
            # A call that had not reached its replica costs no attempt: Serve sends it to another one.
            again = blow.again and each.job_id in rows and rows[each.job_id].attempts > each.attempts
            at = went_on_at(self.timeline, each, since, again=again)
            if at is None:
                problems.append(f"{each.job_id} was never seen to go on")
            else:
                moments.append(at - since)
            if blow.denoisers_died and each.stage is Stage.DENOISE and each.job_id in rows:
                resumed_at = rows[each.job_id].result_metadata.resumed_at_step or 0
                twice = repeated(self.timeline, each, blow.at, resumed_at)
                row.repeated = max(filter(None, [row.repeated, twice]), default=None)
                if twice is not None and twice[0] > twice[1]:
                    problems.append(f"{each.job_id} repeated {twice[0]} steps, at most {twice[1]:.1f} are allowed")
            if blow.told_to_stop and each.job_id in rows:
                now, resumed_at = rows[each.job_id], rows[each.job_id].result_metadata.resumed_at_step or 0
                blow.how = f"resumed at step {resumed_at}" if not blow.how else f"{blow.how}, {resumed_at}"
                # Without another step it had been denoised when it was given up.
                anew = any(event.at > since for event in self.timeline.steps_of(each.job_id))
                if now.attempts != 1 or (anew and resumed_at < (each.step or 0)):
                    problems.append(f"{each.job_id} took {now.attempts} attempts and resumed at step {resumed_at}")
        row.went_on = (blow.went_on_s if blow.went_on_s is not None else max(moments, default=0.0), bound)
        if row.went_on[0] > bound:
            problems.append(f"it took {row.went_on[0]:.1f} s to go on, at most {bound:.1f} s are allowed")


@contextmanager
def set_up(world: World, dice: random.Random, size: int, postgres: Postgres | None = None) -> Iterator[Scene]:
    """Render every kind of video undisturbed, and then let things happen."""
    client, timeline = Client(world.url, dice), Timeline(world.database)
    try:
        yield Scene(world, client, timeline, dice, references(client, world), size, postgres)
    finally:
        timeline.close()
        client.close()


def with_changes(config: dict[str, Any], args: dict[str, Any], replicas: Mapping[str, int]) -> dict[str, Any]:
    """A config's copy with other `args` and other numbers of replicas."""
    config = copy.deepcopy(config)
    (application,) = config["applications"]
    application["args"].update(args)
    for deployment in application["deployments"]:
        if deployment["name"] in replicas:
            deployment["num_replicas"] = replicas[deployment["name"]]
    return config
