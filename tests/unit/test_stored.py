"""Values in a job's row, read and written by two versions of the code that know different keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from deployments.http.queue_view import Place
from deployments.http.schemas import Video
from jobs.stored import Checkpoint, Checkpoints, Fingerprint, ResultMetadata
from pipelines.catalogue import get_card
from pipelines.output import Output
from pipelines.requests import read_parameters
from pipelines.stages import Stage
from pipelines.strict import StrictModel, read_stored
from tests.unit.conftest import Jobs, new_job

MADE_OF = Fingerprint(input="i", revision="r", state="s")


def checkpoint(step: int = 3, **values: Any) -> Checkpoint:
    return Checkpoint(
        **{"key": f"k{step}", "step": step, "final": False, "seconds": 1.5, "fingerprint": MADE_OF, **values}
    )


def test_what_is_none_is_not_written_and_everything_comes_back() -> None:
    made = Checkpoints(nodes={"denoise": checkpoint(final=True, result_metadata=ResultMetadata(device="cpu"))})
    written = made.written()
    assert written["nodes"]["denoise"]["result_metadata"] == {"device": "cpu"}  # type: ignore[index]
    assert Checkpoints.read(json.loads(json.dumps(written))) == made


def test_keys_of_another_version_stay() -> None:
    data = Checkpoints(nodes={"denoise": checkpoint()}).written()
    data["nodes"]["denoise"]["peak_bytes"] = 7  # type: ignore[index]
    data["hint"] = "later"
    again = Checkpoints.read(data).with_commit("denoise.2", checkpoint(), ["denoise.2"]).written()
    assert again["nodes"]["denoise"]["peak_bytes"] == 7  # type: ignore[index]
    assert again["hint"] == "later"
    measured = ResultMetadata.read({"device": "cuda", "peak_bytes": 7})
    assert measured.updated(ResultMetadata(frames=9)).written() == {"device": "cuda", "frames": 9, "peak_bytes": 7}
    assert measured.updated(ResultMetadata(device="cpu")).device == "cpu"


def test_another_format_is_no_checkpoint() -> None:
    before = {"key": "k", "step": 3, "final": True, "seconds": 1.0, "result_metadata": {}}
    for data in (
        before,
        {**Checkpoints(nodes={"denoise": checkpoint()}).written(), "version": 2, "nodes": "elsewhere"},
    ):
        assert Checkpoints.read(data) == Checkpoints()


def test_a_job_needs_no_denoiser_once_all_latents_that_it_needs_are_finished() -> None:
    both = ["denoise", "denoise.2"]
    second = Checkpoints().with_commit("denoise.2", checkpoint(final=True), both)
    assert not second.final, "the write of the first one was lost"
    done = second.with_commit("denoise", checkpoint(final=True), both)
    assert done.final
    assert not done.with_commit("denoise", checkpoint(), both).final, "it is made again"
    assert not done.without("denoise").final
    assert done.without("denoise").nodes.keys() == {"denoise.2"}


def test_a_row_that_cannot_be_read_hurts_no_other(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    broken, other = jobs.accept(), jobs.accept()
    wrong = {"version": 1, "final": True, "nodes": {"denoise": {"key": "k"}}}
    with jobs.database.write() as connection:
        update = text("UPDATE jobs SET checkpoint = :checkpoint, result_metadata = :metadata WHERE id = :id")
        metadata = {"frames": "many", "device": "cpu"}
        values = {"checkpoint": json.dumps(wrong), "metadata": json.dumps(metadata), "id": broken.id}
        connection.execute(update, values)
    taken = {job.id: job for job, _ in (jobs.take(), jobs.take())}
    assert taken.keys() == {broken.id, other.id}
    assert taken[broken.id].checkpoint == Checkpoints()
    assert taken[broken.id].result_metadata == ResultMetadata(device="cpu")
    assert "cannot read nodes" in caplog.text
    assert "cannot read frames" in caplog.text


def test_a_fingerprint_says_what_differs() -> None:
    assert MADE_OF.differences(MADE_OF) == []
    assert MADE_OF.differences(Fingerprint(input="i", revision="x", state="y")) == ["revision", "state"]


def test_a_row_of_a_newer_release_can_be_read_paged_and_finished(jobs: Jobs) -> None:
    """A rollback meets rows with keys, stages and parameters of the newer release."""
    work = {"text_encode": 1.0, "upsample": 2.0, "denoise": 4.0}
    job = jobs.accept(work=work, parameters={"family": "ltx", "seed": 1})
    _, token = jobs.take()
    newer = {
        "stage": "upsample",
        "result_metadata": json.dumps({"device": "cuda", "peak_bytes": 7}),
        "output": json.dumps({"crf": 20, "codec": "av1"}),
    }
    with jobs.database.write() as connection:
        columns = ", ".join(f"{name} = :{name}" for name in newer)
        connection.execute(text(f"UPDATE jobs SET {columns} WHERE id = :id"), {**newer, "id": job.id})
    found = jobs.get(job)
    assert found.stage is None
    assert found.work == work
    assert read_stored(Output, found.output) == Output(crf=20)
    assert [each.id for each in jobs.store.page(after=None, limit=5, newest_first=True)[0]] == [job.id]
    assert jobs.store.working("m") == {}
    assert jobs.complete(token, {"denoise": 2.0, "upsample": 1.0}, found.result_metadata)
    assert jobs.get(job).result_metadata.written() == {"device": "cuda", "peak_bytes": 7}
    assert jobs.get(job).output == {"crf": 20, "codec": "av1"}
    assert set(jobs.store.lines("m")) == {Stage.DENOISE}


def test_parameters_of_a_newer_release_have_no_effect_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    known = get_card("ltx-tiny").default_parameters()
    assert read_parameters({**known.model_dump(mode="json"), "lighting": 1.0}) == known
    assert "lighting" in caplog.text


class Inner(StrictModel):
    known: int


class Outer(StrictModel):
    inner: Inner
    many: tuple[Inner, ...] = ()


def test_unknown_keys_have_no_effect_at_any_depth(caplog: pytest.LogCaptureFixture) -> None:
    data = {"inner": {"known": 1, "new": 2}, "many": [{"known": 3}, {"known": 4, "newer": 5}], "newest": 6}
    assert read_stored(Outer, data) == Outer(inner=Inner(known=1), many=(Inner(known=3), Inner(known=4)))
    assert data["newest"] == 6, "the record itself is left alone"
    assert "inner.new, many.1.newer, newest" in caplog.text
    with pytest.raises(ValidationError):
        read_stored(Outer, {"inner": {"new": 2}})


def test_a_job_of_a_family_that_is_not_there_is_still_shown() -> None:
    parameters = {"family": "gone", "width": 64, "height": 32, "num_frames": 12, "fps": 8, "seed": 5}
    shown = Video.of(new_job(parameters=parameters), Place(), {})
    assert (shown.size, shown.seconds, shown.seed, shown.parameters) == ("64x32", "1.5", 5, parameters)


ONE, TWO = "1" * 40, "2" * 40


def test_a_result_names_one_revision_where_all_components_agree() -> None:
    first = ResultMetadata(prompt_truncated=True).updated(ResultMetadata(revisions={"text_encoder": ONE}))
    assert (first.model_revision, first.prompt_truncated) == (ONE, True)
    both = first.updated(ResultMetadata(revisions={"transformer": ONE, "scheduler": ONE}))
    assert both.model_revision == ONE
    assert both.revisions == {"text_encoder": ONE, "transformer": ONE, "scheduler": ONE}
    assert both.updated(ResultMetadata(frames=9)).model_revision == ONE


def test_a_result_names_each_component_where_they_differ() -> None:
    made = ResultMetadata(revisions={"vae": TWO}).updated(ResultMetadata(revisions={"transformer": ONE}))
    assert made.model_revision == f"transformer={ONE},vae={TWO}"
    later = made.updated(ResultMetadata(revisions={"vae": ONE}))
    assert later.model_revision == ONE, "the last that was used"


def test_a_family_without_checkpoints_keeps_the_revision_that_it_says() -> None:
    said = ResultMetadata().updated(ResultMetadata(model_revision="toy-1")).updated(ResultMetadata(frames=9))
    assert (said.model_revision, said.revisions) == ("toy-1", None)
