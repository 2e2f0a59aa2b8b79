"""The Ray Serve deployments: one class per stage, the HTTP API and the conductor. No tensor mathematics."""

from deployments.replica_process import prepare

prepare()
