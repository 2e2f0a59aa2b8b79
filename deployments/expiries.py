"""Whether a lease that has run out is taken for abandoned: not where its conductor may only have been held up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

TRUSTED = 2 / 3
"""Of a lease, for which a conductor that has not renewed its own still believes: twice the time between renewals."""


class Expiries:
    """What one conductor makes of others' leases.

    What keeps it from renewing its own, such as a job store that is out of reach, keeps the others from it too. Their
    leases have run out when it is over, and each needs a moment to renew them: they get one lease.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._renewed_at = clock()
        self._trusted_from = -math.inf

    def renewed(self) -> None:
        """It has renewed its own, or would have if it had any."""
        now = self._clock()
        if self._is_late(now):
            self._trusted_from = now + self._lease_s
        self._renewed_at = now

    def trusted(self) -> bool:
        """Whether a lease that has run out now is abandoned."""
        now = self._clock()
        return now >= self._trusted_from and not self._is_late(now)

    def _is_late(self, now: float) -> bool:
        return now - self._renewed_at >= TRUSTED * self._lease_s
