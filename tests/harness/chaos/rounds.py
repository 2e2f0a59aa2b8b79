"""What is killed, and when: each finds a victim that holds a job, says what it held, and strikes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement

from jobs.priority import Priority
from jobs.schema import jobs
from pipelines.stages import Stage
from storage.keys import VIDEOS
from tests.harness.chaos.posts import api
from tests.harness.chaos.scene import Blow, Scene, with_changes
from tests.harness.chaos.verdict import logged
from tests.harness.chaos.victims import Held, held, held_by, hunt, ids, kill_in_the_act, mid_step, somewhen, still_held
from tests.harness.chaos.world import DENOISER, MODEL
from tests.harness.processes import kill, stopped, until

TEXT, DECODER = f"TextEncoder-{MODEL}", f"VideoDecoder-{MODEL}"
DATABASE_DOWN_S = 3.0
LONG_ONES, MIGRATION_S = 6, 240


def denoiser(scene: Scene) -> Blow:
    """A denoiser in the middle of a long job."""
    replica, each = scene.busy_denoiser()
    count = scene.loaded()
    blow = Blow(time.time(), [each], "seen mid-step", count, denoisers_died=True, replaced=ids(replica))
    kill(replica.process)
    return blow


def decoder(scene: Scene) -> Blow:
    """A decoder with a video in hand."""
    return _quick(scene, DECODER, Stage.DECODE)


def text_encoder(scene: Scene) -> Blow:
    """A text encoder with a prompt in hand."""
    return _quick(scene, TEXT, Stage.TEXT_ENCODE)


def publisher(scene: Scene) -> Blow:
    """A publisher in the middle of writing a video's files."""
    (replica,) = scene.world.running("Publisher")
    videos = scene.world.data / "artifacts" / VIDEOS
    seen = _unfinished(videos)

    def catch() -> Blow | None:
        if not (_unfinished(videos) - seen):
            return None
        with stopped(replica.process):
            begun = {each for each in _unfinished(videos) - seen if any((videos / each).glob(".partial-*"))}
            caught = [each for each in held(scene.world.database, _at(Stage.PUBLISH)) if each.job_id in begun]
            caught = still_held(scene.world.database, caught) if caught else []
            if not caught:
                return None
            count = scene.loaded()
            files = ", ".join(sorted(_shown(path.name) for path in (videos / caught[0].job_id).iterdir()))
            how = f"stopped when {files} were there, then killed"
            blow = Blow(time.time(), caught, how, count, replaced=ids(replica))
            kill(replica.process)
            return blow

    return hunt(catch, scene.keep_loaded, "a publisher in the middle of its files", every_s=0.001)


def conductor(scene: Scene) -> Blow:
    """A conductor whose job is being denoised."""
    replicas = scene.world.running("Conductor")
    _, target = scene.busy_denoiser()
    (replica,) = [each for each in replicas if each.replica_id == target.owner]
    count = scene.loaded()
    leased = held_by(scene.world.database, replica)
    blow = Blow(time.time(), leased, "by its leases", count, replaced=ids(replica))
    kill(replica.process)
    return blow


def controller(scene: Scene) -> Blow:
    """Serve's controller, which holds no job but every replica's life."""
    scene.busy_denoiser()
    count, pid = scene.loaded(), scene.world.controller_pid
    blow = Blow(time.time(), held(scene.world.database), "its replicas held these", count, again=False)
    kill(pid)
    until(lambda: _other_controller(scene, pid), "another controller", 120)
    return blow


def node(scene: Scene) -> Blow:
    """A machine with a denoiser in the middle of a long job; another joins at once."""
    replicas = scene.world.on_second_node()
    on_it = [each for each in replicas if each.deployment == DENOISER]
    busy = "a denoiser of the second node mid-step"
    hunt(lambda: mid_step(scene.world.database, on_it), scene.keep_loaded, busy)
    somewhen(scene.dice)
    hunt(lambda: mid_step(scene.world.database, on_it), scene.keep_loaded, busy)
    count = scene.loaded()
    holding = [each for replica in replicas for each in held_by(scene.world.database, replica)]
    names = ", ".join(sorted(each.deployment for each in replicas))
    blow = Blow(time.time(), holding, "", count, denoisers_died=True, replaced=ids(*replicas))
    killed = scene.world.kill_node()
    blow.how = f"raylet and {killed - 1} processes below it ({names})"
    scene.world.start_node()
    return blow


def database(scene: Scene) -> Blow:
    """The PostgreSQL server; started again on the same folder and port after some seconds."""
    assert scene.postgres is not None
    scene.busy_denoiser()
    count = scene.loaded()
    holding = held(scene.world.database)
    blow = Blow(time.time(), holding, "", count, again=False)
    killed = scene.postgres.kill()
    time.sleep(DATABASE_DOWN_S)
    scene.postgres.start_again()
    blow.how, blow.started_s = f"{killed} processes, down for {time.time() - blow.at:.1f} s", time.time() - blow.at
    return blow


