"""What stands around the API's routes, in its order."""

from __future__ import annotations

from fastapi import FastAPI

from deployments.http.cors import Cors
from deployments.http.error_handler import Bugs
from deployments.http.heads import Heads
from deployments.http.origin import OriginCheck
from deployments.http.prefix import ForwardedPrefix
from deployments.http.receiving import ReceiveOnDemand

FROM_THE_OUTSIDE = (ReceiveOnDemand, Cors, Heads, Bugs, OriginCheck, ForwardedPrefix)
"""`ReceiveOnDemand` needs Serve's own `receive`. All that can refuse a request is within `Cors`, so that a page which
may call learns why, and within `Heads`, which takes the body off."""


def install_middleware(app: FastAPI) -> None:
    """Put it around an app. Its replicas have `settings` and `origins`."""
    for each in reversed(FROM_THE_OUTSIDE):
        app.add_middleware(each)
