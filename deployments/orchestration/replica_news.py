"""Tells when the replicas have changed: listing them all, every half second, costs the controller and a conductor much.

Serve's controller tells the handles' routers of every replica that begins or ceases to take calls. This listens beside
them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from ray.serve._private.common import DeploymentID
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace
from ray.serve.context import _get_global_client

from deployments.configuration.names import APPLICATION

AT_LEAST_EVERY_S = 5.0
"""The longest time without a look. Nothing should be missed, but what is missed would last."""
AGAIN_S = 2.0
"""For so long after a change the replicas are listed at every look: a list may lag behind the news."""


def listen(deployments: Iterable[str], changed: Callable[[object], None]) -> LongPollClient:
    """Call `changed` in this event loop whenever replicas of these deployments do, as long as the result is kept."""
    targets = LongPollNamespace.DEPLOYMENT_TARGETS
    keys: list[Any] = [(targets, DeploymentID(name=name, app_name=APPLICATION)) for name in deployments]
    return LongPollClient(
        _get_global_client()._controller,
        dict.fromkeys(keys, changed),
        call_in_event_loop=asyncio.get_running_loop(),
        client_id="kinoray",
    )


class ReplicaNews:
    """Says whether to list the replicas again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: in seconds, from any start.
        """
        self._clock = clock
        self._looked_at = -AT_LEAST_EVERY_S
        self._changed_at = clock()

    def changed(self) -> None:
        """Report that replicas of a deployment have begun or ceased to take calls."""
        self._changed_at = self._clock()

    def is_due(self) -> bool:
        """Whether the replicas are to be listed now."""
        now = self._clock()
        return now - self._changed_at <= AGAIN_S or now - self._looked_at >= AT_LEAST_EVERY_S

    def looked(self) -> None:
        """Report that the replicas were listed."""
        self._looked_at = self._clock()
