"""`kinoray serve`: the service in the foreground."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cli.job_store import check_job_store
from cli.pins import pinned_card
from cli.service import StartFailed, default_config, run_service
from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import data_dir, load_settings
from pipelines.card import ModelCard
from pipelines.errors import WeightsUnavailable
from pipelines.weights.prefetch import prefetch


def run_forever(console: Console, path: Path | None) -> None:
    """Start the service and wait for SIGINT or SIGTERM.

    Raises:
        StartFailed: no model can be served.
    """
    path = path or default_config()
    config = load_config(path)
    check_job_store()
    told: set[str] = set()

    def say(sentence: str) -> None:
        if sentence not in told:  # a checkpoint that cannot be fetched cannot be loaded either, for the same reason
            told.add(sentence)
            console.print(f"[red]cannot start:[/] {escape(sentence)}", emoji=False, soft_wrap=True)

    for application in config["applications"]:
        fetch_all(load_settings(application.get("args") or {}).cards().values(), say)
    console.print(f"Starting Kinoray from {path} ...")
    try:
        with run_service(config, data=data_dir(), dashboard=True, show_logs=True, on_failed=say) as url:
            console.print(f"Kinoray listens on {url} (docs on {url}/docs). Ctrl-C stops it.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        console.print("Stopped.")


def fetch_all(cards: Iterable[ModelCard], say: Callable[[str], None]) -> None:
    """Fetch what is missing of each model, so that no replica has to; say what is wrong with one, and go on.

    Raises:
        StartFailed: nothing can be fetched or found of any model.
    """
    cards = list(cards)
    wrong: list[str] = []
    for card in cards:
        try:
            prefetch(pinned_card(card, say))
        except WeightsUnavailable as error:
            say(error.message)
            wrong.append(error.message)
    if len(wrong) == len(cards):
        raise StartFailed(f"no model can be served: {'; '.join(dict.fromkeys(wrong))}")
