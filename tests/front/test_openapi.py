"""What the service answers is what its own /openapi.json says: no undocumented status, no fault of the server.

2,000 requests in all, 140 for each operation.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import CHECKS, load_all_checks

from deployments.api import app
from tests.front.conftest import Front

pytestmark = pytest.mark.long

load_all_checks()
HELD: Any = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance",
    )
]  # fmt: skip


described = schemathesis.openapi.from_dict(app.openapi())


@described.parametrize()
@hypothesis.settings(
    max_examples=140, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_the_service_keeps_to_its_schema(case: schemathesis.Case, front: Front) -> None:
    case.call_and_validate(base_url=front.url, headers={"authorization": f"Bearer {front.keys['root']}"}, checks=HELD)
