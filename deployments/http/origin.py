"""Keeps other sites' pages, open in a user's browser, from using a service that admits callers without a key.

A browser sends a page's requests to whatever address the page names, this machine's loopback interface included. Where
no key is needed, nothing else would tell them from the user's own. Two things do, which no page can forge:

- By DNS rebinding a page's own name comes to lead here, and to the browser the service is then part of the page's site.
  But `Host` still has that name, so it must be one by which this service is known.
- A form, or a request that a script sends without reading the answer, needs nobody's permission to cross sites. But its
  `Origin` names the page's site, and `Sec-Fetch-Site` says how the two are related.

Programs that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and are as free as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ray import serve
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.configuration.hosts import ANY, DEFAULT_PORTS, HostPort, is_loopback, literal, read_host_port
from deployments.http.error_response import render
from deployments.http.errors import Forbidden
from pipelines.errors import KinorayError

LONGEST_HOST = 260
"""The most characters of a host and its port. What is longer is none, and is not kept either."""
OPEN = ("/healthz", "/readyz", "/metrics")
"""The routes that probes and Prometheus call, by whatever name or address they have for a replica."""
SAFE = ("GET", "HEAD")
OTHERS = ("cross-site", "same-site")
"""What `Sec-Fetch-Site` says of another site, and of another host or port of the same one."""
MISDIRECTED = 421


class Origins:
    """Who may send requests from a browser to one replica."""

    def __init__(
        self, allowed_hosts: Sequence[str], *, anonymous: bool, listens_on: str, cors_origins: Sequence[str] = ()
    ) -> None:
        """
        Args:
            anonymous: callers without a key are admitted. If not, keys keep pages out, which do not know any, and
                nothing is checked unless `allowed_hosts` says what.
            listens_on: the address of the interface. Beyond the loopback interface, any address may be the service's;
                no page is served from it, since a page that rebinds has a name.
            cors_origins: whose pages may call. `*` opens nothing where callers need no key: that would be every page.
        """
        self._checks = anonymous or bool(allowed_hosts)
        self._any_name = ANY in allowed_hosts
        self._allowed = frozenset(read_host_port(each) for each in allowed_hosts if each != ANY)
        self._any_address = not is_loopback(listens_on)
        self._any_page = ANY in cors_origins and not anonymous
        self._pages = frozenset(cors_origins)

    def refusal(self, method: str, headers: Headers) -> tuple[int, KinorayError] | None:
        """Why a request is refused, with the status of the answer; None if it is not."""
        if not self._checks:
            return None
        # A forwarded host only ever adds to what must be allowed. So nothing is gained by forging one, and it need not
        # be known which proxies tell the truth.
        names = [*headers.getlist("host"), *_forwarded(headers)]
        if not headers.getlist("host") or not all(self._is_known(name) for name in names):
            return MISDIRECTED, Forbidden(
                "this service is not known by the host that this request names: use its address, or its operator "
                "can add the name to args.allowed_hosts of the config",
                code="host_not_allowed",
            )
        if self._crosses(method, headers):
            return Forbidden.http_status, Forbidden(
                "another site's page may not use this service, which admits callers without a key: its operator can "
                "add the page's host to args.allowed_hosts of the config, or its origin to args.cors_origins",
                code="cross_site_request",
            )
        return None

    def _is_known(self, name: str) -> bool:
        found = _read(name)
        if found is None:
            return False
        host, _ = found
        if is_loopback(host) or self._lists(found):
            return True
        return self._any_address if literal(host) else self._any_name

    def _lists(self, found: HostPort) -> bool:
        return not self._allowed.isdisjoint({found, (found[0], None)})

    def _crosses(self, method: str, headers: Headers) -> bool:
        """Whether another site's page sends this, which may not."""
        origin, relation = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None:
            if self._any_page or origin in self._pages:
                return False
            scheme, _, text = origin.partition("://")
            page, here = _read(text), _read(headers["host"])
            if page is None or here is None:  # the page is one of a file or in a sandbox
                return True
            port = DEFAULT_PORTS.get(scheme)
            page, here = (page[0], page[1] or port), (here[0], here[1] or port)
            return page != here and not self._lists(page)
        if method in SAFE:
            # A link to a video is followed, as to any page. Within another site's page nothing is shown.
            followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            return relation == "cross-site" and not followed
        return relation in OTHERS


class OriginCheck:
    """The middleware that asks the replica's `Origins` about each request, before its body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) not in OPEN:
            origins: Origins = serve.get_replica_context().servable_object.origins
            refused = origins.refusal(scope["method"], Headers(scope=scope))
            if refused is not None:
                status, error = refused
                await render(error, status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _read(text: str) -> HostPort | None:
    """A host and port; None for what is neither."""
    return _parsed(text) if len(text) <= LONGEST_HOST else None


@lru_cache(1024)
def _parsed(text: str) -> HostPort | None:
    try:
        return read_host_port(text)
    except ValueError:
        return None


def _forwarded(headers: Headers) -> list[str]:
    """The hosts that proxies say they were asked for."""
    names = [name.strip() for line in headers.getlist("x-forwarded-host") for name in line.split(",")]
    for line in headers.getlist("forwarded"):
        pairs = (pair.strip().partition("=") for pair in line.replace(",", ";").split(";"))
        names += [value.strip('"') for key, _, value in pairs if key.lower() == "host"]
    return names
