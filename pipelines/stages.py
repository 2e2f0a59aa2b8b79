"""The stages that a video runs through, in their order: one name for each, in code, on the wire and in metrics."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    TEXT_ENCODE = "text_encode"
    IMAGE_ENCODE = "image_encode"
    DENOISE = "denoise"
    DECODE = "decode"
    VIDEO_ENCODE = "video_encode"
    """Part of `decode` as yet: its threads are set, its seconds are not measured apart."""
    PUBLISH = "publish"
