"""Extends /openapi.json beyond the routes' signatures: the create body, and every error status."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from deployments.http.contents import VARIANTS
from deployments.http.create_fields import CreateVideo
from deployments.http.examples import Examples, answer_examples, request_examples
from deployments.http.schemas import ErrorAnswer, Video

Answers = dict[int | str, dict[str, Any]]
"""A route's `responses`."""

JSON, BYTES = "application/json", "application/octet-stream"

WHAT: dict[int, str] = {
    400: "A field is missing, out of range or unreadable; the message says what to do",
    401: "The API key is missing or unknown",
    403: "The API key may not do that",
    404: "No such video, or it was deleted or has expired",
    408: "The body did not arrive in time; nothing was done",
    413: "The body is too large",
    422: "The Idempotency-Key stands for another request",
    429: "A limit is reached; `retry-after-ms` says when to come back",
    500: "The video failed",
    503: "The job store or the artifact store cannot be reached, or the service is still loading",
}


def create_body() -> dict[str, Any]:
    """The body of a create request, which the API parses itself because JSON and form bodies mean the same."""
    schema = CreateVideo.model_json_schema()
    form = {**schema, "properties": {**schema["properties"]}}
    form["properties"]["input_reference"] = {"type": "string", "format": "binary"}
    kinds = {JSON: schema, "multipart/form-data": form}
    return {"requestBody": {"required": True, "content": {kind: {"schema": each} for kind, each in kinds.items()}}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body that the API parses itself, after it has identified the caller."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": model.model_json_schema()}}}}


def file_body() -> dict[str, Any]:
    """A body that consists of one file."""
    content = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


def answers(*statuses: int) -> Answers:
    """A route's `responses`: the errors that it may return."""
    return {status: {"model": ErrorAnswer, "description": WHAT[status]} for status in statuses}


def binary(*kinds: str) -> Answers:
    """A route's `responses` if it succeeds with something other than JSON, or with a part of that."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {
        200: {"description": "The file", "content": content},
        206: {"description": "The part of it that Range asks for", "content": content},
        416: {"model": ErrorAnswer, "description": "No such part of it"},
    }


def describe(app: FastAPI) -> None:
    """Give every body an example, and remove the 422 that FastAPI documents for every parameter: here it is a 400."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path, operations in make()["paths"].items():
                for method, operation in operations.items():
                    _drop_unmeant(operation["responses"])
                    _exemplify(path, method, operation)
        return make()

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_unmeant(responses: dict[str, Any]) -> None:
    unmeant = responses.get("422", {}).get("content", {}).get(JSON, {})
    if unmeant.get("schema", {}).get("$ref", "").endswith("HTTPValidationError"):
        del responses["422"]


def _exemplify(path: str, method: str, operation: dict[str, Any]) -> None:
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        if kind != BYTES:
            body["examples"] = _named(request_examples(path, kind))
    for status, answer in operation["responses"].items():
        if (body := answer.get("content", {}).get(JSON)) is not None:
            body["examples"] = _named(answer_examples(path, method, int(status)))


def _named(examples: Examples) -> dict[str, Any]:
    return {name: {"value": value} for name, value in examples.items()}


CREATES = answers(400, 401, 403, 408, 413, 422, 429, 503)
REMIXES = answers(400, 401, 403, 404, 408, 413, 422, 429, 503)
READS = answers(400, 401, 403, 404, 503)
LISTS = answers(400, 401, 403, 503)
UPLOADS = answers(400, 401, 403, 408, 413, 429, 503)
ELSEWHERE: Answers = {
    302: {"description": "Where the file is, where a bucket has it: a URL that needs no key and is good for a while"}
}
LATER: Answers = {202: {"model": Video, "description": "Not done in time"}}
SYNC = {**CREATES, **answers(500), **binary("video/mp4"), **ELSEWHERE, **LATER}
UNCHANGED: Answers = {304: {"description": "You have it already"}}
CONTENT = {**READS, **ELSEWHERE, **UNCHANGED, **binary(*(kind for _, kind in VARIANTS.values()))}
STREAM: Answers = {
    200: {"description": "The job's changes", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "It has ended, and you have seen all of it"},
}
EVENTS = {**READS, **STREAM}
LOADING: Answers = {
    503: {
        "description": "Some stages are still loading, or no model can be served",
        "content": {JSON: {"schema": {"type": "object", "additionalProperties": True}}},
    }
}
METRICS: Answers = {
    503: {"description": WHAT[503], "content": {JSON: {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
}
