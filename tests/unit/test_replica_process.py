"""What a replica's process tells Serve, which a new version of Serve must still listen to."""

from __future__ import annotations

import importlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve._private import replica, router

import deployments
from deployments.replica_process import COUNTERS, COUNTERS_MS, LOOP, MAIN_LOOP, prepare, require_main_loop
from deployments.stages.worker import Worker
from pipelines.errors import ConfigError


def test_serve_is_told_and_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    serves: Any = replica
    assert LOOP in serves.Replica.__init__.__code__.co_names
    assert COUNTERS in serves.ReplicaMetricsManager.__init__.__code__.co_names
    monkeypatch.setattr(replica, LOOP, True)
    for module in (replica, router):
        monkeypatch.setattr(module, COUNTERS, 100)
    monkeypatch.delenv(COUNTERS, raising=False)
    importlib.reload(deployments)  # which a replica imports with its class
    assert getattr(replica, LOOP) is False
    assert [getattr(module, COUNTERS) for module in (replica, router)] == [COUNTERS_MS] * 2


def test_what_an_operator_says_of_the_counters_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, LOOP, True)
    monkeypatch.setattr(replica, COUNTERS, 250)
    monkeypatch.setenv(COUNTERS, "250")
    prepare()
    assert (getattr(replica, LOOP), getattr(replica, COUNTERS)) == (False, 250)


def raised_in(thread: str) -> str:
    """What a stage's worker says when a replica constructs it in a thread of that name; empty if it is content."""
    said = [""]

    def construct() -> None:
        try:
            Worker(60)
        except ConfigError as error:
            said[0] = error.message

    running = threading.Thread(target=construct, name=thread)
    running.start()
    running.join()
    return said[0]


def test_a_worker_is_content_with_the_replicas_own_loop_only(monkeypatch: pytest.MonkeyPatch) -> None:
    require_main_loop()  # this is no replica
    assert raised_in("any") == ""
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace())
    assert raised_in(f"{MAIN_LOOP}default") == ""
    assert f"set {LOOP}=0" in raised_in("Thread-1 (_run_user_code_event_loop)")
