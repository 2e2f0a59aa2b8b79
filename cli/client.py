"""A small HTTP client of the service; it uses only the public API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from pipelines.errors import KinorayError

POLL_S = 0.25


class RequestRefused(KinorayError):
    """The service answered with an error; the message is the service's own."""


class Client:
    """Create, watch and download videos."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx2.Client(base_url=base_url, timeout=60, trust_env=False)  # never through a proxy

    def create(self, fields: dict[str, Any], image: Path | None = None) -> dict[str, Any]:
        """Create a job; fields that are None are left out."""
        said = {key: str(value) for key, value in fields.items() if value is not None}
        if image is None:
            return self._json(self._http.post("/v1/videos", json={k: v for k, v in fields.items() if v is not None}))
        with image.open("rb") as file:
            return self._json(self._http.post("/v1/videos", data=said, files={"input_reference": file}))

    def watch(self, video_id: str) -> Iterator[dict[str, Any]]:
        """Poll a job and yield each answer until the job has ended."""
        while True:
            video = self._json(self._http.get(f"/v1/videos/{video_id}"))
            yield video
            if video["status"] in ("completed", "failed"):
                return
            time.sleep(POLL_S)

    def download(self, video_id: str) -> bytes:
        """Download the finished mp4."""
        response = self._http.get(f"/v1/videos/{video_id}/content", follow_redirects=True)
        if response.is_error:
            self._json(response)
        return response.content

    @staticmethod
    def _json(response: httpx2.Response) -> dict[str, Any]:
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise RequestRefused(answer["error"]["message"], code=answer["error"]["code"])
        return answer
