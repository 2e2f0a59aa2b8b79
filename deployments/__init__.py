"""The relay: Ray Serve classes, one per leg, the HTTP API and the conductor. No tensor mathematics."""
