"""Fetch one file of the hub into its client's cache, and go on where an earlier attempt stopped.

The client (huggingface_hub since 1.18) writes each download to a new name and removes it when it fails, so that two
processes whose locks do not work cannot spoil each other's file; a checkpoint of 26 GB would begin anew each time.
Here a partial file keeps its name, and a whole one takes its place in one step. Writers cannot spoil it either: each
writes the same bytes at the same places, forward from what is there already. What was resumed is hashed before it
counts, for a machine that lost power may have kept the file's length and not its contents.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import WeightsUnavailable
from pipelines.weights.hub_errors import hub_name

if TYPE_CHECKING:
    from tenacity import RetryCallState

TRIES = 3
"""The attempts in a row that may bring nothing; in each the client itself tries a few times."""
WAIT_S = 1.0
MAX_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a commit of a repository, as the hub lists it."""

    repo: str
    commit: str
    path: str
    size: int
    """In bytes."""
    blob: str
    """The git object's id, which the contents determine."""


def cache_folder(repo: str) -> Path:
    """The folder of a repository in the cache, with `blobs`, `refs` and `snapshots`."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=repo, repo_type="model")


def partial_path(file: RemoteFile) -> Path:
    """Where a file lies while it is fetched."""
    return cache_folder(file.repo) / "blobs" / f"{file.blob}.incomplete"


def partial_size(file: RemoteFile) -> int:
    """The bytes of a file that earlier attempts brought."""
    path = partial_path(file)
    return path.stat().st_size if path.is_file() else 0


def download(file: RemoteFile, model: str) -> Path:
    """Fetch a file that is not whole in the cache; returns its path there.

    Raises:
        WeightsUnavailable: the file that came is not the one that the hub lists.
        httpx2.TransportError, HfHubHTTPError, OSError: it did not come, in several attempts.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import are_symlinks_supported
    from huggingface_hub.utils import WeakFileLock

    url = hf_hub_url(file.repo, file.path, revision=file.commit)
    etag = get_hf_file_metadata(url, retry_on_errors=True).etag
    if etag is None:
        raise WeightsUnavailable(f"{model}: {url} has no ETag, so that it is no hub that answers; correct HF_ENDPOINT")
    folder = cache_folder(file.repo)
    blob, partial = folder / "blobs" / etag, partial_path(file)
    place = folder / "snapshots" / file.commit / file.path
    # The client's own lock: another tool that fetches the same file is waited for, and finds it afterwards.
    lock = Path(constants.HF_HUB_CACHE).expanduser() / ".locks" / folder.name / f"{etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        # Only now, for another process may have replaced a file that was cut short.
        if _whole(place, file):
            return place
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        links = are_symlinks_supported(folder)
        if not _whole(blob, file):
            if _receive(url, file, partial, model):
                _check_contents(partial, etag, file, model)
            _move(partial, blob if links else place, file)
        elif not links:  # as on SMB
            # Other files may link to the blob. The client would copy it to where others look for the whole file.
            shutil.copyfile(blob, partial)
            _move(partial, place, file)
    return Path(hf_hub_download(file.repo, file.path, revision=file.commit))  # it links the blob if it must


def _move(source: Path, target: Path, file: RemoteFile) -> None:
    try:
        source.replace(target)
    except FileNotFoundError:  # another process had it complete at the same time, where locks do not work
        if not _whole(target, file):
            raise


def _whole(blob: Path, file: RemoteFile) -> bool:
    return blob.is_file() and blob.stat().st_size == file.size


def _receive(url: str, file: RemoteFile, partial: Path, model: str) -> bool:
    """Receive what is missing of a file; returns whether some of it had been there."""
    import httpx2
    from tenacity import Retrying, retry_if_exception, wait_exponential

    may_pass, wait = retry_if_exception(_may_pass), wait_exponential(WAIT_S, MAX_WAIT_S)
    attempts = Retrying(stop=_Stalled(partial), retry=may_pass, wait=wait, reraise=True)
    resumed = False
    try:
        for attempt in attempts:
            with attempt:
                resumed = _go_on(url, file, partial) or resumed
    except httpx2.TransportError as error:
        if not (come := partial_size(file)):
            raise
        raise WeightsUnavailable(
            f"{model}: the connection to {hub_name()} broke at {come / 1e9:.2f} of {file.size / 1e9:.2f} GB of "
            f"{file.path} of {file.repo}; what has come is kept, run `./kinoray prefetch {model}` again"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        partial.unlink(missing_ok=True)  # the client's own: the server ended the file at another size
        raise WeightsUnavailable(
            f"{model}: {hub_name()} lists {file.path} of {file.repo} with {file.size} bytes and sends another number; "
            f"run `./kinoray prefetch {model}` again, or fetch it from another hub (HF_ENDPOINT)"
        ) from error
    return resumed


def _go_on(url: str, file: RemoteFile, partial: Path) -> bool:
    """Receive a file from where it stopped; returns whether some of it was there."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # Not O_APPEND: each writer has a place of its own.
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as target:
        start = target.seek(0, os.SEEK_END)
        if start > file.size:
            start = target.seek(0)
            target.truncate()
        # Always from the hub's own address: the one that it redirects to expires.
        http_get(
            url, target, resume_size=start, headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.size, displayed_filename=file.path,
        )  # fmt: skip
    return start > 0


class _Stalled:
    """A stop of tenacity: some attempts in a row brought nothing."""

    def __init__(self, partial: Path) -> None:
        self.partial, self.size, self.idle = partial, -1, 0

    def __call__(self, _state: RetryCallState) -> bool:
        size = self.partial.stat().st_size if self.partial.is_file() else 0
        self.idle = self.idle + 1 if size == self.size else 1
        self.size = size
        return self.idle >= TRIES


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt can have another end: the connection broke, or the server is busy."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _check_contents(partial: Path, etag: str, file: RemoteFile, model: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", etag):
        return  # a small file of git itself: its etag is no plain digest
    with partial.open("rb") as contents:
        digest = hashlib.file_digest(contents, "sha256").hexdigest()
    if digest != etag:
        partial.unlink(missing_ok=True)
        raise WeightsUnavailable(
            f"{model}: {file.path} of {file.repo} did not survive an interruption and was removed; run "
            f"`./kinoray prefetch {model}` again"
        )
