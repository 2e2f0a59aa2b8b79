"""An API replica, killed while requests are inside it; each has to end as one job, however often it was sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
from sqlalchemy import func, select, text

from jobs.schema import idempotency_keys
from tests.harness.chaos.scene import Blow, Scene
from tests.harness.chaos.victims import hunt, ids
from tests.harness.chaos.workload import Submitted
from tests.harness.chaos.world import Replica
from tests.harness.processes import kill, until

BLOCKED, WAITING = 8, 8


def api(scene: Scene) -> Blow:
    """An API replica with requests in flight: some not yet accepted, some accepted and waiting for their video."""
    replicas = scene.world.running("Api")
    scene.busy_denoiser()
    waiting = scene.client.submit(WAITING, kind=0, wait_s=60)
    already = scene.client.submitted[-WAITING:]
    until(lambda: _all_accepted(scene, already), "requests that are accepted and wait for their video")
    with _accepting_blocked(scene) as inside:
        blocked = scene.client.submit(BLOCKED)
        # A replica accepts requests with keys one after the other; the rest wait in it.
        hunt(lambda: len(inside()) >= len(replicas) or None, lambda: None, "requests inside their transaction")
        ports = inside()
        victim, mine = max(((each, _ports(each) & ports) for each in replicas), key=lambda pair: len(pair[1]))
        if not mine:
            raise RuntimeError("no API replica holds a request; nothing would be proven")
        count = scene.loaded()
        at = time.time()
        kill(victim.process)
    for each in blocked:
        each.result()
    answered_s = time.time() - at
    how = f"{len(mine)} of its POSTs was inside the accepting transaction, others waited behind it"
    blow = Blow(at, [], how, count, again=False, replaced=ids(victim), went_on_s=answered_s)
    scene.world.wait_until_complete(but=blow.replaced)
    blow.started_s = time.time() - at
    for each in waiting:
        each.result()
    unanswered = sum(each.unanswered > 0 for each in already)
    blow.how += f"; {unanswered} more, accepted and held open by Prefer: wait, lost their answer too"
    repeated = sum(each.unanswered > 0 for each in scene.client.submitted[-BLOCKED:])
    if repeated < len(mine):
        blow.problems.append(f"{len(mine)} requests were inside the victim, and only {repeated} had to be repeated")
    return blow


@contextmanager
def _accepting_blocked(scene: Scene) -> Iterator[Callable[[], set[int]]]:
    """While nobody can write an idempotency key; yields what tells the client ports of those who wait for it."""
    waiting = text(
        "SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE NOT granted AND relation = 'idempotency_keys'::regclass"
    )

    def inside() -> set[int]:
        with scene.world.database.read() as connection:
            return set(connection.execute(waiting).scalars())

    with scene.world.database.write() as connection:
        connection.execute(text("LOCK TABLE idempotency_keys IN EXCLUSIVE MODE"))
        yield inside


def _all_accepted(scene: Scene, submitted: Sequence[Submitted]) -> bool:
    keys = idempotency_keys.c.key
    query = select(func.count()).where(keys.in_([each.key for each in submitted]))
    with scene.world.database.read() as connection:
        return bool(connection.execute(query).scalar_one() == len(submitted))


def _ports(replica: Replica) -> set[int]:
    """The local ports of a replica's connections."""
    return {each.laddr.port for each in psutil.Process(replica.process).net_connections(kind="tcp") if each.laddr}
