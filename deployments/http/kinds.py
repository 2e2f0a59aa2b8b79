"""The kinds of requests that Serve's proxy bounds, each by itself."""

from __future__ import annotations

import math
from enum import StrEnum

from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.http.prefer import parse_prefer
from deployments.http.sizes import LARGE, declared_bytes

PICTURE = b"input_reference"  # not imported: the proxy needs none of what reads pictures


class Kind(StrEnum):
    CREATE = "create"
    """It is done within some hundredths of a second, so many may go one after the other."""
    LONG_CREATE = "long create"
    """It takes a while to arrive, or its picture to be fetched and read."""
    READ = "read"


def kind_of(scope: Scope) -> Kind | None:
    """The kind of a request; None for what is held open or must not be delayed, which the replicas bound."""
    path = _path(scope)
    match scope.get("method"):
        case "POST" if _below(path, "/v1/uploads") == "":
            return Kind.LONG_CREATE
        case "PUT" if _below(path, "/v1/uploads") is not None:
            return Kind.LONG_CREATE
        case "POST" if (below := _below(path, "/v1/videos")) is not None and not below.endswith("/cancel"):
            declared = declared_bytes(Headers(scope=scope))
            short = declared is not None and declared < LARGE and not below.endswith("/remix")
            return Kind.CREATE if short else Kind.LONG_CREATE
        case "GET" | "HEAD" if (below := _below(path, "/v1/videos")) is not None:
            return None if below.endswith(("/events", "/content")) else Kind.READ
    return None


def has_picture(body: bytes) -> bool:
    """Whether the body of a create seems to name a picture."""
    return PICTURE in body


def is_held_open(scope: Scope) -> bool:
    """Whether the answer of a create may wait for the video."""
    waits = parse_prefer(Headers(scope=scope).get("prefer"), math.inf)
    return bool(waits) or _path(scope).endswith("/v1/videos/sync")


def takes_body(scope: Scope) -> bool:
    """Whether anything reads the body of a request: unknown is, to other applications of the cluster too."""
    path = _path(scope)
    return scope["method"] not in ("GET", "HEAD", "DELETE", "OPTIONS") and not path.endswith("/cancel")


def _path(scope: Scope) -> str:
    path: str = scope["path"] if scope["type"] == "http" else ""
    return path.rstrip("/")


def _below(path: str, root: str) -> str | None:
    """What follows `root` in a path, whatever the route_prefix before it is; None if the path does not have it."""
    _, found, below = path.rpartition(root)
    return below if found and (not below or below.startswith("/")) else None
