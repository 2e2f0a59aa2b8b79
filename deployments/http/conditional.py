"""Sends of a file what the client does not have: nothing, the ranges that it asks for, or all of it.

By RFC 9110: `If-None-Match` and `If-Modified-Since` (section 13), `Range` and `If-Range` (section 14). A range that
cannot be read, or is of something other than bytes, is refused and not ignored, so that nobody takes a whole video for
the part that he meant.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from deployments.http.errors import NoSuchRange
from deployments.http.heads import is_head

MOST_RANGES = 100
KEPT = ("cache-control", "etag", "last-modified", "x-video-id")
"""The headers that a 304 has too."""
_TAG = re.compile(r'"[^"]*"')
_RANGE = re.compile(r"([0-9]{0,64})\s*-\s*([0-9]{0,64})")


class StoredFile(FileResponse):
    """The answer with a file, or with ranges of it; to HEAD, without opening it."""

    ranges: str | None = None
    """The ranges that are sent, in place of what the request says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """
        Args:
            options: FileResponse's, with `stat_result`.
        """
        super().__init__(*args, **options)
        assert self.stat_result is not None
        self.size, self.modified_at = self.stat_result.st_size, self.stat_result.st_mtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if self.ranges is not None:
            headers.append((b"range", self.ranges.encode()))
        method = "HEAD" if is_head(scope) else scope["method"]
        await super().__call__({**scope, "headers": headers, "method": method}, receive, send)


def as_asked(file: StoredFile, asked: Headers) -> Response:
    """The answer to a GET of a file.

    Raises:
        NoSuchRange: the file has nothing of what is asked for.
    """
    if _has_it(file, asked):
        return Response(status_code=304, headers={name: file.headers[name] for name in KEPT if name in file.headers})
    if (ranges := asked.get("range")) is not None and _still_the_same(file, asked.get("if-range")):
        file.ranges = f"bytes={','.join(_satisfiable(ranges, file.size))}"
    return file


def _has_it(file: StoredFile, asked: Headers) -> bool:
    if tags := ",".join(asked.getlist("if-none-match")):
        # A cache may have made a strong tag weak, which says the same here: only a Range needs the same bytes.
        return tags.strip() == "*" or file.headers["etag"] in _TAG.findall(tags)
    try:
        since = parsedate_to_datetime(asked.get("if-modified-since", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return False
    return int(file.modified_at) <= since.replace(tzinfo=since.tzinfo or UTC).timestamp()


def _still_the_same(file: StoredFile, if_range: str | None) -> bool:
    return if_range is None or if_range in (file.headers["etag"], file.headers["last-modified"])


def _satisfiable(header: str, size: int) -> list[str]:
    """The ranges that there are in a file of `size` bytes, each as `first-last`."""
    unit, equals, rest = header.partition("=")
    found = [_RANGE.fullmatch(each.strip()) for each in rest.split(",") if each.strip()]
    if unit.strip().lower() != "bytes" or not equals or not found or None in found:
        raise NoSuchRange("a range is `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`", size)
    if len(found) > MOST_RANGES:
        raise NoSuchRange(f"ask for at most {MOST_RANGES} ranges at once", size)
    ranges = []
    for first, last in (match.groups() for match in found if match is not None):
        if not first and not last:
            raise NoSuchRange("a range has a first byte, or a length", size)
        begin = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if first and last and int(last) < begin:
            raise NoSuchRange("a range cannot end before it begins", size)
        if begin < size:
            ranges.append(f"{begin}-{end}")
    if not ranges:
        raise NoSuchRange(f"the file has {size} bytes, and none of these", size)
    return ranges
