"""`kinoray serve`: the service in the foreground."""

from __future__ import annotations

import signal
from pathlib import Path

from rich.console import Console

from cli.job_store import check_job_store
from cli.service import default_config, run_service
from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import data_dir, load_settings
from pipelines.weights import prefetch


def run_forever(console: Console, path: Path | None) -> None:
    """Start the service and wait for SIGINT or SIGTERM."""
    path = path or default_config()
    config = load_config(path)
    for application in config["applications"]:
        for card in load_settings(application.get("args") or {}).cards().values():
            prefetch(card)  # a missing checkpoint is an error message now, not a replica that dies later
    check_job_store()
    console.print(f"Starting Kinoray from {path} ...")
    try:
        with run_service(config, data=data_dir(), dashboard=True, show_logs=True) as url:
            console.print(f"Kinoray listens on {url} (docs on {url}/docs). Ctrl-C stops it.")
            while True:
                signal.pause()
    except KeyboardInterrupt:
        console.print("Stopped.")
