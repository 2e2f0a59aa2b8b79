"""The token without which nobody talks to the Ray of a service on this machine.

Whoever reaches Ray's ports may run code as the user who started it: through its dashboard and job API, or by joining it
as a driver. That all of it listens on the loopback interface keeps other machines out, but neither the other users of
this one nor a web page that finds its way there. With a token, which only that user can read, Ray answers nobody else.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pipelines.errors import ConfigError

TRIES = 5


def token_file(data: Path) -> Path:
    """The file of a service's token, in its `KINORAY_DATA`; made if it is missing.

    It stays the same while it is there, so that other commands and nodes of a running service find it. One that others
    could read, or have put there, is replaced.

    Raises:
        ConfigError: no file there stays one user's.
    """
    path = data.resolve() / "ray_token"
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        ours = _is_ours_alone(path)
        if ours:
            return path
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            if ours is None:
                os.link(fresh, path)
            else:
                os.replace(fresh, path)
        except FileExistsError:
            continue  # of two services that start at once, the second has the first one's
        finally:
            fresh.unlink(missing_ok=True)
    raise ConfigError(f"{path} cannot be kept from other users; set KINORAY_DATA to a folder on a disk that has owners")


def use_token() -> None:
    """Have Ray in this process read the token of its environment, also if it has read another one before."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")  # in what mode: Ray read that when it was imported
    AuthenticationTokenLoader.instance().reset_cache()


def _is_ours_alone(path: Path) -> bool | None:
    """Whether nobody else can have read or written a file; None if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    plain = found.st_mode & 0o170077 == 0o100000  # a file, and nobody else has any right to it
    return plain and found.st_uid == os.geteuid() and found.st_size > 0
