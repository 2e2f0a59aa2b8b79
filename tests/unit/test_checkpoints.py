"""A denoiser's commits: real states of a real family, a real store and both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from cli.service import free_port
from deployments import metrics
from deployments.stages.checkpoints import Commits, Writer, read_committed
from deployments.stages.messages import CheckpointRef, DenoiseRequest, Stopped
from jobs.record import Job
from jobs.stored import Checkpoint, Fingerprint, ResultMetadata
from pipelines.catalogue import get_card
from pipelines.errors import LatentsLost
from pipelines.ltx.outputs import DenoiseState, FinalLatents
from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.folder import FolderStore
from storage.keys import checkpoint_prefix
from storage.settings import BucketSettings
from storage.store import open_checkpoints
from tests.unit.conftest import Jobs

WRITER = Writer()


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def observe(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(metrics, "checkpoint_seconds", Silent)


@pytest.fixture
def artifacts(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "artifacts")


def state(step: int) -> DenoiseState:
    return DenoiseState(torch.full((1, 4, 2), float(step)), step, torch.Generator("cpu").get_state())


def request(job: Job, token: str, checkpoint: Checkpoint | None = None) -> DenoiseRequest:
    return DenoiseRequest(
        job_id=job.id, model=job.model, node="denoise", parameters=get_card("ltx-tiny").default_parameters(),
        needed=frozenset({"denoise"}), input="x", token=token, denoiser="d1", checkpoint=checkpoint,
        revisions={},
    )  # fmt: skip


def commits(
    jobs: Jobs,
    artifacts: ArtifactStore,
    of: DenoiseRequest,
    every_s: float = 5,
    revision: str = "r1",
    state: str = "DenoiseState 1",
) -> Commits:
    fingerprint = Fingerprint(input=of.input, revision=revision, state=state)
    return Commits(jobs.leases, artifacts, of, fingerprint, every_s, WRITER)


def write(held: Commits, value: DenoiseState | FinalLatents, step: int, **result_metadata: str) -> None:
    if isinstance(value, FinalLatents):
        held.save_final(value, step, ResultMetadata.read(result_metadata))
    else:
        held.save(value, step)
    WRITER.wait()


def of_denoise(job: Job) -> Checkpoint:
    """The checkpoint that a claimed job comes with."""
    assert job.checkpoint is not None
    return job.checkpoint.nodes["denoise"]


def final() -> FinalLatents:
    return FinalLatents(torch.randn(1, 2, 3, 4, 5), torch.Generator("cpu").get_state())


def test_another_replica_goes_on_from_the_last_commit(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take()
    first = commits(jobs, artifacts, request(job, token))
    assert first.resume(DenoiseState) is None
    write(first, state(3), 3)
    write(first, state(7), 7)
    assert len(list(artifacts.list(checkpoint_prefix(job.id)))) == 1, "only the last one is kept"
    jobs.leases.release(token)
    job, token = jobs.take(owner="c2")
    before = of_denoise(job)
    second = commits(jobs, artifacts, request(job, token, before))
    resumed = second.resume(DenoiseState)
    assert resumed is not None
    assert (resumed.step, float(resumed.latents[0, 0, 0])) == (7, 7.0)
    write(second, state(9), 9)
    after = jobs.leases.checkpoint(token, "denoise")
    assert after is not None
    assert after.seconds >= before.seconds, "the work of both replicas counts"


def test_without_the_lease_nothing_is_recorded_and_nothing_is_left(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, old = jobs.take(lease_s=-1)
    _, new = jobs.take(owner="c2")
    successor = commits(jobs, artifacts, request(job, new))
    write(successor, state(5), 5)
    write(commits(jobs, artifacts, request(job, old)), state(5), 5)
    recorded = jobs.leases.checkpoint(new, "denoise")
    assert recorded is not None
    assert list(artifacts.list(checkpoint_prefix(job.id))) == [recorded.key]


def test_a_denoiser_stops_once_nobody_renews_its_lease(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take(lease_s=60)
    held = commits(jobs, artifacts, request(job, token))
    held.require_lease()
    jobs.store.cancel(job.id)
    held.require_lease()  # what the store said still holds: it is not asked at every step
    for lost in (token, "another"):
        with pytest.raises(Stopped):
            commits(jobs, artifacts, request(job, lost)).require_lease()


def test_an_expired_lease_that_was_renewed_meanwhile_goes_on(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take(lease_s=-1)
    held = commits(jobs, artifacts, request(job, token))
    with pytest.raises(Stopped):
        held.require_lease()
    jobs.leases.renew({token}, 60)
    held.require_lease()


def test_it_is_time_for_a_checkpoint_when_so_much_work_is_uncommitted(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take()
    assert not commits(jobs, artifacts, request(job, token), every_s=60).due()
    eager = commits(jobs, artifacts, request(job, token), every_s=0)
    assert eager.due()


def test_an_outage_costs_a_checkpoint_and_not_the_render(
    jobs: Jobs, artifacts: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.accept()
    job, token = jobs.take()
    held = commits(jobs, artifacts, request(job, token))

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(artifacts, "put", full)
    write(held, state(3), 3)
    assert jobs.leases.checkpoint(token, "denoise") is None
    monkeypatch.undo()
    write(held, state(4), 4)
    assert jobs.leases.checkpoint(token, "denoise") is not None


def test_a_slow_store_does_not_hold_up_the_render(
    jobs: Jobs, artifacts: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.accept()
    job, token = jobs.take()
    held = commits(jobs, artifacts, request(job, token), every_s=0)
    put, answers = artifacts.put, Event()

    def slow(*values: Any) -> None:
        assert answers.wait(10)
        put(*values)

    monkeypatch.setattr(artifacts, "put", slow)
    held.save(state(3), 3)
    assert not held.due(), "one is being written"
    assert jobs.leases.checkpoint(token, "denoise") is None
    answers.set()
    write(held, final(), 9)  # which waits for the one before
    checkpoint = jobs.leases.checkpoint(token, "denoise")
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.final) == (9, True)
    assert [checkpoint.key] == list(artifacts.list(checkpoint_prefix(job.id)))
    assert held.due()


@pytest.mark.parametrize("damage", ["gone", "of another version", "cut off"])
def test_what_cannot_be_read_is_made_again(jobs: Jobs, artifacts: FolderStore, damage: str) -> None:
    jobs.accept()
    job, token = jobs.take()
    write(commits(jobs, artifacts, request(job, token)), state(3), 3)
    checkpoint = jobs.leases.checkpoint(token, "denoise")
    assert checkpoint is not None
    key = checkpoint.key
    if damage == "gone":
        artifacts.delete(key)
    else:
        artifacts.put(key, artifacts.get(key)[:-4] if damage == "cut off" else b"\2\0\0\0\0\0\0\0{}")
    assert commits(jobs, artifacts, request(job, token, checkpoint)).resume(DenoiseState) is None
    with pytest.raises(LatentsLost):
        read_committed(artifacts, CheckpointRef(key), FinalLatents)


def test_final_latents_are_read_back_as_they_were(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take()
    latents = final()
    write(commits(jobs, artifacts, request(job, token)), latents, 9, device="cpu")
    checkpoint = jobs.leases.checkpoint(token, "denoise")
    assert checkpoint is not None
    assert (checkpoint.final, checkpoint.step, checkpoint.result_metadata.device) == (True, 9, "cpu")
    back = read_committed(artifacts, CheckpointRef(checkpoint.key), FinalLatents)
    assert torch.equal(back.latents, latents.latents)


def test_a_render_goes_on_from_its_nodes_spool_while_the_bucket_is_away(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    nobody = BucketSettings(name="videos", endpoint_url=f"http://127.0.0.1:{free_port()}", path_style=True)
    here, elsewhere = (open_checkpoints(nobody, tmp_path / node) for node in ("here", "elsewhere"))
    jobs.accept()
    job, token = jobs.take()
    write(commits(jobs, here, request(job, token)), state(7), 7)
    jobs.leases.release(token)
    job, token = jobs.take(owner="c2")
    resumed = commits(jobs, here, request(job, token, of_denoise(job))).resume(DenoiseState)
    assert resumed is not None
    assert resumed.step == 7
    with pytest.raises(StorageUnavailable):  # which postpones the job: it may be in the bucket
        commits(jobs, elsewhere, request(job, token, of_denoise(job))).resume(DenoiseState)


@pytest.mark.parametrize(
    ("differs", "said"), [({"revision": "r2"}, "another revision"), ({"state": "DenoiseState 2"}, "another state")]
)
def test_a_checkpoint_of_something_else_is_made_again(
    jobs: Jobs, artifacts: FolderStore, caplog: pytest.LogCaptureFixture, differs: dict[str, str], said: str
) -> None:
    jobs.accept()
    job, token = jobs.take()
    write(commits(jobs, artifacts, request(job, token)), state(3), 3)
    checkpoint = jobs.leases.checkpoint(token, "denoise")
    assert checkpoint is not None
    of = request(job, token, checkpoint.model_copy(update={"seconds": 1000.0}))
    assert commits(jobs, artifacts, of).resume(DenoiseState) is not None
    second = commits(
        jobs, artifacts, of, revision=differs.get("revision", "r1"), state=differs.get("state", "DenoiseState 1")
    )
    assert second.resume(DenoiseState) is None
    assert said in caplog.text
    assert commits(jobs, artifacts, replace(of, input="y")).resume(DenoiseState) is None
    write(second, state(4), 4)
    again = jobs.leases.checkpoint(token, "denoise")
    assert again is not None
    assert again.step == 4, "and the next commit takes its place"
    assert again.seconds < 1000, "what was thrown away does not count"
    assert list(artifacts.list(checkpoint_prefix(job.id))) == [again.key]


def test_each_denoise_of_a_job_keeps_its_own_commits(jobs: Jobs, artifacts: FolderStore) -> None:
    jobs.accept()
    job, token = jobs.take()
    both = frozenset({"denoise", "denoise.2"})
    first = replace(request(job, token), needed=both)
    second = replace(first, node="denoise.2")
    write(commits(jobs, artifacts, first), final(), 9)
    assert not jobs.get(job).checkpoint.final, "it needs a denoiser again"  # type: ignore[union-attr]
    write(commits(jobs, artifacts, second), state(2), 2)
    jobs.leases.release(token)
    job, token = jobs.take()
    assert job.checkpoint is not None
    assert {name: each.step for name, each in job.checkpoint.nodes.items()} == {"denoise": 9, "denoise.2": 2}
    write(commits(jobs, artifacts, replace(second, token=token)), final(), 4)
    jobs.leases.forget_checkpoint(token, "denoise")
    found = jobs.get(job).checkpoint
    assert found is not None
    assert (list(found.nodes), found.final) == (["denoise.2"], False)
