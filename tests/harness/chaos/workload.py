"""Jobs with fixed seeds, submitted as a careful client does: no answer means the same request with the same key."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2

from jobs.priority import Priority

PROMPT = "a red circle moves left on a black background. " * 6
"""Longer than the model reads, so that what follows it changes no video. Each job's own ending keeps the text encoder
from answering out of its cache: every job holds it for a moment."""
LONG: tuple[dict[str, Any], ...] = (
    {"seed": 1, "num_inference_steps": 100},
    {"seed": 2, "num_inference_steps": 80, "width": 96, "height": 64},
    {"seed": 3, "num_inference_steps": 60, "width": 64, "height": 96, "fps": 12},
)
SHORT: tuple[dict[str, Any], ...] = (
    {"seed": 4, "num_inference_steps": 4},
    {"seed": 5, "num_inference_steps": 8},
    {"seed": 6, "num_inference_steps": 6, "num_frames": 17},
    {"seed": 7, "num_inference_steps": 4, "width": 128, "height": 128, "spritesheet": False},
    {"seed": 8, "num_inference_steps": 6, "width": 128, "height": 64, "fps": 24, "thumbnail": False},
)
ONE_IN = 8
"""One job in so many is a long one."""
ANSWER_S, PAUSE_S, PATIENCE_S = 120.0, 0.2, 300.0


@dataclass(slots=True)
class Submitted:
    """One request of a client. `job_id` is there once it was accepted."""

    key: str
    kind: int
    job_id: str | None = None
    unanswered: int = 0
    """How often it was sent without an answer that says whether it was accepted."""


@dataclass(slots=True)
class Client:
    """Submits jobs and remembers what was promised."""

    url: str
    random: random.Random
    submitted: list[Submitted] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, "client"))

    @property
    def kinds(self) -> tuple[dict[str, Any], ...]:
        """Every distinct request; the same kind makes the same bytes."""
        return LONG + SHORT

    def submit(
        self, count: int, *, kind: int | None = None, priority: Priority | None = None, wait_s: int | None = None
    ) -> list[Future[Submitted]]:
        """Begin so many requests, of a kind and a priority or as the dice fall.

        With `wait_s` each is held open until its video is there, or so many seconds.
        """
        new = [Submitted(uuid.uuid4().hex, self._kind() if kind is None else kind) for _ in range(count)]
        self.submitted += new
        priorities = self.random.choices(list(Priority), (1, 3, 1), k=count) if priority is None else [priority] * count
        pairs = zip(new, priorities, strict=True)
        return [self._pool.submit(self._until_answered, each, first, wait_s) for each, first in pairs]

    def accept(self, count: int, *, kind: int | None = None, priority: Priority | None = None) -> Sequence[Submitted]:
        """Submit jobs and wait until all are accepted."""
        return [future.result() for future in self.submit(count, kind=kind, priority=priority)]

    def content(self, job_id: str) -> bytes:
        """A finished video's bytes, as a client gets them."""
        with self._http() as http:
            answer = http.get(f"/v1/videos/{job_id}/content")
        answer.raise_for_status()
        return bytes(answer.content)

    def close(self) -> None:
        self._pool.shutdown()

    def _kind(self) -> int:
        if self.random.randrange(ONE_IN) == 0:
            return self.random.randrange(len(LONG))
        return len(LONG) + self.random.randrange(len(SHORT))

    def _until_answered(self, submitted: Submitted, priority: Priority, wait_s: int | None) -> Submitted:
        body = {"prompt": PROMPT + submitted.key, "priority": priority.value, **self.kinds[submitted.kind]}
        headers = {"idempotency-key": submitted.key}
        if wait_s is not None:
            headers["prefer"] = f"wait={wait_s}"
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._http() as http:
                    answer = http.post("/v1/videos", json=body, headers=headers)
            except httpx2.TransportError:
                pass
            else:
                if answer.status_code < 500:
                    answer.raise_for_status()
                    submitted.job_id = answer.json()["id"]
                    return submitted
            submitted.unanswered += 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"a request was not answered within {PATIENCE_S:.0f} s")
            time.sleep(PAUSE_S)

    def _http(self) -> httpx2.Client:
        # One connection for each request: none is found dead that was kept from before a kill.
        return httpx2.Client(base_url=self.url, timeout=ANSWER_S, trust_env=False)
