"""The stages of a video, in order. Each has one name in code, on the wire and in metrics."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    TEXT_ENCODE = "text_encode"
    IMAGE_ENCODE = "image_encode"
    DENOISE = "denoise"
    DECODE = "decode"
    VIDEO_ENCODE = "video_encode"
    """Still part of `decode`: its thread count can be set, but its seconds are not measured separately."""
    PUBLISH = "publish"

    @classmethod
    def named(cls, name: str | None) -> Stage | None:
        """The stage of this name; None for one that only another version of Kinoray has."""
        return cls(name) if name in set(cls) else None
