"""The application's `args`: one strict model. The environment carries only secrets and `KINORAY_DATA`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from jobs.database import sqlite_url
from pipelines.card import ROOT, StrictModel
from pipelines.catalogue import ModelCard, get_card
from pipelines.errors import ConfigError


class Threads(StrictModel):
    """CPU threads of each leg. On a CPU they are part of what "same seed, same bytes" depends on."""

    text: int = Field(default=1, ge=1)
    image: int = Field(default=1, ge=1)
    denoise: int = Field(default=2, ge=1)
    decode: int = Field(default=2, ge=1)
    mp4: int = Field(default=1, ge=1)


class Settings(StrictModel):
    """What an operator decides about the application; hardware and replicas are the config file's `deployments`."""

    models: tuple[str, ...] = Field(default=("ltx-tiny",), min_length=1)
    """Ids from configs/models/. The first is used when a request names none."""
    threads: Threads = Threads()
    max_running: int = Field(default=2, ge=1)
    """Jobs of one model that one conductor runs at once: more than its denoisers only queue in front of them."""
    lease_s: float = Field(default=15, gt=0)
    """A conductor that has not renewed its lease for so long is taken for dead."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a job is tried before it fails."""
    poll_interval_s: float = Field(default=0.5, gt=0)
    """How often a conductor looks for work that nobody told it about."""
    step_timeout_s: float = Field(default=600, gt=0)
    """A leg that shows no sign of life for so long fails its health check and is replaced."""
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


def data_dir() -> Path:
    """Where all local state lives."""
    return Path(os.environ.get("KINORAY_DATA") or ROOT / ".kinoray").resolve()
