"""The form of a case: something that people send, what the service should make of it, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

GOOD = "as meant"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and the folder of its data."""

    http: httpx2.Client
    data: Path

    def create(self, **fields: Any) -> httpx2.Response:
        return self.http.post("/v1/videos", json={"prompt": "a red circle", **fields})

    def forget(self, answer: httpx2.Response) -> None:
        """Delete the job of an answer, so that none is rendered for a case that needs no video."""
        if answer.status_code == 200:
            self.http.delete(f"/v1/videos/{answer.json()['id']}")


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and a function that sends it and says what came of it: `GOOD`, or in words what is wrong."""

    section: str
    sent: str
    replay: Callable[[Service], str]


def outcome(answer: httpx2.Response) -> str:
    """The status of an answer, and what it says."""
    try:
        error = answer.json()["error"]
        return f"{answer.status_code} `{error['code']}`: {error['message']}"
    except (ValueError, KeyError, TypeError):
        kind = answer.headers.get("content-type", "").partition(";")[0]
        return f"{answer.status_code}{f' ({kind})' if kind else ''}"


def refused(answer: httpx2.Response, *words: str, status: int = 400) -> str:
    """`GOOD` for a refusal with these words."""
    said = outcome(answer)
    return GOOD if answer.status_code == status and all(word in said for word in words) else said
