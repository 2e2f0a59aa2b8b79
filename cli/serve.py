"""`kinoray serve`: the service in the foreground."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cli.adopt import refuse_foreign_artifacts
from cli.fetching import fetch_all
from cli.job_store import check_job_store
from cli.service import default_config, run_service
from deployments.configuration.serve_config import load_config, served_cards
from deployments.configuration.settings import require_data_dir, require_webhook_secret, webhook_secret

QUIET_S = 15.0
"""How long nothing is said while nothing becomes ready."""


def run_forever(console: Console, path: Path | None) -> None:
    """Start the service and wait for SIGINT or SIGTERM.

    Raises:
        StartFailed: no model can be served.
    """
    path = path or default_config()
    config = load_config(path)
    require_webhook_secret(webhook_secret())
    check_job_store()
    refuse_foreign_artifacts(path)
    told: set[str] = set()

    def say(sentence: str) -> None:
        if sentence not in told:  # a checkpoint that cannot be fetched cannot be loaded either, for the same reason
            told.add(sentence)
            console.print(f"[red]cannot start:[/] {escape(sentence)}", emoji=False, soft_wrap=True)

    fetch_all(served_cards(config), say)
    console.print(f"Starting Kinoray from {path} ...")
    loading = Loading(lambda sentence: console.print(sentence, markup=False, soft_wrap=True))
    try:
        with run_service(
            config,
            data=require_data_dir(),
            dashboard=True,
            show_logs=True,
            keep_waiting=True,
            on_waiting=loading.waiting,
            on_ready=loading.ready,
            on_failed=say,
        ) as url:
            console.print(f"Kinoray listens on {url} (docs on {url}/docs). Ctrl-C stops it.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        console.print("Stopped.")


class Loading:
    """Says of each stage when it is ready, and now and then which still load."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._began_at = clock()
        self._quiet_until = self._began_at + QUIET_S

    def waiting(self, stages: list[str]) -> None:
        """Report what still loads."""
        if self._clock() >= self._quiet_until:
            self._tell(f"still loading after {self._seconds}: {', '.join(stages)}")

    def ready(self, stage: str) -> None:
        """Report that a stage takes calls."""
        self._tell(f"{stage} is ready after {self._seconds}")

    @property
    def _seconds(self) -> str:
        return f"{self._clock() - self._began_at:.0f} s"

    def _tell(self, sentence: str) -> None:
        self._quiet_until = self._clock() + QUIET_S
        self._say(sentence)
