"""An operator's commands for a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import load_settings
from pipelines.errors import ConfigError
from storage.bucket_setup import BucketSetup
from storage.errors import StorageUnavailable


def set_up(config: Path) -> list[str]:
    """Create the bucket of a config file and set its rules; returns what was done. Raises ConfigError."""
    with _setup(config) as setup:
        return setup.init()


def check(console: Console, config: Path) -> None:
    """Print the service's permissions in its bucket. Raises ConfigError when one is missing."""
    with _setup(config) as setup:
        findings = list(setup.check())
    for each in findings:
        console.print(f"[green]yes[/]  {each.permission}" if each.problem is None else f"[red]no[/]   {each.problem}")
    if missing := [each.permission for each in findings if each.problem is not None]:
        raise ConfigError(f"the service cannot work with this bucket: it lacks {', '.join(missing)}")


@contextmanager
def _setup(config: Path) -> Iterator[BucketSetup]:
    (application,) = load_config(config)["applications"]
    settings = load_settings(application.get("args", {})).bucket
    if settings is None:
        raise ConfigError(f"{config} names no bucket; its files stay in KINORAY_DATA")
    try:
        yield BucketSetup(settings)
    except StorageUnavailable as error:
        raise ConfigError(f"the bucket {settings.name} cannot be used: {error}") from None
