"""`kinoray adopt`: give the artifacts of a job store that is gone to the one in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cli.job_store import opened
from deployments.configuration.serve_config import load_config
from deployments.configuration.settings import data_dir, load_settings
from deployments.housekeeping.sweeper import Sweeper
from jobs.retention import Retention
from pipelines.errors import ConfigError
from storage.artifacts import ArtifactStore
from storage.errors import ObjectDamaged, StorageUnavailable
from storage.owner import ForeignArtifacts, adopt, owner_of
from storage.settings import BucketSettings
from storage.store import open_store, refuse_foreign


def bucket_of(config: Path) -> BucketSettings | None:
    """The bucket that a config file names. Raises ConfigError."""
    (application,) = load_config(config)["applications"]
    return load_settings(application.get("args", {})).bucket


def refuse_foreign_artifacts(config: Path) -> None:
    """See, before anything starts, that the artifacts are not another job store's. Raises ConfigError."""
    bucket = bucket_of(config)
    with opened() as database:
        try:
            refuse_foreign(bucket, data_dir(), Retention(database).store_id())
        except ForeignArtifacts as foreign:
            raise ConfigError(str(foreign)) from None


def adopt_artifacts(console: Console, config: Path, agreed: Callable[[str], bool]) -> None:
    """Say whose the artifacts are and what would be deleted of them; take them over once `agreed`.

    Raises:
        ConfigError: a store cannot be used.
    """

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    bucket = bucket_of(config)
    place = f"in the bucket {bucket.name}, under {bucket.prefix or 'no prefix'}" if bucket else f"in {data_dir()}"
    with opened() as database:
        artifacts, ours = open_store(bucket, data_dir()), Retention(database).store_id()
        try:
            owner = _named_owner(artifacts)
            if owner == ours:
                say(f"the artifacts {place} are already this job store's, {ours}")
                return
            sweeper = Sweeper(database, artifacts)
            videos, checkpoints = sweeper.orphans(older_than_s=0), sweeper.outdated_checkpoints()
            say(f"the artifacts {place} belong to {f'the job store {owner}' if owner else 'no job store yet'}")
            say(
                f"this job store, {ours}, has no job for {len(videos)} folders of videos and inputs among them, nor a"
                f" live one for {len(checkpoints)} of checkpoints: its sweeper will delete those"
            )
            if not agreed("Take them over?"):
                raise ConfigError("nothing was changed")
            adopt(artifacts, ours)
        except StorageUnavailable as error:
            raise ConfigError(f"the artifacts {place} cannot be used: {error}") from None
    say(f"the artifacts {place} are now this job store's, {ours}; start the service")


def _named_owner(artifacts: ArtifactStore) -> str | None:
    try:
        return owner_of(artifacts)
    except ObjectDamaged:
        return "whose name cannot be read"
