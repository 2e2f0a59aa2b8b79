"""Prometheus metrics from the job store, read at each scrape: every API replica gives the same answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.store import JobStore


class StoreMetrics(Collector):
    """Collects how many live jobs are in each state, how much work remains, and how long the oldest job has waited."""

    def __init__(self, jobs: JobStore) -> None:
        self.jobs = jobs

    def collect(self) -> Iterator[Metric]:
        counts = GaugeMetricFamily("kinoray_jobs", "Live jobs in the store by state.", labels=("model", "status"))
        for (model, status), count in sorted(self.jobs.counts().items()):
            counts.add_metric((model, status.value), count)
        yield counts
        backlog = GaugeMetricFamily(
            "kinoray_backlog_seconds", "Estimated seconds of computing that live jobs still need.", labels=("model",)
        )
        for model, seconds in sorted(self.jobs.backlog_s().items()):
            backlog.add_metric((model,), seconds)
        yield backlog
        oldest = self.jobs.oldest_queued_at()
        age = 0.0 if oldest is None else max(time.time() - oldest, 0.0)
        yield GaugeMetricFamily("kinoray_oldest_queued_age_seconds", "Age of the oldest queued job.", value=age)


def exposition(jobs: JobStore) -> tuple[bytes, str]:
    """The text and content type of a scrape. It makes its own registry, as Serve re-pickles module-level ones."""
    registry = CollectorRegistry()
    registry.register(StoreMetrics(jobs))
    return generate_latest(registry), CONTENT_TYPE_LATEST
