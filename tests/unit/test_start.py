"""How a Ray of this process's own is started, without one."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from cli import service
from cli.service import STARTS, StartFailed


class Slow:
    """A Ray whose processes are too slow so many times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.shutdowns = times, error, 0

    def init(self, **_: Any) -> None:
        if self.left:
            self.left -= 1
            raise self.error

    def shutdown(self) -> None:
        self.shutdowns += 1


def start(monkeypatch: pytest.MonkeyPatch, slow: Slow) -> None:
    monkeypatch.setattr(ray, "init", slow.init)
    monkeypatch.setattr(ray, "shutdown", slow.shutdown)
    service._start_ray(address="local")


TIMED_OUT = Exception("The current node timed out during startup.")


def test_a_busy_machine_gets_more_than_the_time_that_ray_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(STARTS - 1, TIMED_OUT)
    start(monkeypatch, slow)
    assert slow.shutdowns == STARTS - 1, "nothing is left of one that was too slow"


def test_one_that_never_starts_is_given_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartFailed, match=f"did not start on this machine, {STARTS} times: The current node timed out"):
        start(monkeypatch, Slow(STARTS, TIMED_OUT))


def test_another_fault_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(1, ValueError("no such option"))
    with pytest.raises(ValueError, match="no such option"):
        start(monkeypatch, slow)
    assert slow.shutdowns == 0
