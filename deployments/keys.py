"""API keys: who may call the service, and what for. Only hashes of keys are ever configured, stored or compared.

A key is `kr_` and 256 random bits, so its unsalted SHA-256 is enough: nobody can guess that many bits, however fast the
hash is. Salts and slow hashes protect passwords that people choose, and would cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator

from pipelines.card import Finite, StrictModel
from pipelines.errors import ConfigError, Forbidden, Unauthorized

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

Scope = Literal["submit", "read", "admin"]
"""`submit` makes and ends jobs, `read` looks at them, `admin` does both to everybody's."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("submit", "read")


class KeyLimits(StrictModel):
    """What one caller may ask for; None is no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    live_jobs: int | None = Field(default=None, ge=1)
    """Jobs that wait or run at once."""
    gpu_seconds_per_day: Finite | None = Field(default=None, gt=0)


class ApiKey(StrictModel):
    """A key as a config file has it. Several may share a name: to replace a key, or to hand out one that only reads."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Whose key it is: jobs belong to a name, and limits count by it."""
    sha256: str
    """Of the key's text, `kr_` included."""
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
"""The setting: no key twice, and one set of limits for each name."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. The empty name is an anonymous caller, which no key can have."""

    name: str
    scopes: tuple[Scope, ...]
    limits: KeyLimits

    def may(self, scope: Scope) -> bool:
        """Whether a scope is granted; `admin` grants every one."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether other callers' jobs exist for this one."""
        return "admin" in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether the jobs of the caller named `owner` exist for this one."""
        return self.sees_all or owner == self.name


class Doorkeeper:
    """Tells callers by the `Authorization` header of their requests."""

    def __init__(self, keys: Sequence[ApiKey], allow_anonymous: bool) -> None:
        self._keys = [(bytes.fromhex(key.sha256), Caller(key.name, key.scopes, key.limits)) for key in keys]
        self._anonymous: Caller | None = None
        if allow_anonymous:
            # Beside keys an anonymous caller is one of many; without any, the service is all its own.
            self._anonymous = Caller("", DEFAULT_SCOPES if keys else SCOPES, KeyLimits())

    def admit(self, authorization: str | None) -> Caller:
        """Who calls, by the header's value; None when the request has none.

        Raises:
            Unauthorized: no such key, or none was sent where one is needed. The message repeats nothing of the header.
        """
        if self._anonymous is not None and (authorization is None or not self._keys):
            return self._anonymous
        if not self._keys:
            raise Unauthorized(
                "this service admits nobody yet: its operator must put the entry that `./kinoray keys new NAME` "
                "prints under args.api_keys of the config, or say `allow_anonymous: true` there"
            )
        if authorization is None:
            raise Unauthorized("send your API key, as the header `Authorization: Bearer KEY`")
        scheme, _, key = authorization.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("the Authorization header must be `Bearer KEY`")
        caller = self._find(_digest(key.strip()))
        if caller is None:
            raise Unauthorized("this API key is not known here; check it, or ask the service's operator for another")
        return caller

    def _find(self, digest: bytes) -> Caller | None:
        # Every hash is compared, so that the time it takes tells nothing of whether one fits, nor which.
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def require(caller: Caller, scope: Scope) -> None:
    """Raise Forbidden where a caller has not been granted a scope."""
    if not caller.may(scope):
        granted = ", ".join(caller.scopes)
        who = "this API key" if caller.name else "a request without an API key"
        raise Forbidden(f"this needs the scope {scope}, and {who} has {granted}; ask the service's operator for one")


def caller_of(request: HTTPConnection, doorkeeper: Doorkeeper, scope: Scope) -> Caller:
    """Who sends a request, which must be allowed `scope`. Raises Unauthorized or Forbidden."""
    caller = doorkeeper.admit(request.headers.get("authorization"))
    require(caller, scope)
    return caller


def bearer() -> Any:
    """A dependency for the routes that need a key. It refuses nobody: it is there for OpenAPI, and so for /docs."""
    from fastapi import Security  # here, because settings import this module and most of their readers serve no HTTP
    from fastapi.security import HTTPBearer

    scheme = HTTPBearer(scheme_name="bearerAuth", description="An API key, where any are configured.", auto_error=False)
    return Security(scheme)


def anonymous_allowed(allow_anonymous: bool | None, keys: Sequence[ApiKey], host: str) -> bool:
    """Whether callers without a key are admitted, given the setting and the address that the service listens on.

    Where the setting is None they are if no key is configured and nobody but this machine can reach the service.
    """
    return (not keys and _is_loopback(host)) if allow_anonymous is None else allow_anonymous


def refuse_open_door(config: dict[str, Any]) -> None:
    """Check that a service which others can reach knows who may call it.

    Args:
        config: a Serve config that `check_config` has found sound.

    Raises:
        ConfigError: it listens beyond the loopback interface, with neither keys nor `allow_anonymous: true`.
    """
    # In a config file, unlike in `serve.start`, an absent host means every interface.
    host = (config.get("http_options") or {}).get("host", "0.0.0.0")
    if _is_loopback(host):
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
    """A new key: a secret, to be shown once and kept by its owner only."""
    return f"kr_{secrets.token_urlsafe(32)}"


def fingerprint(key: str) -> str:
    """What a config file holds of a key: its SHA-256 in hexadecimal."""
    return _digest(key).hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may lead anywhere
