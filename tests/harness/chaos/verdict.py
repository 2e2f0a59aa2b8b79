"""What became of the jobs that were accepted, of their videos and of the files: everything a kill could have broken."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from sqlalchemy import func, select

from deployments.housekeeping.sweeper import Sweeper
from jobs.lifecycle import Status
from jobs.schema import idempotency_keys, job_events, jobs
from pipelines.stages import Stage
from storage.keys import CHECKPOINTS, VIDEOS
from storage.store import open_store
from tests.harness.chaos.victims import Held
from tests.harness.chaos.workload import Client, Submitted
from tests.harness.chaos.world import CHECKPOINT_EVERY_S, World
from tests.harness.timeline import Timeline

ENDED_S = 400.0
REPORT_EVERY_S = 0.7
"""Events that are closer together say little of a denoiser's speed: one may have waited a quarter of a second."""
FILES = {"metadata.json", "video.mp4", "thumbnail.webp", "spritesheet.webp"}


@dataclass(slots=True)
class Verdict:
    """One round's numbers. It is good when nothing is in `problems`."""

    accepted: int = 0
    completed: int = 0
    lost: int = 0
    doubled: int = 0
    equal: int = 0
    attempts: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def references(client: Client, world: World) -> dict[int, str]:
    """The digest of each kind's video, from a service that nothing happens to. Every one is looked at, too."""
    rendered = [client.accept(1, kind=kind)[0] for kind in range(len(client.kinds))]
    rows = wait_until_ended(world, rendered)
    digests = {}
    for each in rendered:
        assert each.job_id is not None
        if rows[each.job_id].status != Status.COMPLETED:
            raise RuntimeError(f"kind {each.kind} does not render even undisturbed: {rows[each.job_id].error_message}")
        mp4 = client.content(each.job_id)
        if (wrong := unplayable(mp4, rows[each.job_id].parameters)) is not None:
            raise RuntimeError(f"kind {each.kind} is no good even undisturbed: {wrong}")
        digests[each.kind] = hashlib.sha256(mp4).hexdigest()
    return digests


def wait_until_ended(world: World, submitted: Sequence[Submitted]) -> dict[str, Any]:
    """The rows of some jobs by id, once all have ended or time is up."""
    ids = [each.job_id for each in submitted]
    deadline = time.monotonic() + ENDED_S
    while True:
        with world.database.read() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids))).all()
        if len(rows) < len(ids) or all(row.completed_at is not None for row in rows) or time.monotonic() > deadline:
            return {row.id: row for row in rows}
        time.sleep(0.3)


def judge(world: World, client: Client, submitted: Sequence[Submitted], expected: Mapping[int, str]) -> Verdict:
    """Wait for the end of every job of a round, and look at everything."""
    rows = wait_until_ended(world, submitted)
    verdict = Verdict(accepted=len(submitted))
    for each in submitted:
        row = rows.get(each.job_id or "")
        if row is None or row.status != Status.COMPLETED:
            verdict.lost += 1
            state = "is not in the store" if row is None else f"is {row.status}: {row.error_message}"
            verdict.problems.append(f"{each.job_id} was accepted and {state}")
            continue
        verdict.completed += 1
        verdict.attempts[row.attempts] += 1
        mp4 = client.content(row.id)
        if (wrong := unplayable(mp4, row.parameters)) is not None:
            verdict.problems.append(f"{row.id}: {wrong}")
        if hashlib.sha256(mp4).hexdigest() == expected[each.kind]:
            verdict.equal += 1
        else:
            verdict.problems.append(f"{row.id}: its bytes are not those of the undisturbed run")
    verdict.doubled = _doubled(world, submitted, verdict.problems)
    verdict.problems += files_out_of_place(world)
    return verdict


