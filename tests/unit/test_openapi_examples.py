"""The examples of /openapi.json: every body has one, and each is what the schema beside it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from deployments.api import app
from deployments.http.create_fields import parse_create
from deployments.http.openapi import BYTES, JSON
from pipelines.paths import ROOT

DOCUMENT = app.openapi()


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                if kind != BYTES:
                    yield f"{method} {path} takes {kind}", body
            for status, answer in operation["responses"].items():
                if JSON in answer.get("content", {}):
                    yield f"{method} {path} answers {status}", answer["content"][JSON]


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in bodies()])
def test_every_body_has_examples_that_keep_to_its_schema(body: dict[str, Any]) -> None:
    assert body["examples"]
    for example in body["examples"].values():
        jsonschema_rs.validate({**body["schema"], "components": DOCUMENT["components"]}, example["value"])


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data"])
def test_the_service_takes_the_examples_of_requests(kind: str) -> None:
    """The picture aside, which is read before the fields are."""
    for path in ("/v1/videos", "/v1/videos/sync", "/v1/videos/{video_id}/remix"):
        for example in DOCUMENT["paths"][path]["post"]["requestBody"]["content"][kind]["examples"].values():
            parse_create({name: value for name, value in example["value"].items() if name != "input_reference"})


def test_the_committed_document_is_this_one() -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(DOCUMENT)), "`make openapi` writes it anew; look at what has changed"


def test_the_document_is_made_once_and_holds_no_moment() -> None:
    assert app.openapi() is app.openapi()
    assert json.loads(json.dumps(DOCUMENT)) == app.openapi()
