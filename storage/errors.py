"""What a store of artifacts may raise beside FileNotFoundError."""

from __future__ import annotations


class StorageUnavailable(OSError):
    """The store cannot be used now; it may be in a while. A sentence that names neither keys nor credentials."""


class ObjectDamaged(ValueError):
    """An object is not what was put there, however often it is read."""
