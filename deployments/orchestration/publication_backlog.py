"""Bounds what a conductor has rendered and not yet stored, so that an outage of the bucket fills no memory or disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from deployments import metrics

log = logging.getLogger("ray.serve")


class PublicationBacklog:
    """The finished videos of a conductor's jobs that wait for the artifact store, in the object stores of the nodes.

    While there are too many, the conductor claims no job and none of its jobs gets a denoiser. What denoises or decodes
    already goes on, so that the bound is exceeded by as many jobs. Each conductor has a bound of its own.
    """

    def __init__(self, unpublished: Callable[[], Iterable[int]], max_jobs: int, max_bytes: int) -> None:
        """
        Args:
            unpublished: gives the bytes of each finished video that is not stored yet.
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
                "%d finished videos (%d MiB) wait for the artifact store; until it takes them, no more jobs are begun",
                len(sizes),
                sum(sizes) / 2**20,
            )
        if self._was_full and not full:
            log.warning("the artifact store takes videos again: jobs are begun again")
        self._was_full = full
        return full
