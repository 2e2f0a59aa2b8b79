"""Plans against what queueing theory says."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.plan import run_plan
from cli.planning import StagePlan, plan, simulate
from jobs.database import Database, open_database, sqlite_url
from pipelines.errors import ConfigError
from pipelines.paths import ROOT
from pipelines.simulated.timings import GPUS, measured
from pipelines.stages import Stage
from tests.unit.conftest import Jobs

SECONDS = {Stage.TEXT_ENCODE: 0.1, Stage.DENOISE: 20.0, Stage.DECODE: 2.0}


@pytest.mark.parametrize("utilisation", [0.3, 0.7, 0.9])
def test_one_queue_waits_as_long_as_pollaczek_and_khinchine_say(utilisation: float) -> None:
    (waits,) = simulate(utilisation, [StagePlan(Stage.DENOISE, 1.0, 1)], jobs=200_000)
    assert statistics.mean(waits) == pytest.approx(utilisation / (2 * (1 - utilisation)), rel=0.05)


def test_a_rate_gets_the_fewest_replicas_that_are_not_too_busy() -> None:
    made = plan(0.5, SECONDS, busy=0.8)
    assert [stage.replicas for stage in made.stages] == [1, 13, 2]
    assert all(stage.utilisation(0.5) <= 0.8 for stage in made.stages)
    assert made.stages[1].utilisation(0.5) > 0.8 * 12 / 13
    assert 22.1 <= made.p50_s < made.p95_s


def test_more_are_added_until_the_videos_are_in_time() -> None:
    made = plan(2 / 60, SECONDS, busy=0.8, within_s=45)
    assert made.p95_s <= 45
    assert [stage.replicas for stage in made.stages] == [1, 2, 1], "where they wait"
    assert plan(2 / 60, SECONDS, busy=0.8).p95_s > 45
    slow_decoder = {**SECONDS, Stage.DENOISE: 2.0, Stage.DECODE: 20.0}
    assert [stage.replicas for stage in plan(2 / 60, slow_decoder, busy=0.8, within_s=45).stages] == [1, 1, 2]


def test_what_no_cluster_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one job alone takes 22\.1 s"):
        plan(1.0, SECONDS, busy=0.8, within_s=22)


def run(**options: Any) -> str:
    """What `./kinoray plan` prints."""
    console = Console(file=StringIO(), width=120)
    given: dict[str, Any] = {
        "rate": "30/min", "model": "ltx-video-0.9.5", "config": ROOT / "configs/cluster.yaml", "busy": 0.8, "gpu": None,
        "seconds": [f"{stage}={seconds}" for stage, seconds in SECONDS.items()], "within_s": None, "gpu_hour": 2.5,
        **options,
    }  # fmt: skip
    run_plan(console, **given)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Database]:
    url = sqlite_url(tmp_path / "jobs.sqlite3")
    monkeypatch.setenv("KINORAY_DATABASE_URL", url)
    with open_database(url) as database:
        yield database


def test_the_command_counts_gpus_and_money(store: Database) -> None:  # noqa: ARG001 an empty one
    printed = run()
    assert "│ denoise     │ 20.00   │ 13       │ 77%  │ 13   │" in printed
    assert "│ decode      │ 2.00    │ 2        │ 50%  │ 0.8  │" in printed
    assert "14.4 GPUs at 2.5 an hour: 0.0200 for each video" in printed  # 14.4 x 2.5 / 3600 s / 0.5 a second


def test_the_command_goes_by_what_the_job_store_has_measured(store: Database) -> None:
    with pytest.raises(ConfigError, match="say how long a stage takes: --seconds text_encode=SECONDS"):
        run(seconds=[])
    jobs = Jobs(store)
    jobs.accept(model="ltx-video-0.9.5", work=dict.fromkeys(Stage, 1.0))
    _, token = jobs.take(model="ltx-video-0.9.5")
    assert jobs.complete(token, {"text_encode": 0.1, "denoise": 30.0, "decode": 1.0, "publish": 0.1})
    assert "│ denoise     │ 30.00   │ 19 " in run(seconds=[])
    assert "│ denoise     │ 4.00    │ 3 " in run(seconds=["denoise=4"])


def test_the_command_goes_by_a_gpu_that_was_measured(store: Database) -> None:  # noqa: ARG001 an empty one
    timings = measured("h200", "ltx-video-0.9.5")
    assert timings.passes_per_step == 2, "measured without spatio-temporal guidance"
    assert f"│ denoise     │ {40 * 3 / 2 * timings.step.fixed_s:.2f} " in run(gpu="h200", seconds=[])
    assert "│ denoise     │ 4.00 " in run(gpu="h200", seconds=["denoise=4"])


def test_timings_that_do_not_say_their_passes_are_of_the_models_own_video(
    store: Database,  # noqa: ARG001 an empty one
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    timings = measured("h200", "ltx-video-0.9.5")
    older = (GPUS / "h200.yaml").read_text().replace("    passes_per_step: 2\n", "")
    (tmp_path / "h200.yaml").write_text(older)
    monkeypatch.setattr("pipelines.simulated.timings.GPUS", tmp_path)
    assert measured("h200", "ltx-video-0.9.5").passes_per_step is None
    assert f"│ denoise     │ {40 * timings.step.fixed_s:.2f} " in run(gpu="h200", seconds=[])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": "2min"}, "such as 2/min"),
        ({"rate": "0/min"}, "such as 2/min"),
        ({"seconds": ["vae=1"]}, "the stages are text_encode, denoise, decode"),
        ({"model": "svd"}, "serves no model 'svd'"),
        ({"gpu": "abacus"}, "no GPU 'abacus'"),
        ({"within_s": 10}, "--within: one job alone takes"),
    ],
)
def test_a_wrong_word_gets_a_sentence(store: Database, options: dict[str, Any], says: str) -> None:  # noqa: ARG001
    with pytest.raises(ConfigError, match=says):
        run(**options)
