"""Whether a lease that has run out is taken for abandoned: not where its conductor may only have been held up."""

from __future__ import annotations

import time
from collections.abc import Callable

TRUSTED = 2 / 3
"""The share of a lease after which a conductor that has not renewed its own no longer believes that others have run
out. It is twice the time between renewals."""


class TakeoverGuard:
    """What one conductor makes of others' leases.

    What keeps it from renewing its own, such as a job store that is out of reach, keeps the others from it too. Their
    leases have run out when it is over, and each needs a moment to renew them: they get one lease.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._renewed_at = clock()
        # A new one does not know what was before it.
        self._trusted_from = self._renewed_at + TRUSTED * lease_s

    def renewed(self) -> None:
        """It has renewed its own, or would have if it had any."""
        now = self._clock()
        if self._is_late(now):
            self._trusted_from = now + self._lease_s
        self._renewed_at = now

    def not_renewed(self) -> None:
        """It could not."""
        self._trusted_from = self._clock() + self._lease_s

    def trusted(self) -> bool:
        """Whether a lease that has run out now is abandoned. From any thread."""
        now = self._clock()
        return not self._is_late(now) and now >= self._trusted_from  # in this order: `renewed` sets them in the other

    def _is_late(self, now: float) -> bool:
        return now - self._renewed_at >= TRUSTED * self._lease_s
