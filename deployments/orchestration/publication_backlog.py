"""Bounds what a conductor has denoised and not yet stored, so that it fills no memory or disk while it waits.

It waits for decoders that are slower than the denoisers, or for a bucket that is away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from deployments import metrics

log = logging.getLogger("ray.serve")


class PublicationBacklog:
    """The latents and videos of a conductor's jobs that need no denoiser any more, in the object stores of the nodes.

    While there are too many, the conductor claims no job and none of its jobs gets a denoiser. What is denoised already
    goes on, so that the bound is exceeded by as many jobs. Each conductor has a bound of its own.
    """

    def __init__(self, unpublished: Callable[[], Iterable[int]], max_jobs: int, max_bytes: int) -> None:
        """
        Args:
            unpublished: gives the bytes that each such job holds.
        """
        self._unpublished = unpublished
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._was_full = False
        self._shown: list[int] | None = None

    def is_full(self) -> bool:
        """Whether no more may be rendered for now."""
        sizes = list(self._unpublished())
        if sizes != self._shown:  # it is asked several times a second, and setting a gauge costs more than the rest
            metrics.unpublished_jobs().set(len(sizes))
            metrics.unpublished_bytes().set(sum(sizes))
            self._shown = sizes
        full = len(sizes) >= self._max_jobs or sum(sizes) >= self._max_bytes
        if full and not self._was_full:
            log.warning(
                "%d denoised jobs (%d MiB) wait to be decoded and stored; until some are, no more jobs are begun",
                len(sizes),
                sum(sizes) / 2**20,
            )
        if self._was_full and not full:
            log.warning("fewer denoised jobs wait: jobs are begun again")
        self._was_full = full
        return full
