"""The Ray Serve deployments: one class per stage, the HTTP API and the conductor. No tensor mathematics."""
