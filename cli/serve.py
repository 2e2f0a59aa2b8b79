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
"""How long nothing is said of stages that load, at first and between two times."""


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
            on_waiting=loading,
            on_failed=say,
        ) as url:
            console.print(f"Kinoray listens on {url} (docs on {url}/docs). Ctrl-C stops it.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        console.print("Stopped.")


class Loading:
    """Says which stages still load: when those have changed, and not too often."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._said: list[str] = []
        self._quiet_until = clock() + QUIET_S

    def __call__(self, stages: list[str]) -> None:
        if stages != self._said and self._clock() >= self._quiet_until:
            self._said, self._quiet_until = stages, self._clock() + QUIET_S
            self._say(f"still loading: {', '.join(stages)}")
