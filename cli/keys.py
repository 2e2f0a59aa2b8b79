"""`kinoray keys`: makes an API key and the config entry that admits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

keys_app = typer.Typer(no_args_is_help=True)


@keys_app.callback()
def keys() -> None:
    """API keys."""


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; jobs belong to this name and limits count by it.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="submit, read or admin; repeat it for several. Submit and read when absent."),
    ] = None,
) -> None:
    """Make an API key: print the key, which is not stored, and its entry for `args.api_keys`."""
    secret, entry = new_key(name, scope)
    typer.echo("The key; it is shown only now, and whoever has it can use it:", err=True)
    typer.echo(secret)
    typer.echo("Its entry, to paste under args.api_keys of the Serve config; it is no secret:", err=True)
    typer.echo(entry, nl=False)


def new_key(name: str, scopes: Sequence[str] | None = None) -> tuple[str, str]:
    """A new secret and the YAML list item that configures it; the item holds only the secret's hash.

    Raises:
        ConfigError: the name or a scope is invalid.
    """
    import yaml
    from pydantic import ValidationError

    from deployments.configuration.api_keys import DEFAULT_SCOPES, ApiKey, fingerprint, generate
    from pipelines.errors import ConfigError
    from pipelines.wrong_values import all_wrong

    secret = generate()
    entry = {"name": name, "sha256": fingerprint(secret), "scopes": list(dict.fromkeys(scopes or DEFAULT_SCOPES))}
    try:
        ApiKey.model_validate(entry)
    except ValidationError as error:
        raise ConfigError(f"no such key can be made: {'; '.join(all_wrong(error, ApiKey))}") from None
    # The config files here write an entry as a block and its scopes on one line.
    return secret, yaml.safe_dump([entry], sort_keys=False, default_flow_style=None, width=1000)
