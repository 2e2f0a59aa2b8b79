"""Identifies callers by the API key in the `Authorization` header, and checks what each may do."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from deployments.configuration.api_keys import DEFAULT_SCOPES, SCOPES, ApiKey, KeyLimits, Scope, digest
from deployments.http.errors import Forbidden, Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. An anonymous caller has the empty name, which no key can have."""

    name: str
    scopes: tuple[Scope, ...]
    limits: KeyLimits

    def may(self, scope: Scope) -> bool:
        """Whether a scope is granted; `admin` grants every one."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def sees_all(self) -> bool:
        """Whether this caller may see other callers' jobs."""
        return "admin" in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether this caller may see the jobs of the caller named `owner`."""
        return self.sees_all or owner == self.name


class Authenticator:
    """The authenticator: identifies callers by the `Authorization` header of their requests."""

    def __init__(self, keys: Sequence[ApiKey], allow_anonymous: bool) -> None:
        self._keys = [(bytes.fromhex(key.sha256), Caller(key.name, key.scopes, key.limits)) for key in keys]
        self._anonymous: Caller | None = None
        if allow_anonymous:
            # If there are keys, an anonymous caller is one of many; without keys, it may do everything.
            self._anonymous = Caller("", DEFAULT_SCOPES if keys else SCOPES, KeyLimits())

    def admit(self, authorization: str | None) -> Caller:
        """Identify the caller by the header's value, which is None when the request has no such header.

        Raises:
            Unauthorized: the key is unknown, or missing where one is needed. The message repeats nothing of the header.
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
        caller = self._find(digest(key.strip()))
        if caller is None:
            raise Unauthorized("this API key is not known here; check it, or ask the service's operator for another")
        return caller

    def _find(self, digest: bytes) -> Caller | None:
        # Compare every hash, so that the time taken does not reveal whether a key matches, or which.
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def require(caller: Caller, scope: Scope) -> None:
    """Raise Forbidden if a caller has not been granted a scope."""
    if not caller.may(scope):
        granted = ", ".join(caller.scopes)
        who = "this API key" if caller.name else "a request without an API key"
        raise Forbidden(f"this needs the scope {scope}, and {who} has {granted}; ask the service's operator for one")


def caller_of(request: HTTPConnection, authenticator: Authenticator, scope: Scope) -> Caller:
    """The caller of a request, who must have been granted `scope`. Raises Unauthorized or Forbidden."""
    caller = authenticator.admit(request.headers.get("authorization"))
    require(caller, scope)
    return caller


def bearer() -> Any:
    """A dependency for the routes that need a key. It refuses no request; it documents the key in OpenAPI and /docs."""
    scheme = HTTPBearer(scheme_name="bearerAuth", description="An API key, where any are configured.", auto_error=False)
    return Security(scheme)
