"""A real S3 server, the way to it that can be spoilt, and a service whose videos go there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.bucket import BucketStore
from storage.settings import BucketSettings
from tests.harness.bucket import credentials
from tests.harness.bucket_server import BUCKET, BucketServer, ServerMissing, run_bucket_server
from tests.harness.faulty_network import FaultyNetwork


@pytest.fixture(scope="package")
def bucket_server() -> Iterator[BucketServer]:
    try:
        with credentials(), run_bucket_server() as server:
            yield server
    except ServerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="package")
def network(bucket_server: BucketServer) -> Iterator[FaultyNetwork]:
    with FaultyNetwork(bucket_server.port) as network:
        yield network


@pytest.fixture
def settings(network: FaultyNetwork, request: pytest.FixtureRequest) -> BucketSettings:
    """A prefix for each test, so that none sees another's objects."""
    prefix = f"{request.node.name.split('[')[0]}/{id(request)}/"
    return BucketSettings(
        name=BUCKET, prefix=prefix, endpoint_url=network.url, path_style=True, multipart_threshold_mib=16
    )


@pytest.fixture
def bucket(settings: BucketSettings) -> BucketStore:
    return BucketStore(settings)
