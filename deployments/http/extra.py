"""Fields that a client sent in an object of their own, as those of other servers are.

OpenAI's Python client puts what is in its argument `extra_body` beside the other fields. A request that was written by
hand after an example of it often has the object itself, and clients of vLLM-Omni and SGLang send `extra_params`.
"""

from __future__ import annotations

import json
from typing import Any

from deployments.http.create_fields import speakable
from pipelines.errors import InvalidRequest

OBJECTS = "extra_body", "extra_params"


def spread(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with those in `extra_body` and `extra_params` beside them. A form has such an object as JSON, too.

    Raises:
        InvalidRequest: it is no object, or has a field that is given already.
    """
    spread = {name: value for name, value in fields.items() if name not in OBJECTS and value is not None}
    for each in OBJECTS:
        for name, value in _object(fields.get(each), each).items():
            if value is None:
                continue  # as in any other place, it was not given
            if name in spread:
                raise InvalidRequest("this field was sent twice", param=speakable(name))
            spread[name] = value
    return spread


def _object(value: object, name: str) -> dict[str, Any]:
    if isinstance(value, str) and not value.strip():
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = False
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object of fields; they may as well stand beside it", param=name)
    return value