def everything(scene: Scene) -> Blow:
    """Every process of the service, on both nodes; started again on the same store and the same files."""
    scene.busy_denoiser()
    count = scene.loaded()
    holding = held(scene.world.database)
    blow = Blow(time.time(), holding, "", count, denoisers_died=True)
    blow.how = f"{scene.world.kill_service()} processes"
    scene.world.start()
    blow.started_s = time.time() - blow.at
    return blow


def scale_in(scene: Scene) -> Blow:
    """A busy denoiser that Serve tells to stop because there shall be one less."""
    before = scene.world.config
    blow = _told_to_stop(scene, with_changes(before, {}, {DENOISER: 1}))
    scene.world.deploy(before)  # as many as before, for the rounds that follow
    return blow


def redeploy(scene: Scene) -> Blow:
    """Every replica, by `serve deploy` of a config with another setting."""
    known = scene.world.replicas()
    blow = _told_to_stop(scene, with_changes(scene.world.config, {"poll_interval_s": 0.4}, {}))
    blow.replaced = ids(*known)
    return blow


def _told_to_stop(scene: Scene, config: dict[str, Any]) -> Blow:
    """Deploy a config under long jobs, and see denoisers hand on what they hold when Serve tells them to stop."""
    scene.client.accept(LONG_ONES, kind=0, priority=Priority.HIGH)  # Serve takes its time to begin
    scene.all_denoisers_busy()
    blow = Blow(time.time(), [], "", scene.loaded(), again=False, told_to_stop=True)
    scene.world.deploy(config)
    until(lambda: bool(_moved_on(scene, blow.at)), "a job that migrates", MIGRATION_S, every_s=0.3)
    blow.held = _moved_on(scene, blow.at)
    blow.moments.update({each.job_id: _given_up(scene, blow.at)[each.job_id] for each in blow.held})
    return blow


def _given_up(scene: Scene, since: float) -> dict[str, float]:
    """When jobs last migrated to another denoiser or given back by their conductor, by the log."""
    lines = [line for way in ("job.migrated", "job.released") for line in logged(scene.world, way)]
    moments = sorted((line["timestamp_ns"] / 1e9, line["job_id"]) for line in lines)
    return {job_id: at for at, job_id in moments if at > since}


def _moved_on(scene: Scene, since: float) -> list[Held]:
    """Of the jobs that were given up those that were being denoised, as they stood."""
    found = []
    for job_id, at in _given_up(scene, since).items():
        before = [event for event in scene.timeline.of(job_id) if event.at <= at and event.step]
        if before:
            num_steps = scene.num_steps(job_id)
            found.append(Held(job_id, Stage.DENOISE, None, "", before[-1].attempts, before[-1].step, num_steps, 0))
    return found


def _at(stage: Stage) -> ColumnElement[bool]:
    """The jobs at a stage that one replica does. The row names no replica: the work on it takes some milliseconds."""
    return jobs.c.stage == stage


def _quick(scene: Scene, deployment: str, stage: Stage) -> Blow:
    """Strike the only replica of a stage whose work on a job takes some milliseconds."""
    (replica,) = scene.world.running(deployment)
    moment: list[tuple[float, int]] = []

    def strike(pid: int) -> None:
        moment.append((time.time(), scene.loaded()))
        kill(pid)

    caught = hunt(
        lambda: kill_in_the_act(scene.world.database, _at(stage), replica, strike),
        scene.keep_loaded, f"{deployment} with a job", every_s=0.002,
    )  # fmt: skip
    return Blow(moment[0][0], caught, "stopped at its work, then killed", moment[0][1], replaced=ids(replica))


def _unfinished(videos: Path) -> set[str]:
    """Jobs some of whose files are there and whose video is not."""
    if not videos.is_dir():
        return set()
    return {folder.name for folder in videos.iterdir() if not (folder / "video.mp4").exists()}


def _other_controller(scene: Scene, before: int) -> bool:
    try:
        return scene.world.controller_pid != before
    except ValueError:
        return False  # none, for the moment


def _shown(name: str) -> str:
    return ".partial-*" if name.startswith(".partial-") else name


ROUNDS: Sequence[tuple[str, Callable[[Scene], Blow]]] = (
    ("a denoiser, mid-step", denoiser),
    ("a decoder", decoder),
    ("a text encoder", text_encoder),
    ("a publisher, mid-upload", publisher),
    ("a conductor", conductor),
    ("an API replica, mid-POST", api),
    ("the Serve controller", controller),
    ("a worker node", node),
    ("the PostgreSQL server", database),
    ("every process of the service", everything),
    ("no kill: a busy denoiser scaled in", scale_in),
    ("no kill: `serve deploy` of another config", redeploy),
)