def unplayable(mp4: bytes, parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with a video, as a sentence; None when it plays, and is as long and large as was asked."""
    with av.open(io.BytesIO(mp4)) as container:
        rate = container.streams.video[0].average_rate
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    if len(sizes) != parameters["num_frames"]:
        return f"it has {len(sizes)} frames, not {parameters['num_frames']}"
    if set(sizes) != {(parameters["width"], parameters["height"])}:
        return f"its frames are of {set(sizes)}"
    return None if rate == parameters["fps"] else f"it runs at {rate} frames per second"


def files_out_of_place(world: World) -> list[str]:
    """Once every job has ended: files of no job, half files, missing files, checkpoints that nobody needs."""
    store, problems = open_store(None, world.data), []
    with world.database.read() as connection:
        known = {row.id: row for row in connection.execute(select(jobs))}
    videos = set(store.children(VIDEOS))
    problems += [f"videos/{each} belongs to no job" for each in sorted(videos - known.keys())]
    for job_id in sorted(videos & known.keys()):
        output = known[job_id].output
        wanted = FILES - {f"{each}.webp" for each in ("thumbnail", "spritesheet") if not output[each]}
        there = {key.rsplit("/", 1)[1] for key in store.list(f"{VIDEOS}{job_id}/")}
        if there != wanted:
            problems.append(f"videos/{job_id} holds {sorted(there)} and should hold {sorted(wanted)}")
    Sweeper(world.database, store).delete_checkpoints()
    problems += [f"checkpoints/{each} is left over" for each in store.children(CHECKPOINTS)]
    half = [path.relative_to(world.data) for path in (world.data / "artifacts").rglob(".partial-*")]
    return problems + [f"{path} is half a file that nobody will finish" for path in half]


def repeated(timeline: Timeline, each: Held, killed_at: float, resumed_at: int) -> tuple[int, float] | None:
    """How many steps that a killed denoiser had reported were done again, and how many may be; None of one that had
    only just begun.

    A report is little more than a second old; `killed_at` is in seconds since the epoch.
    """
    steps = timeline.steps_of(each.job_id)
    seen = [(event.step or 0, event.at) for event in steps if event.attempts == each.attempts and event.at <= killed_at]
    if len({step for step, _ in seen}) < 2:
        return None
    # Without another step its last ones were committed while the blow fell.
    again = max(seen[-1][0] - resumed_at, 0) if any(event.attempts > each.attempts for event in steps) else 0
    return again, CHECKPOINT_EVERY_S * _steps_per_s(seen) + 1


def _steps_per_s(reports: Sequence[tuple[int, float]]) -> float:
    """How fast a denoiser was between two checkpoints. Its average would count the waits for its checkpoints, too."""
    pairs = itertools.combinations(reports, 2)
    apart = [(later[0] - one[0], later[1] - one[1]) for one, later in pairs if later[1] - one[1] >= REPORT_EVERY_S]
    whole = (reports[-1][0] - reports[0][0], max(reports[-1][1] - reports[0][1], REPORT_EVERY_S))
    return max(steps / seconds for steps, seconds in [*apart, whole])


def went_on_at(timeline: Timeline, each: Held, since: float, *, again: bool) -> float | None:
    """When a job first got further than it was known to be, in seconds since the epoch.

    With `again` only what a later attempt does counts, and it is enough that it passes the last checkpoint.
    """
    order = list(Stage)
    events = timeline.of(each.job_id)
    reported = max((event.step or 0 for event in events if event.at <= since), default=0)
    known = each.checkpoint_step if again else reported
    for event in events:
        if event.at <= since or (again and event.attempts <= each.attempts):
            continue
        if event.kind == "completed":
            return event.at
        if event.stage is None or order.index(event.stage) < order.index(each.stage):
            continue
        # That a stage was asked for again says nothing yet: a step of it does, or the next stage.
        if event.stage is not each.stage or (each.stage is Stage.DENOISE and (event.step or 0) > known):
            return event.at
    return None


def logged(world: World, event: str) -> list[dict[str, Any]]:
    """The log lines of an event, of every conductor there was."""
    found = []
    for folder in world.logs:
        for path in sorted(folder.glob("*Conductor*")):
            found += [line for line in _lines(path) if line.get("event") == event]
    return found


def _doubled(world: World, submitted: Sequence[Submitted], problems: list[str]) -> int:
    """Jobs that a key stands for twice, or that were completed twice."""
    ids = {each.job_id for each in submitted}
    twice = len(submitted) - len(ids)
    completed = job_events.c.kind == "completed"
    with world.database.read() as connection:
        counted = connection.execute(
            select(job_events.c.job_id, func.count()).where(completed).group_by(job_events.c.job_id)
        ).all()
        keys = connection.execute(select(func.count()).select_from(idempotency_keys)).scalar_one()
        stored = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    if keys != stored:
        problems.append(f"{stored} jobs are stored for {keys} requests")
        twice += abs(stored - keys)
    lines = Counter(line["job_id"] for line in logged(world, "job.completed"))
    often = {job_id for job_id, count in [*((row[0], row[1]) for row in counted), *lines.items()] if count > 1}
    problems += [f"{job_id} was completed more than once" for job_id in sorted(often & ids)]
    return twice + len(often & ids)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the last one of a process that was killed
