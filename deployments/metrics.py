"""Defines every metric that replicas export. Ray adds application, deployment and replica, and the prefix `ray_`.

The names become `ray_kinoray_*` on each node's metrics port. Labels contain no ids and no prompts.
"""

from __future__ import annotations

from functools import cache

from ray.serve.metrics import Counter, Gauge, Histogram

SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]
STEP_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
BYTES = [2.0**power for power in range(10, 31, 2)]


@cache
def jobs_total() -> Counter:
    """Jobs that ended (completed, failed, canceled) or were requeued (retried, released, postponed, lease_lost)."""
    return Counter("kinoray_jobs_total", description="Jobs by outcome.", tag_keys=("model", "outcome"))


@cache
def queue_wait_seconds() -> Histogram:
    return Histogram(
        "kinoray_queue_wait_seconds", description="From accepted to claimed.", boundaries=SECONDS, tag_keys=("model",)
    )


@cache
def stage_seconds() -> Histogram:
    return Histogram(
        "kinoray_stage_seconds",
        description="Seconds of work in a stage.",
        boundaries=SECONDS,
        tag_keys=("model", "stage"),
    )


@cache
def step_seconds() -> Histogram:
    return Histogram(
        "kinoray_step_seconds", description="Seconds per denoising step.", boundaries=STEP_SECONDS, tag_keys=("model",)
    )


@cache
def checkpoint_seconds() -> Histogram:
    return Histogram(
        "kinoray_checkpoint_seconds",
        description="Seconds that a denoiser spends on one checkpoint.",
        boundaries=STEP_SECONDS,
        tag_keys=("model",),
    )


@cache
def stage_output_bytes() -> Histogram:
    return Histogram(
        "kinoray_stage_output_bytes",
        description="Bytes that a stage hands to the next.",
        boundaries=BYTES,
        tag_keys=("model", "stage"),
    )


@cache
def publish_retries_total() -> Counter:
    return Counter(
        "kinoray_publish_retries_total",
        description="How often a finished video had to wait because the artifact store could not be used.",
        tag_keys=("model",),
    )


@cache
def unpublished_jobs() -> Gauge:
    return Gauge("kinoray_unpublished_jobs", description="Denoised jobs of a conductor that are not stored yet.")


@cache
def unpublished_bytes() -> Gauge:
    return Gauge("kinoray_unpublished_bytes", description="The size of their latents and videos.")


@cache
def frames_total() -> Counter:
    return Counter("kinoray_frames_total", description="Frames decoded.", tag_keys=("model",))


@cache
def model_load_seconds() -> Histogram:
    return Histogram(
        "kinoray_model_load_seconds",
        description="From an empty process to a warm stage.",
        boundaries=SECONDS,
        tag_keys=("model", "stage"),
    )
