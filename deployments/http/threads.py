"""How soon the threads of a busy process let each other go on."""

from __future__ import annotations

import sys

SWITCH_S = 0.0005
"""How long a thread waits for a busy one: an API's for the event loop at each statement of the job store, and a proxy's
two event loops for each other at each of the many times that a request goes from one to the other. Python's 5 ms are
longer than most requests take."""


def switch_soon() -> None:
    """Have this process's threads switch after `SWITCH_S`."""
    sys.setswitchinterval(SWITCH_S)
