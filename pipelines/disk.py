"""A disk that is full for a while, told from a fault of the work."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import ReplicaUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, none within the user's quota, or none within the process's limit on the size of a file."""


@contextmanager
def temporary_files() -> Iterator[None]:
    """Around the writing of temporary files.

    Raises:
        ReplicaUnavailable: the disk is full. The job has no part in that, so it keeps its attempt.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ReplicaUnavailable(
            f"the temporary folder {tempfile.gettempdir()} of a replica's machine is full: make room in it, or set "
            "TMPDIR to another"
        ) from error
