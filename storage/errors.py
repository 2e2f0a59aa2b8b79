"""The errors that an artifact store may raise besides FileNotFoundError."""

from __future__ import annotations


class StorageUnavailable(OSError):
    """The store is unavailable, perhaps temporarily. The message is a sentence without keys or credentials."""


class ObjectDamaged(ValueError):
    """An object differs from what was put there, even when it is read again."""
