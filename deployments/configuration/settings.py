"""The application's `args`, as one strict model. The environment holds only secrets and `KINORAY_DATA`."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from deployments.configuration.api_keys import ApiKeys
from deployments.configuration.hosts import ANY, all_readable, read_origin
from jobs.database import sqlite_url
from pipelines.card import ModelCard
from pipelines.catalogue import get_card
from pipelines.errors import ConfigError
from pipelines.paths import ROOT
from pipelines.strict import StrictModel
from pipelines.wrong_values import all_wrong
from storage.settings import BucketSettings

TEN_YEARS_S = 10 * 365 * 24 * 3600
WEBHOOK_SECRET = "KINORAY_WEBHOOK_SECRET"
SECRET_PREFIX, MIN_SECRET_BYTES = "whsec_", 24
MOST_THREADS = 1024
MOST = 2**53
"""No number is larger: a JSON reader, a database or a clock would take it for another."""


class Threads(StrictModel):
    """CPU threads of each stage. On a CPU, "same seed, same bytes" holds only for the same thread counts."""

    text_encode: int = Field(default=1, ge=1, le=MOST_THREADS)
    image_encode: int = Field(default=1, ge=1, le=MOST_THREADS)
    denoise: int = Field(default=2, ge=1, le=MOST_THREADS)
    decode: int = Field(default=2, ge=1, le=MOST_THREADS)
    video_encode: int = Field(default=1, ge=1, le=MOST_THREADS)


class Settings(StrictModel):
    """The operator's settings of the application; hardware and replicas are set in the config file's `deployments`."""

    # A key that was pasted in place of its hash must not appear in a traceback.
    # An endless time is a mistake: None, where a setting has it, says that there is no limit.
    model_config = ConfigDict(hide_input_in_errors=True, allow_inf_nan=False)

    models: tuple[str, ...] = Field(default=("ltx-tiny",), min_length=1)
    """Ids from configs/models/. The first is used when a request names no model."""
    threads: Threads = Threads()
    look_ahead: int = Field(default=1, ge=1)
    """Jobs of a model that are encoded ahead of those its denoisers work on, so that no denoiser waits for an encoder;
    at least as many as the model has denoisers, since all may finish at once."""
    preempt_after_s: float | None = Field(default=5, gt=0)
    """Seconds after which a waiting job of a higher class preempts a job of a lower class, which later continues from
    the step it had reached. None: the job waits until a denoiser is free."""
    lease_s: float = Field(default=15, gt=0)
    """A conductor that has not renewed a lease for this long is considered dead."""
    checkpoint_every_s: float = Field(default=5, gt=0)
    """How many seconds of denoising a killed replica may cost."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """How often a job is tried before it fails."""
    poll_interval_s: float = Field(default=0.5, gt=0)
    """How often a conductor looks for work of which it was not notified."""
    step_timeout_s: float = Field(default=600, gt=0)
    """A stage replica that makes no progress for this long fails its health check and is replaced."""
    fake_gpus: bool = False
    """Whether Ray was told of GPUs that do not exist, so that stages that are lent one compute on the CPU. Otherwise a
    replica does not start on a GPU that CUDA cannot use."""
    max_queued: int | None = Field(default=1000, ge=1)
    """How many jobs of one model may wait; a request beyond that gets a 429."""
    max_backlog_s: float | None = Field(default=None, gt=0)
    """How many estimated seconds of computing may wait for one model."""
    max_creates_at_once: int = Field(default=32, ge=1)
    """How many requests with a body one API replica has in hand; one beyond that gets a 503 before its body is read."""
    max_bytes_at_once: int = Field(default=128 * 2**20, ge=1)
    """How many bytes their bodies have together. A body that is larger is taken in if there is no other."""
    max_reads_at_once: int = Field(default=128, ge=1)
    """How many reads, and how many cancels and deletes, one API replica has in hand."""
    max_held_open: int = Field(default=400, ge=0)
    """How many event streams, `Prefer: wait` and sync requests one API replica holds open; each also takes one of the
    deployment's `max_ongoing_requests`."""
    max_wait_s: float = Field(default=60, gt=0)
    """The longest that `Prefer: wait` holds a request open."""
    sync_timeout_s: float = Field(default=600, gt=0)
    """The longest that POST /v1/videos/sync holds a request open."""
    expires_in_s: float | None = Field(default=None, gt=0, le=TEN_YEARS_S)
    """How long a finished video's files stay, unless its request sets it; None keeps them until they are deleted."""
    max_unpublished: int = Field(default=64, ge=1)
    """How many jobs of one conductor may be denoised and not stored yet before it begins no more."""
    max_unpublished_bytes: int = Field(default=2**30, ge=1)
    """How large their latents and videos may be, together."""
    sweep_every_s: float = Field(default=60, gt=0)
    """How often the sweeper looks for expired files, and for files that dead processes have left."""
    bucket: BucketSettings | None = None
    """The bucket that holds videos, input images and checkpoints; None means a folder in `KINORAY_DATA`."""
    api_keys: ApiKeys = ()
    """The keys that may call, as hashes; `./kinoray keys new NAME` prints an entry."""
    allow_anonymous: bool | None = None
    """Whether callers without a key are admitted. By default they are only if no key is configured and the service
    listens on the loopback interface."""
    allowed_hosts: tuple[str, ...] = ()
    """Entries HOST or HOST:PORT by which browsers may know a service that admits callers without a key, in addition to
    the loopback interface's and, if it listens on others, to every address; `*` is any name."""
    cors_origins: tuple[str, ...] = ()
    """The origins whose pages may call the API from a browser and read its answers, as `https://studio.example`; `*` is
    any, where every caller needs a key."""
    outbound_allow: tuple[str, ...] = ()
    """Entries HOST or HOST:PORT that webhooks and image URLs may call even at private addresses and without TLS."""
    max_body_bytes: int = Field(default=32 * 2**20, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    max_image_aspect_ratio: float = Field(default=8, ge=1)
    """The limit of longer side / shorter side: an input image is resized to the video's size, whatever its ratio."""

    @field_validator("outbound_allow", "allowed_hosts")
    @classmethod
    def _hosts(cls, entries: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        all_readable(each for each in entries if each != ANY or info.field_name == "outbound_allow")
        return entries

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each if each == ANY else read_origin(each) for each in entries)

    @field_validator("*", mode="after")
    @classmethod
    def _no_larger(cls, value: Any) -> Any:
        if isinstance(value, int | float) and value > MOST:
            raise ValueError(f"must be at most {MOST}")
        return value

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
        problems = "; ".join(all_wrong(error, Settings, "args."))
        raise ConfigError(f"the application's args are wrong: {problems}") from error
    settings.cards()
    return settings


def database_url() -> str:
    """The job store's URL: `KINORAY_DATABASE_URL`, which may hold a password, or a SQLite file in `data_dir()`."""
    return sqlite_url(data_dir() / "jobs.sqlite3") if uses_data_dir() else os.environ["KINORAY_DATABASE_URL"]


def uses_data_dir() -> bool:
    """Whether the job store is in `data_dir()`."""
    return not os.environ.get("KINORAY_DATABASE_URL")


def webhook_secret() -> str | None:
    """The secret that signs webhooks: `KINORAY_WEBHOOK_SECRET`, `whsec_` and base64. Without it no webhook is sent."""
    return os.environ.get(WEBHOOK_SECRET) or None


def require_webhook_secret(secret: str | None) -> None:
    """Raise ConfigError if there is a secret that is not `whsec_` and the base64 of at least 24 bytes."""
    # Without the prefix the receivers' libraries disagree on what the key is.
    if secret is None:
        return
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"the webhook secret must be {SECRET_PREFIX} and the base64 of at least {MIN_SECRET_BYTES} random bytes; "
            f'make one with `echo "{SECRET_PREFIX}$(openssl rand -base64 32)"`'
        )


def data_dir() -> Path:
    """The directory that holds all local state."""
    return Path(os.environ.get("KINORAY_DATA") or ROOT / ".kinoray").resolve()


def require_data_dir() -> Path:
    """`data_dir()`, made if it is not there.

    Raises:
        ConfigError: nothing can be written there.
    """
    path = data_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except FileExistsError:
        why = "is no folder"
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
    chosen = "KINORAY_DATA names it" if os.environ.get("KINORAY_DATA") else "it is the default"
    raise ConfigError(f"{path}, where the service keeps its data, {why}; {chosen}: set KINORAY_DATA to another folder")
