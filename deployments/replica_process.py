"""What Serve has to be told in the process of each replica, whatever started it and whatever its config file says.

Serve takes both from the environment of the process, which only the config file or the node could set: each of them,
and one that forgets it would work and be wrong. But Serve has loaded a replica's class, and with it this module, before
it looks at either.

- User code runs on the replica's own event loop. On Serve's default, a second loop for it in a thread of its own, a
  cancelled call gives its slot back before the stage's thread has ended, and the next call computes beside it.
- Serve's own counters are passed on once a second. Ten times, its default, every idle replica would wake for what is
  scraped every few seconds.
"""

from __future__ import annotations

import os
import sys
import threading

from pipelines.errors import ConfigError

LOOP = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
COUNTERS, COUNTERS_MS = "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", 1000
REPLICA, ROUTER = "ray.serve._private.replica", "ray.serve._private.router"
MAIN_LOOP = "AsyncIO Thread: "
"""How Ray names the thread of an actor's event loop."""


def prepare() -> None:
    """Tell Serve, if this is the process of a replica."""
    if REPLICA not in sys.modules:
        return
    setattr(sys.modules[REPLICA], LOOP, False)
    if COUNTERS not in os.environ:
        for module in (REPLICA, ROUTER):
            setattr(sys.modules[module], COUNTERS, COUNTERS_MS)


def require_main_loop() -> None:
    """See, in a constructor, that this replica's user code does run on its own event loop.

    Raises:
        ConfigError: it runs on another, since Serve has not heard of `prepare`.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        serve.get_replica_context()
    except RayServeException:
        return  # this is no replica
    if not threading.current_thread().name.startswith(MAIN_LOOP):
        raise ConfigError(
            "Serve runs this replica's code in a separate thread, where it takes a cancelled call for ended before it "
            f"has; this version of Ray has to be told otherwise: set {LOOP}=0 in the environment of every node"
        )
