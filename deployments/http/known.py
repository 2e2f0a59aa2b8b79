"""Answers a request whose job is written already: with the Video, as far as it is known, whatever cannot be read now.

An error would say that nothing was done, and OpenAI's clients send a request again after most of them. That would be a
second video.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.http.queue_view import Place
from deployments.http.schemas import Video
from jobs.record import Job

log = logging.getLogger("ray.serve")

AT_MOST_S = 5.0
"""How long an answer waits for what it can do without."""


async def video_of(job: Job, show: Callable[[Job], Awaitable[Video]]) -> Video:
    """The Video that `show` makes of a job; if that fails or takes too long, the Video without its place in the queue.

    It has no URLs then either; a job that was written just now has none anyway.
    """
    try:
        async with asyncio.timeout(AT_MOST_S):
            return await show(job)
    except Exception as error:
        log.warning("%s is answered without its place in the queue: %s", job.id, type(error).__name__)
        return Video.of(job, Place(), {})
