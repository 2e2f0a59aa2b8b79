"""Row 2: from no node to eight and back. Row 3: nodes that are taken away."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing

import ray

from benchmarks.scale.row import Row
from benchmarks.scale.world import Model, World, run_world, scaled
from jobs.lifecycle import Status
from tests.harness.processes import kill_tree, until
from tests.harness.timeline import Timeline

STEP_S, STEPS, JOBS = 0.5, 40, 40
NODES = 8
KILL_EVERY_S, STORM_S, CHECKPOINT_EVERY_S = 30.0, 300.0, 2.0
MODEL = Model("scale", 0.1, STEP_S, 0.5, encoders=1, denoisers=NODES, decoders=2)
REQUEST = {"model": MODEL.name, "num_inference_steps": STEPS}
DENOISER = f"Denoiser-{MODEL.name}"


def burst() -> Iterator[Row]:
    """40 videos of 20 s for a cluster that sleeps."""
    with run_world(scaled(MODEL, drain_s=20), [MODEL], nodes=NODES) as world:
        asleep(world)
        began = time.monotonic()
        ids = world.submit([REQUEST] * JOBS)
        until(lambda: busy(world) >= NODES, f"{NODES} denoisers are busy", 300, every_s=0.2)
        awake_s = time.monotonic() - began
        rows = world.ended(ids)
        done = time.monotonic()
        asleep(world)
        asleep_s = time.monotonic() - done
        completed = sum(row.status == Status.COMPLETED for row in rows)
        ideal = JOBS / NODES * STEPS * STEP_S
        yield Row(
            f"0 to {NODES} to 0 nodes for {JOBS} videos of {STEPS * STEP_S:.0f} s",
            "none lost",
            f"{completed} completed, {JOBS - completed} lost; the eighth denoiser was busy after {awake_s:.0f} s, all "
            f"was done after {done - began:.0f} s ({ideal:.0f} s of computing), no node was left {asleep_s:.0f} s on",
            completed == JOBS,
        )


def storm() -> Iterator[Row]:
    """A node is killed every 30 s, at random, while videos are made."""
    config = scaled(MODEL, drain_s=20, checkpoint_every_s=CHECKPOINT_EVERY_S, lease_s=5)
    dice = random.Random(3)
    ids: list[str] = []
    unknown_s: list[float] = []
    with run_world(config, [MODEL], nodes=NODES) as world, closing(Timeline(world.database)) as timeline:
        end = time.monotonic() + STORM_S
        ids += world.submit([REQUEST] * 2 * NODES)
        until(lambda: busy(world) > 0, "a denoiser is busy", 300)
        while time.monotonic() < end:
            next_kill = time.monotonic() + KILL_EVERY_S
            if nodes := world.cluster.nodes():
                alive = alive_nodes()
                killed = time.monotonic()
                kill_tree(dice.choice(nodes).pid)
                until(lambda: bool(alive - alive_nodes()), "Ray knows that the node is gone", 60, every_s=0.05)  # noqa: B023
                unknown_s.append(time.monotonic() - killed)
            live = sum(row.completed_at is None for row in world.rows(ids))
            ids += world.submit([REQUEST] * max(2 * NODES - live, 0))  # so that all have something to do
            time.sleep(max(next_kill - time.monotonic(), 0))
        rows = world.ended(ids)
        again = sum(repeated(timeline, row.id) for row in rows)
    completed = sum(row.status == Status.COMPLETED for row in rows)
    hit = sum(row.attempts > 1 for row in rows)
    share = again / (again + STEPS * len(rows))
    yield Row(
        f"{len(unknown_s)} nodes killed in {STORM_S / 60:.0f} minutes, {len(rows)} videos of {STEPS * STEP_S:.0f} s",
        "each completes once; steps done twice <= 10%",
        f"{completed} completed, {len(rows) - completed} lost, {hit} were hit; {again} of {again + STEPS * len(rows)} "
        f"steps were done twice ({share:.1%}); a dead node was known after {max(unknown_s):.1f} s at most",
        completed == len(rows) and share <= 0.1,
    )


def asleep(world: World) -> None:
    """Wait until no denoiser and no node is left."""
    until(lambda: not world.running(DENOISER) and len(alive_nodes()) == 1, "the cluster sleeps", 300, every_s=0.5)


def busy(world: World) -> int:
    """Denoisers that have a job."""
    return world.store.denoising(MODEL.name)


def alive_nodes() -> set[str]:
    """Ids of Ray's nodes, the head among them."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def repeated(timeline: Timeline, job_id: str) -> int:
    """Steps that a job's later attempts did again, as its denoisers reported them, about once a second."""
    again, attempt, last = 0, 1, 0
    for event in timeline.steps_of(job_id):
        step = event.step or 0
        if event.attempts > attempt:
            again += max(last - step, 0)
        attempt, last = event.attempts, step
    return again
