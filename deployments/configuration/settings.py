"""The application's `args`: one strict model. The environment carries only secrets and `KINORAY_DATA`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from deployments.configuration.api_keys import ApiKeys
from jobs.database import sqlite_url
from pipelines.catalogue import ModelCard, get_card
from pipelines.errors import ConfigError
from pipelines.paths import ROOT
from pipelines.strict import StrictModel
from storage.settings import BucketSettings

TEN_YEARS_S = 10 * 365 * 24 * 3600


class Threads(StrictModel):
    """CPU threads of each stage. On a CPU they are part of what "same seed, same bytes" depends on."""

    text_encode: int = Field(default=1, ge=1)
    image_encode: int = Field(default=1, ge=1)
    denoise: int = Field(default=2, ge=1)
    decode: int = Field(default=2, ge=1)
    video_encode: int = Field(default=1, ge=1)


class Settings(StrictModel):
    """What an operator decides about the application; hardware and replicas are the config file's `deployments`."""

    # A key that was pasted where its hash belongs must not come back in a traceback.
    model_config = ConfigDict(hide_input_in_errors=True)

    models: tuple[str, ...] = Field(default=("ltx-tiny",), min_length=1)
    """Ids from configs/models/. The first is used when a request names none."""
    threads: Threads = Threads()
    look_ahead: int = Field(default=1, ge=1)
    """Jobs of a model that are made ready beyond what its denoisers work on, so that none waits for an encoder; at
    least as many as it has denoisers, since all may end at once."""
    preempt_after_s: float | None = Field(default=5, gt=0)
    """A job of a higher class that has waited so long gets the denoiser of one of a lower class, which goes on later
    from the step it had reached. None: it waits until one is free."""
    lease_s: float = Field(default=15, gt=0)
    """A conductor that has not renewed its lease for so long is taken for dead."""
    checkpoint_every_s: float = Field(default=5, gt=0)
    """How many seconds of denoising a killed replica may cost."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a job is tried before it fails."""
    poll_interval_s: float = Field(default=0.5, gt=0)
    """How often a conductor looks for work that nobody told it about."""
    step_timeout_s: float = Field(default=600, gt=0)
    """A stage that shows no sign of life for so long fails its health check and is replaced."""
    max_queued: int | None = Field(default=1000, ge=1)
    """Jobs of one model that may wait; a request beyond that is answered with 429."""
    max_backlog_s: float | None = Field(default=None, gt=0)
    """Estimated seconds of computing of one model that may wait."""
    max_wait_s: float = Field(default=60, gt=0)
    """The longest that `Prefer: wait` holds a request open."""
    sync_timeout_s: float = Field(default=600, gt=0)
    """The longest that POST /v1/videos/sync holds a request open."""
    expires_in_s: float | None = Field(default=None, gt=0, le=TEN_YEARS_S)
    """How long a finished video's files stay, unless its request says; None keeps them until they are deleted."""
    sweep_every_s: float = Field(default=60, gt=0)
    """How often expired files, and what dead processes left behind, are looked for."""
    bucket: BucketSettings | None = None
    """Where videos, input images and checkpoints are kept; None is a folder in `KINORAY_DATA`."""
    api_keys: ApiKeys = ()
    """Who may call: hashes of keys, as `./kinoray keys new NAME` prints them."""
    allow_anonymous: bool | None = None
    """Whether callers without a key are admitted. By default only where no key is configured and the service listens on
    the loopback interface."""
    outbound_allow: tuple[str, ...] = ()
    """Hosts, or HOST:PORT, that webhooks and image URLs may lead to although they are private, and without TLS."""
    max_body_bytes: int = Field(default=32 * 2**20, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    max_image_aspect_ratio: float = Field(default=8, ge=1)
    """The longer side by the shorter: an input image is resized to the video's size, whatever its own ratio."""

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) != len(models):
            raise ValueError("a model is named twice")
        return models

    def cards(self) -> dict[str, ModelCard]:
        return {model: get_card(model) for model in self.models}


def load_settings(args: dict[str, Any]) -> Settings:
    """Validate the application's `args`.

    Raises:
        ConfigError: naming every wrong key.
    """
    try:
        settings = Settings.model_validate(args)
    except ValidationError as error:
        problems = "; ".join(f"args.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"the application's args are wrong: {problems}") from error
    settings.cards()
    return settings


def database_url() -> str:
    """Where the jobs are: `KINORAY_DATABASE_URL`, which may hold a password, or a SQLite file among the local state."""
    return os.environ.get("KINORAY_DATABASE_URL") or sqlite_url(data_dir() / "jobs.sqlite3")


def webhook_secret() -> str | None:
    """What webhooks are signed with: `KINORAY_WEBHOOK_SECRET`, `whsec_` and base64. Without it none are sent."""
    return os.environ.get("KINORAY_WEBHOOK_SECRET") or None


def data_dir() -> Path:
    """Where all local state lives."""
    return Path(os.environ.get("KINORAY_DATA") or ROOT / ".kinoray").resolve()
