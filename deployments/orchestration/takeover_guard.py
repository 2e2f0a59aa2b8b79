"""Decides whether an expired lease counts as abandoned: not if its conductor may only have been delayed."""

from __future__ import annotations

import time
from collections.abc import Callable

TRUSTED = 2 / 3
"""The share of a lease's duration after which a conductor that has not renewed its own leases no longer trusts that
others' expired leases are abandoned. It is twice the time between renewals."""


class TakeoverGuard:
    """Tells one conductor whether it may take over the expired leases of others.

    Whatever keeps this conductor from renewing its own leases, such as an unreachable job store, keeps the others from
    it too. When the outage ends, their leases have expired and each conductor needs a moment to renew them: this guard
    gives them the duration of one lease.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._renewed_at = clock()
        # A new conductor does not know whether there was an outage just before it started.
        self._trusted_from = self._renewed_at + TRUSTED * lease_s

    def renewed(self) -> None:
        """Record that this conductor has renewed its leases, or would have if it held any."""
        now = self._clock()
        if self._is_late(now):
            self._trusted_from = now + self._lease_s
        self._renewed_at = now

    def not_renewed(self) -> None:
        """Record that this conductor could not renew its leases."""
        self._trusted_from = self._clock() + self._lease_s

    def trusted(self) -> bool:
        """Whether a lease that is expired now counts as abandoned. May be called from any thread."""
        now = self._clock()
        return not self._is_late(now) and now >= self._trusted_from  # `renewed` writes these in the opposite order

    def _is_late(self, now: float) -> bool:
        return now - self._renewed_at >= TRUSTED * self._lease_s
