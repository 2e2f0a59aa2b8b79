"""API keys, which decide who may call the service and what for. Only their hashes are configured, stored or compared.

A key is `kr_` and 256 random bits, so its unsalted SHA-256 is enough: that many bits cannot be guessed, however fast
the hash is. Salts and slow hashes protect passwords that people choose, and would cost every request tens of
milliseconds.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator

from deployments.configuration.hosts import is_loopback
from pipelines.errors import ConfigError
from pipelines.strict import Finite, StrictModel

Scope = Literal["submit", "read", "admin"]
"""`submit` allows creating and ending jobs, `read` allows reading them, `admin` allows both for all callers' jobs."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("submit", "read")


class KeyLimits(StrictModel):
    """The limits of one caller; None is no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    live_jobs: int | None = Field(default=None, ge=1)
    """How many jobs may wait or run at once."""
    gpu_seconds_per_day: Finite | None = Field(default=None, gt=0)


class ApiKey(StrictModel):
    """A key in a config file. Several keys may share a name: to replace a key, or to issue one that may only read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """The key's owner: jobs belong to a name, and limits count by name."""
    sha256: str
    """The hash of the key's text, including `kr_`."""
    scopes: tuple[Scope, ...] = Field(default=DEFAULT_SCOPES, min_length=1)
    limits: KeyLimits = KeyLimits()

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, sha256: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("not 64 hexadecimal digits in lower case: give the key's hash, never the key itself")
        return sha256


def _consistent(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    if len({key.sha256 for key in keys}) != len(keys):
        raise ValueError("a key is given twice")
    limits: dict[str, KeyLimits] = {}
    for key in keys:
        if limits.setdefault(key.name, key.limits) != key.limits:
            raise ValueError(f"the keys named {key.name} have different limits, which count by name: give all the same")
    return keys


ApiKeys = Annotated[tuple[ApiKey, ...], AfterValidator(_consistent)]
"""The type of the setting: each key occurs once, and each name has one set of limits."""


def anonymous_allowed(allow_anonymous: bool | None, keys: Sequence[ApiKey], host: str) -> bool:
    """Whether callers without a key are admitted, given the setting and the address that the service listens on.

    If the setting is None, they are admitted when no key is configured and only this machine can reach the service.
    """
    return (not keys and is_loopback(host)) if allow_anonymous is None else allow_anonymous


def refuse_open_door(config: dict[str, Any]) -> None:
    """Check that a service which other machines can reach has a rule for who may call it.

    Args:
        config: a valid Serve config, already checked by `check_config`.

    Raises:
        ConfigError: the service listens beyond the loopback interface, with neither keys nor `allow_anonymous: true`.
    """
    # In a config file, unlike in `serve.start`, a missing host means every interface.
    host = (config.get("http_options") or {}).get("host", "0.0.0.0")
    if is_loopback(host):
        return
    for application in config["applications"]:
        args = application.get("args") or {}
        if not args.get("api_keys") and args.get("allow_anonymous") is not True:
            raise ConfigError(
                f"http_options.host is {host}, which other machines can reach, and application "
                f"{application.get('name')} knows no API keys: put the entry that `./kinoray keys new NAME` "
                "prints under its args.api_keys, or let everybody in with `allow_anonymous: true`"
            )


def generate() -> str:
    """Make a new key: a secret, shown once and kept only by its owner."""
    return f"kr_{secrets.token_urlsafe(32)}"


def fingerprint(key: str) -> str:
    """The form of a key in a config file: its SHA-256 in hexadecimal."""
    return digest(key).hex()


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
