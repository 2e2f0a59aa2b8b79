"""Makes HTTP requests to URLs that clients chose, which must not become a way into the operator's network.

A URL is checked twice. `Outbound.check_url` checks its text when a request is accepted. When the URL is called, its
host is looked up once, every address must be public, and the connection goes to one of exactly those addresses: a name
that resolves differently the second time (DNS rebinding) gains nothing. The Host header and TLS still use the host's
name. Redirects are not followed and proxies from the environment are not used.

Hosts on the operator's allow-list are called at any address, and also with plain http. HTTPS trusts the system's
certificate authorities, or those in SSL_CERT_FILE.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

import httpx2

from deployments.configuration.hosts import HostPort, literal, read_host, read_host_port
from pipelines.errors import ConfigError, InvalidRequest

T = TypeVar("T")

MAX_URL_CHARS = 2048
CONNECT_S = 5.0
TOTAL_S = 15.0
"""The limit for look-up, connection, request and response together."""
LOOKUPS = 96
"""The number of look-up threads: three times the webhooks sent at once, as a look-up may outlast its caller by 30 s."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has allocated
_NAT64 = IPv6Network("64:ff9b::/96")
# Special networks that `ipaddress` treats as public, at least in some versions of Python.
_SPECIAL = (
    IPv4Network("168.63.129.16/32"),  # Azure's platform, from every virtual machine
    IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata
    IPv4Network("192.88.99.0/24"),  # 6to4 anycast
    IPv6Network("3fff::/20"),  # documentation
)
_INWARD = (".localhost", ".local", ".internal")

# httpx2 logs the URL of every request, which may contain a receiver's secret.
logging.getLogger("httpx2").setLevel(logging.WARNING)


class Refused(Exception):
    """A URL may not be called, or its answer may not be used. The message is a sentence without the URL or the body."""


class Unreachable(Refused):
    """No usable answer came; another try may succeed."""


