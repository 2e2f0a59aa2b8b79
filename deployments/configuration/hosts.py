"""Reads the hosts of URLs, of `Host` headers and of the settings that list some, in one canonical form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx2

HostPort = tuple[str, int | None]
"""A name in lower case without a final dot, or an address; and a port. None is any, or the one that goes unsaid."""

ANY = "*"
"""The entry of a list of allowed hosts that allows each."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def read_host(url: httpx2.URL) -> str:
    """A URL's host in canonical form.

    Raises:
        ValueError: it cannot be read. Other ways to write an address, such as `0x7f.1`, cannot.
    """
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    found = literal(host)
    if found is not None and "%" not in host:
        return str(found)
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        raise ValueError("this is no host")
    return host


def read_host_port(text: str) -> HostPort:
    """Read `host` or `host:port`. An IPv6 address stands in brackets.

    Raises:
        ValueError: with a sentence that repeats the text.
    """
    try:
        url = httpx2.URL(f"any://{text}")  # a scheme without a port of its own, so that `:443` stays
        host = read_host(url)
    except (httpx2.InvalidURL, ValueError):
        raise ValueError(f"{text!r} is not a host or host:port; an IPv6 address stands in brackets") from None
    if url.userinfo or url.raw_path not in (b"", b"/") or "#" in text:
        raise ValueError(f"{text!r} is more than a host or host:port; leave out the rest")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError(f"{text!r} has a port that is not between 1 and 65535")
    return host, url.port


def read_origin(text: str) -> str:
    """Read the origin of a page, `https://host` or `https://host:port`, in the form in which browsers send it.

    Raises:
        ValueError: with a sentence that repeats the text.
    """
    scheme, there, rest = text.lower().partition("://")
    if not there or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"{text!r} is not an origin such as https://studio.example")
    host, port = read_host_port(rest.removesuffix("/"))
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{shown}:{port}"


def all_readable(entries: Iterable[str]) -> None:
    """Raise ValueError with the sentence of the first entry that is no host or host:port."""
    for entry in entries:
        read_host_port(entry)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is always this machine. A name may resolve to any address, but for `localhost`."""
    address = literal(host)
    return host == "localhost" if address is None else address.is_loopback
