"""Everything that can go wrong, as one tree.

KinorayError
├── RequestError              the client's mistake: answered at once, never retried, no GPU is touched
│   ├── InvalidRequest        400
│   ├── Unauthorized          401: the API key is missing or unknown
│   ├── Forbidden             403: the API key may not do that
│   ├── NotFound              404
│   ├── PayloadTooLarge       413
│   ├── NotReady              400: the job exists, its result does not yet
│   ├── KeyReused             422: the idempotency key stands for another request
│   ├── TooManyRequests       429: a limit is reached; try again later
│   └── NotImplementedHere    501: a call of the protocol that this service does not know how to serve
├── Unavailable               503: a store cannot be reached; nothing was accepted
├── JobFailed                 the job cannot succeed, however often it is tried
│   └── WeightsUnavailable    a checkpoint cannot be found or fetched
├── LatentsLost               committed latents cannot be read back; they are made again
└── ConfigError               the operator's mistake: the service does not start

A message says what to do next. It never repeats a prompt or a request body.
"""

from __future__ import annotations


class KinorayError(Exception):
    """Base of the tree. `code` is for programs, the message for people."""

    code = "server_error"
    http_status = 500

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries; the default reduction loses keyword-only arguments.
        return (_rebuild, (type(self), self.message, self.param, self.code))


class RequestError(KinorayError):
    """The client's mistake."""

    code = "invalid_request"
    http_status = 400


class InvalidRequest(RequestError):
    """A field of the request is missing, unknown, out of range or unreadable."""


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


class NotReady(RequestError):
    """The video has not been rendered yet. 400 and not 409, which the OpenAI client would retry silently."""

    code = "video_not_ready"


class KeyReused(RequestError):
    """The idempotency key stands for another request."""

    code = "idempotency_key_reused"
    http_status = 422


class TooManyRequests(RequestError):
    """A limit is reached. After `retry_after_s` it may look better."""

    code = "rate_limit_exceeded"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class NotImplementedHere(RequestError):
    """Part of the protocol, but nothing here can do it."""

    code = "not_implemented"
    http_status = 501


class Unavailable(KinorayError):
    """The job store or the artifact store cannot be reached. Nothing was accepted; the request may be sent again."""

    code = "unavailable"
    http_status = 503


class JobFailed(KinorayError):
    """The job cannot succeed, however often it is tried."""

    code = "generation_failed"


class WeightsUnavailable(JobFailed):
    """A checkpoint cannot be found on this machine, nor fetched."""

    code = "weights_unavailable"


class LatentsLost(KinorayError):
    """Committed latents cannot be read back: the file is gone, or another version wrote it. They are made again."""

    code = "latents_lost"


class ConfigError(KinorayError):
    """A configuration file is wrong. Raised before anything starts."""

    code = "config_error"


def _rebuild(kind: type[KinorayError], message: str, param: str | None, code: str) -> KinorayError:
    return kind(message, param=param, code=code)