class Outbound:
    """Calls the hosts of the public internet, and those on the allow-list.

    `allow` has entries `host` (any port) or `host:port`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: an entry cannot be read.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        self._allow = frozenset(_read_entry(entry) for entry in allow)
        self._tls = httpx2.create_ssl_context()
        # Not the loop's default threads: names that resolve slowly on purpose would block everything else there.
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="kinoray-dns")

    def check_url(self, url: str, *, param: str = "webhook_url") -> None:
        """Refuse a URL whose text alone shows that it is unusable; nothing is looked up.

        Raises:
            InvalidRequest: with the reason as a sentence, and `param` as the field at fault.
        """
        try:
            self._vet(url)
        except Refused as refused:
            raise InvalidRequest(str(refused), param=param) from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a body; returns the answer's status, whatever it is. The answer's body is not read.

        Raises:
            Refused: the URL may not be called. Unreachable: no answer.
        """

        async def status_of(response: httpx2.Response) -> int:
            return response.status_code

        return await self._exchange("POST", url, headers, status_of, body)

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Get a body of at most `max_bytes`.

        Raises:
            Refused: the URL may not be called, the status is not 200, or the body is larger or compressed.
            Unreachable: no answer, or not all of it.
        """

        async def body_of(response: httpx2.Response) -> bytes:
            if response.status_code != 200:
                raise Refused(f"The URL answered {response.status_code}, not 200; redirects are not followed.")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Refused("The URL answered with a compressed body; serve it as it is.")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise Refused(f"The URL answered with more than {max_bytes} bytes; serve a smaller file.")
            return bytes(body)

        # A small compressed body may become huge; the limit must apply to the bytes that are kept.
        return await self._exchange("GET", url, {"accept-encoding": "identity"}, body_of)

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        read: Callable[[httpx2.Response], Awaitable[T]],
        body: bytes | None = None,
    ) -> T:
        """Send a request and return what `read` makes of the answer, all of it in `TOTAL_S` seconds."""
        target = self._vet(url)
        timeout = httpx2.Timeout(TOTAL_S, connect=CONNECT_S)
        try:
            # One client per request: a connection is never shared between names that have the same address.
            async with (
                asyncio.timeout(TOTAL_S),
                httpx2.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client,
            ):
                addresses = await self._addresses(target)
                named = {"user-agent": "kinoray", **headers, "host": target.url.netloc.decode("ascii")}
                requests = [
                    client.build_request(
                        method,
                        target.url.copy_with(host=address),
                        headers=named,
                        content=body,
                        extensions={"sni_hostname": target.host},
                    )
                    for address in addresses
                ]
                response = await _first_connected(client, requests)
                try:
                    return await read(response)
                finally:
                    await response.aclose()
        # The causes are dropped: they may contain the URL or reveal what listens inside the operator's network.
        except (TimeoutError, httpx2.TimeoutException):
            raise Unreachable(f"The URL's host did not answer within {TOTAL_S:.0f} seconds.") from None
        except httpx2.HTTPError:
            raise Unreachable("The URL's host could not be reached; check its name, port and certificate.") from None

    async def _addresses(self, target: _Target) -> list[str]:
        """Look up a host's addresses, all of which may be called."""
        if target.is_literal:
            return [target.host]
        look_up = partial(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        except OSError:
            raise Unreachable("The URL's host cannot be found; check its name.") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # All, not any: a name with one private address is an attack or a mistake.
        if not target.allowed and not all(is_public(ip_address(address)) for address in addresses):
            raise Refused("The URL's host has an address that is not public; use one that is reached from anywhere.")
        return addresses

    def _vet(self, text: str) -> _Target:
        if len(text) > MAX_URL_CHARS:
            raise Refused(f"The URL has more than {MAX_URL_CHARS} characters; use a shorter one.")
        try:
            url = httpx2.URL(text)
        except (httpx2.InvalidURL, UnicodeError):  # JSON can hold half a surrogate pair
            raise Refused("The URL cannot be read; write it as https://host/path.") from None
        if url.scheme not in ("http", "https"):
            raise Refused("The URL must begin with https://.")
        if url.userinfo:
            raise Refused("The URL holds a user name or a password; leave them out.")
        try:
            host = read_host(url)
        except ValueError:
            raise Refused("The URL's host cannot be read; write it as https://host/path.") from None
        address = literal(host)
        port = url.port if url.port is not None else {"http": 80, "https": 443}[url.scheme]
        allowed = not self._allow.isdisjoint({(host, None), (host, port)})
        if not allowed:
            if url.scheme != "https":
                raise Refused("The URL must begin with https://.")
            if port != 443 and not 1024 <= port <= 65535:
                raise Refused("The URL's port must be 443, or 1024 to 65535.")
            if address is None and ("." not in host or host.endswith(_INWARD)):
                raise Refused("The URL's host is a local name; use one that is reached from anywhere.")
            if address is not None and not is_public(address):
                raise Refused("The URL's host is not a public address; use one that is reached from anywhere.")
        return _Target(url, host, port, address is not None, allowed)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one host of the public internet; an IPv4 address inside an IPv6 one is judged itself."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    special = any(address in network for network in _SPECIAL if network.version == address.version)
    return address.is_global and not (address.is_multicast or address.is_reserved or special)


@dataclass(frozen=True, slots=True)
class _Target:
    url: httpx2.URL
    host: str  # a name in lower case without a final dot, or an address
    port: int
    is_literal: bool
    allowed: bool


async def _first_connected(client: httpx2.AsyncClient, requests: list[httpx2.Request]) -> httpx2.Response:
    """The answer of the first address that accepts a connection. Nothing is sent to the others."""
    for request in requests[:-1]:
        try:
            return await client.send(request, stream=True, follow_redirects=False)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
    return await client.send(requests[-1], stream=True, follow_redirects=False)


def _read_entry(entry: str) -> HostPort:
    try:
        return read_host_port(entry)
    except ValueError as error:
        raise ConfigError(str(error)) from None
