"""All of Kinoray's errors, as one tree.

KinorayError
├── RequestError              the client's mistake: answered at once, never retried, no GPU is touched
│   ├── InvalidRequest        a field is missing, unknown, out of range or unreadable
│   └── ...                   what only HTTP knows is in deployments/http/errors.py
├── JobFailed                 the job cannot succeed, however often it is tried
│   ├── WeightsUnavailable    a checkpoint cannot be found or fetched, or is not what its model needs
│   ├── NanInOutput           a stage has computed NaN or infinity
│   └── StageUnavailable      a stage of the model cannot start
├── OutOfMemory               a stage ran out of memory; another attempt may find more of it
├── ReplicaUnavailable        one replica of a stage cannot work; the job goes on at another
├── LatentsLost               committed latents cannot be read back; they are made again
└── ConfigError               the operator's mistake: the service does not start

Each message says what to do next. It never contains a prompt or a request body.
"""

from __future__ import annotations


class KinorayError(Exception):
    """The base of the tree. `code` is for programs; the message is for people."""

    code = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries; the default reduction loses keyword-only arguments and attributes.
        return (_rebuild, (type(self), self.args, vars(self)))


class RequestError(KinorayError):
    """The client's mistake."""

    code = "invalid_request"


class InvalidRequest(RequestError):
    """A field of the request is missing, unknown, out of range or unreadable."""


class JobFailed(KinorayError):
    """The job cannot succeed, however often it is tried."""

    code = "generation_failed"


class WeightsUnavailable(JobFailed):
    """A checkpoint is not on this machine and cannot be fetched, or its contents are not what its model needs."""

    code = "weights_unavailable"


class NanInOutput(JobFailed):
    """A stage has computed NaN or infinity, as the same weights will again. The message names the stage."""

    code = "nan_in_output"


class StageUnavailable(JobFailed):
    """A stage of the model cannot start on any of its replicas. The message says why the last one failed."""

    code = "stage_unavailable"


class OutOfMemory(KinorayError):
    """A stage ran out of memory and has freed what the job had taken.

    It costs the attempt and no more: another replica, or this one after another stage on its GPU is done, may have
    enough.
    """

    code = "out_of_memory"


class ReplicaUnavailable(KinorayError):
    """This replica of a stage cannot work, but others can or soon will: the job goes on there and keeps its attempt."""

    code = "replica_unavailable"


class LatentsLost(KinorayError):
    """Committed latents cannot be read back: the file is gone, or another version wrote it. They are made again."""

    code = "latents_lost"


class ConfigError(KinorayError):
    """A configuration file is wrong. Raised before anything starts."""

    code = "config_error"


def _rebuild(kind: type[KinorayError], args: tuple[object, ...], state: dict[str, object]) -> KinorayError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error
