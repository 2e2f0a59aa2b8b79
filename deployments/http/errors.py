"""The errors that only the HTTP API raises, in the tree of `pipelines.errors`, and the status of every error.

KinorayError                  500
├── RequestError              400
│   ├── InvalidRequest        400
│   ├── Unauthorized          401: the API key is missing or unknown
│   ├── Forbidden             403: the API key may not do that
│   ├── NotFound              404
│   ├── PayloadTooLarge       413
│   ├── TooSlow               408: the body does not arrive
│   ├── NotReady              400: the job exists, its result does not yet
│   ├── NoSuchRange           416: the file has nothing of what Range asks for
│   ├── KeyReused             422: the idempotency key belongs to another request
│   ├── TooManyRequests       429: a limit is reached; try again later
│   │   └── Overloaded        503: this replica has as much in hand as it may; nothing was done
│   └── NotImplementedHere    501: a call of the protocol that this service cannot serve
└── Unavailable               503: a store cannot be reached; nothing was accepted
    └── PerhapsAccepted       503: the job store went away while it took the job
"""

from __future__ import annotations

from pipelines.errors import KinorayError, RequestError


def status_of(error: KinorayError) -> int:
    """The HTTP status of an error's response."""
    return getattr(error, "http_status", 400 if isinstance(error, RequestError) else 500)


class Unauthorized(RequestError):
    """The API key is missing or unknown."""

    code = "invalid_api_key"
    http_status = 401


class Forbidden(RequestError):
    """The API key is known, but may not do that."""

    code = "insufficient_scope"
    http_status = 403


class NotFound(RequestError):
    """No such video, or it has been deleted."""

    code = "not_found"
    http_status = 404


class PayloadTooLarge(RequestError):
    """The request's body or a file in it is larger than the server accepts."""

    code = "payload_too_large"
    http_status = 413


class TooSlow(RequestError):
    """The request's body does not arrive in time."""

    code = "body_timeout"
    http_status = 408


class NotReady(RequestError):
    """The video has not been rendered yet. The status is 400, not 409, which the OpenAI client would retry silently."""

    code = "video_not_ready"


class NoSuchRange(RequestError):
    """The `Range` header cannot be read, or the file has nothing of what it asks for."""

    code = "range_not_satisfiable"
    http_status = 416

    def __init__(self, message: str, size: int) -> None:
        """
        Args:
            size: of the file, in bytes.
        """
        super().__init__(message, param="Range")
        self.size = size


class KeyReused(RequestError):
    """The idempotency key belongs to another request."""

    code = "idempotency_key_reused"
    http_status = 422


class TooManyRequests(RequestError):
    """A limit is reached. A retry after `retry_after_s` may succeed."""

    code = "rate_limit_exceeded"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Overloaded(TooManyRequests):
    """The service has as many requests of a kind in hand as it may. It has done nothing; a retry may succeed."""

    code = "overloaded"
    http_status = 503


class NotImplementedHere(RequestError):
    """The call is part of the protocol, but nothing here can serve it."""

    code = "not_implemented"
    http_status = 501


class Unavailable(KinorayError):
    """The job store or the artifact store cannot be reached. Nothing was accepted; the request may be sent again."""

    code = "unavailable"
    http_status = 503


class PerhapsAccepted(Unavailable):
    """The job store went away while it took a job, which may be accepted. To send the request again may make two."""

    code = "acceptance_unknown"

    def __init__(self, job_id: str | None, *, repeatable: bool, gone: str = "the job store") -> None:
        """
        Args:
            job_id: None if it is not known.
            repeatable: the request has an idempotency key, so it can be sent again.
            gone: what went away.
        """
        again = "send the request again: its Idempotency-Key keeps that from making a second video"
        if not repeatable:
            tells = f"GET /v1/videos/{job_id} will tell once {gone} is back" if job_id else "GET /v1/videos will tell"
            again = f"{tells}. Requests with an Idempotency-Key can be sent again without making a second video"
        super().__init__(f"{gone} went away while it took this job, which may have been accepted; {again}")
        self.repeatable = repeatable
