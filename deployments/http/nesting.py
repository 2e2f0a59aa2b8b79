"""Puts the parts of a form into the fields that the same request has as JSON.

OpenAI's clients flatten what is nested: `{"a": {"b": 1}, "c": [2, 3]}` is sent as the parts `a[b]`, `c[]` and `c[]`.
"""

from __future__ import annotations

import re
from typing import Any

from deployments.http.create_fields import speakable
from pipelines.errors import InvalidRequest

DEEPEST = 8
"""The most brackets in a part's name; a deeper name is that of a field which nobody knows."""
_NAME = re.compile(rf"([^\[\]]+)((?:\[[^\[\]]*\]){{0,{DEEPEST}}})")


def path_of(name: str) -> list[str]:
    """The names on the way to a part's value: `a[b][]` is `a`, `b` and the empty one, which is an item of a list.

    An item may have a number, as other clients write it; the items come in the order in which they were sent.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        return [name]
    inner = matched[2][1:-1].split("][") if matched[2] else []
    return [matched[1], *("" if each.isdecimal() else each for each in inner)]


def put(fields: dict[str, Any], path: list[str], value: object) -> None:
    """Add a part's value to the fields.

    An item that has none of the rest of the path yet goes on; else the next one begins.

    Raises:
        InvalidRequest: the field has a value already.
    """
    if not _put(fields, path, value):
        raise InvalidRequest("this field was sent twice", param=speakable(path[0]))


def _put(into: Any, path: list[str], value: object) -> bool:
    """Whether there was room for it."""
    name, *rest = path
    if name == "":
        if not isinstance(into, list):
            return False
        if not rest:
            into.append(value)
            return True
        if into and _put(into[-1], rest, value):
            return True
        into.append(_empty(rest))
        return _put(into[-1], rest, value)
    if not isinstance(into, dict):
        return False
    if not rest:
        return name not in into and into.setdefault(name, value) is value
    if name not in into:
        into[name] = _empty(rest)
    return _put(into[name], rest, value)


def _empty(path: list[str]) -> dict[str, Any] | list[Any]:
    return [] if path[0] == "" else {}
