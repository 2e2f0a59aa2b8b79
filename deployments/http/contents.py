"""The files of a finished video: where they are, and the answer that gives one."""

from __future__ import annotations

from fastapi import Response
from fastapi.responses import FileResponse, RedirectResponse

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

    def urls(self, job: Job) -> dict[str, str]:
        """The URLs of a job's files: in the bucket, valid for a while, or else under this service's own address."""
        if job.status is not Status.COMPLETED or job.expired:
            return {}
        made = {variant: key_of(job) for variant, (key_of, _) in VARIANTS.items() if job.output.get(variant, True)}
        path = f"/v1/videos/{job.id}/content?variant="
        try:
            return {variant: self._store.url(key) or path + variant for variant, key in made.items()}
        except StorageUnavailable:  # the bucket's credentials could not be renewed
            return {variant: path + variant for variant in made}

    async def answer(self, job: Job, variant: str) -> Response:
        """The answer with a completed job's file.

        Raises:
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
        if (path := await self._lane.finish(self._store.local_path, key)) is None:
            raise NotFound("there is no such file of this video: it is not in the artifact store any more")
        return FileResponse(
            path, media_type=kind, filename=download_name(key), content_disposition_type="inline", headers=headers
        )
