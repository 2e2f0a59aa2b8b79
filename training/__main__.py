"""`python -m training train MODEL` and `python -m training evaluate [MODEL ...]`."""

from __future__ import annotations

import logging
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Model(Enum):
    """The models with a recipe here."""

    LTX = "ltx-tiny"
    SVD = "svd-tiny"


@app.command()
def train(
    model: Annotated[Model, typer.Argument(help="What to train from scratch: the autoencoder first.")],
    out: Annotated[Path, typer.Option(help="Where the finished model goes.")],
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    autoencoder: Annotated[Path | None, typer.Option(help="One that is trained already, to train the rest on.")] = None,
) -> None:
    """Train a demo model from scratch."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    vae = autoencoder or out.with_name(out.name + "-vae")
    if model is Model.LTX:
        from training.ltx.dit import train_dit as train_rest
        from training.ltx.vae import train_vae
    else:
        from training.svd.unet import train_unet as train_rest
        from training.svd.vae import train_vae
    if autoencoder is None:
        train_vae(vae, seed)
    train_rest(vae, out, seed)


@app.command()
def evaluate(
    models: Annotated[list[Model] | None, typer.Argument(help="All of them, if none is named.")] = None,
) -> None:
    """Print the tables that judge the shipped models; exits with 1 when a bound is missed."""
    missed = []
    for model in models or list(Model):
        family = model.value.partition("-")[0]
        verdict = import_module(f"training.{family}.evaluate").evaluate()
        print("\n".join(verdict.table), end="\n\n", flush=True)
        missed += [f"{model.value}, {sentence}" for sentence in verdict.missed]
    if missed:
        print("missed: " + "; ".join(missed))
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
