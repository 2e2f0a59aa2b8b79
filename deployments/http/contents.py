"""The files of a finished video: where they are, and the answer that gives one."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers

from deployments.http.conditional import StoredFile, as_asked
from deployments.http.errors import NotFound
from deployments.http.overload import Lane
from jobs.lifecycle import Status
from jobs.record import Job
from storage.artifacts import ArtifactStore
from storage.errors import StorageUnavailable
from storage.keys import download_name, spritesheet_key, thumbnail_key, video_key

AT_ONCE = 16
"""The number of files that may be looked for at once."""

VARIANTS = {
    "video": (video_key, "video/mp4"),
    "thumbnail": (thumbnail_key, "image/webp"),
    "spritesheet": (spritesheet_key, "image/webp"),
}
"""By name: the key of a job's file, and its media type."""


class Contents:
    """Answers with the files of jobs: from the folder, or by the URL that the bucket has for them."""

    def __init__(self, store: ArtifactStore, most: int) -> None:
        """
        Args:
            most: how many requests may wait for the artifact store.
        """
        self._store = store
        self._lane = Lane("contents", AT_ONCE, most)

    def urls(self, job: Job, prefix: str) -> dict[str, str]:
        """The URLs of a job's files: in the bucket, valid for a while, or else under this service's own address.

        Args:
            prefix: the path under which the client has this service; empty for the root.
        """
        if job.status is not Status.COMPLETED or job.expired:
            return {}
        made = {variant: key_of(job) for variant, (key_of, _) in VARIANTS.items() if job.output.get(variant, True)}
        path = f"{prefix}/v1/videos/{job.id}/content?variant="
        try:
            return {variant: self._store.url(key) or path + variant for variant, key in made.items()}
        except StorageUnavailable:  # the bucket's credentials could not be renewed
            return {variant: path + variant for variant in made}

    async def answer(self, job: Job, variant: str, asked: Headers | None = None) -> Response:
        """The answer with a completed job's file.

        Args:
            asked: the headers of a GET, which may want a part of the file or have it already.

        Raises:
            NoSuchRange
            NotFound: the file was not made, has expired or is gone.
            Overloaded: too many wait for the artifact store.
            StorageUnavailable: the bucket's credentials could not be renewed.
        """
        key_of, kind = VARIANTS[variant]
        key = key_of(job)
        if job.expired:
            raise NotFound("there is no such file of this video: its files have expired", code="video_expired")
        headers = {"cache-control": "private", "x-video-id": job.id}
        if not job.output.get(variant, True):
            raise NotFound(f"there is no such file of this video: it was made without a {variant}")
        if (url := await self._lane.run(self._store.url, key)) is not None:
            return RedirectResponse(url, 302, {**headers, "cache-control": "no-store"})
        if (found := await self._lane.finish(self._find, key)) is None:
            raise NotFound("there is no such file of this video: it is not in the artifact store any more")
        path, stat = found
        # The bytes of a completed video's files never change, so nothing of them needs to be read for the tag.
        headers["etag"] = f'"{job.id}.{variant}.{stat.st_size}"'
        file = StoredFile(
            path, media_type=kind, filename=download_name(key), content_disposition_type="inline", headers=headers,
            stat_result=stat,
        )  # fmt: skip
        return file if asked is None else as_asked(file, asked)

    def _find(self, key: str) -> tuple[Path, os.stat_result] | None:
        path = self._store.local_path(key)
        try:
            return None if path is None else (path, path.stat())
        except FileNotFoundError:
            return None
