"""Job stores that want the same artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from storage.artifacts import ArtifactStore
from storage.owner import ForeignArtifacts, Ownership, require_ours


def starts(artifacts: ArtifactStore, name: str) -> bool:
    """Whether a job store of this name may start on the artifacts."""
    try:
        return require_ours(artifacts, name) is Ownership.OURS
    except ForeignArtifacts:
        return False


def that_starts(artifacts: ArtifactStore, names: Sequence[str]) -> str:
    """Start job stores at once; returns the one that may."""
    with ThreadPoolExecutor(len(names)) as pool:
        may = list(pool.map(lambda name: starts(artifacts, name), names))
    assert may.count(True) == 1
    return names[may.index(True)]
