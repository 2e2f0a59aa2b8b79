"""What the hub's client raises, as one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import WeightsUnavailable
from pipelines.weights.pin import MAIN


def hub_name() -> str:
    """The hub in a sentence: by its address where HF_ENDPOINT names a mirror."""
    from huggingface_hub import constants

    return "the Hugging Face hub" if constants.ENDPOINT == "https://huggingface.co" else f"the hub {constants.ENDPOINT}"


def way_out(model: str) -> str:
    """What to do where there is no hub."""
    return (
        "Where no hub can be reached, copy the checkpoint here and set "
        f"`source: {{folder: /path/to/it}}` in the card {model}.yaml"
    )


def offline(model: str, repo: str, what: str) -> WeightsUnavailable:
    """The error for files that are not in the cache while HF_HUB_OFFLINE forbids to fetch them."""
    return WeightsUnavailable(
        f"{model}: {what} of {repo} is not in the cache and HF_HUB_OFFLINE is set; run `./kinoray prefetch {model}` "
        f"where {hub_name()} can be reached. {way_out(model)}"
    )


@contextmanager
def sentences(model: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into WeightsUnavailable, for the model with this id."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionResolutionError

    try:
        yield
    except HfHubHTTPError as error:
        raise WeightsUnavailable(f"{model}: {_answered(error, model, repo, revision)}") from error
    except HFValidationError as error:
        raise WeightsUnavailable(
            f"{model}: {repo!r} is no name of a repository on the hub, OWNER/NAME: {error}"
        ) from error
    except (OfflineModeIsEnabled, RevisionResolutionError) as error:
        if not constants.is_offline_mode():
            raise WeightsUnavailable(f"{model}: {_unreachable(error, model, repo)}") from error
        raise offline(model, repo, f"the commit of {revision or MAIN}") from error
    except httpx2.TransportError as error:
        raise WeightsUnavailable(f"{model}: {_unreachable(error, model, repo)}") from error
    except OSError as error:
        raise WeightsUnavailable(f"{model}: {_not_written(error, model, repo)}") from error


def _answered(error: Exception, model: str, repo: str, revision: str | None) -> str:
    """The sentence for an answer that is an error."""
    from huggingface_hub import errors, get_token

    assert isinstance(error, errors.HfHubHTTPError)
    status = error.response.status_code
    page = f"https://huggingface.co/{repo}"
    if isinstance(error, errors.GatedRepoError):
        whose = (
            "with the account that HF_TOKEN belongs to" if get_token() else "and set HF_TOKEN to your account's token"
        )
        return f"{repo} is gated: accept the licence at {page} {whose}, then try again"
    if isinstance(error, errors.DisabledRepoError):
        return f"{repo} was disabled on {hub_name()}; see {page}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision or MAIN!r}; correct `revision` in the card {model}.yaml"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{error.response.url} is not there; correct the source in the card {model}.yaml"
    if status == 401 and "Invalid credentials" in str(error):
        return (
            f"{hub_name()} refuses the token in HF_TOKEN; take a valid one from https://huggingface.co/settings/tokens"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        token = "the token in HF_TOKEN does not open it" if get_token() else "it is private and needs HF_TOKEN"
        return f"{hub_name()} shows no repository {repo}: its name is wrong in the card {model}.yaml, or {token}"
    return f"{hub_name()} answered {status} for {repo}; run `./kinoray prefetch {model}` again later. {way_out(model)}"


def _unreachable(error: Exception, model: str, repo: str) -> str:
    cause = error.__cause__ or error
    return (
        f"{repo} could not be fetched, since {hub_name()} cannot be reached ({type(cause).__name__}). {way_out(model)}"
    )


def _not_written(error: OSError, model: str, repo: str) -> str:
    """The sentence for a file system's refusal, and for what the client raises as an OSError of its own."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, FileMetadataError

    cause = error.__cause__
    if isinstance(error, FileMetadataError) or isinstance(cause, FileMetadataError):
        return f"{hub_name()} does not answer as a hub does; correct HF_ENDPOINT, or look for a proxy in between"
    if isinstance(error, EntryNotFoundError) or error.errno is None:
        return _unreachable(error, model, repo)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk became full while {repo} was fetched to {constants.HF_HUB_CACHE}; free some of it, or set "
            f"HF_HOME to a larger one, and run `./kinoray prefetch {model}` again, which goes on where it stopped"
        )
    return (
        f"{repo} could not be written to the cache {constants.HF_HUB_CACHE} ({error.strerror}); make it "
        "writable or set HF_HOME to a folder that is"
    )
