"""`python -m training train` and `python -m training evaluate`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where the finished model goes.")],
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
) -> None:
    """Train ltx-tiny from scratch: the autoencoder, then the text encoder and transformer."""
    import torch

    from training.dit import train_dit
    from training.vae import train_vae

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    vae = out.with_name(out.name + "-vae")
    train_vae(vae, seed)
    train_dit(vae, out, seed)


@app.command()
def evaluate() -> None:
    """Print the table that judges the shipped model; exits with 1 when a bound is missed."""
    from training.evaluate import BOUNDS, PSNR_BOUND
    from training.evaluate import evaluate as judge

    verdict = judge()
    held_out = {row.name: row for row in verdict.held_out}
    images = {row.name: row for row in verdict.image_rows}
    print("| ltx-tiny | text to video | of these never combined in training | image to video | bound |")
    print("|---|---|---|---|---|")
    for row in verdict.rows:
        bound = f">= {BOUNDS[row.name]:.0f} %" if row.name in BOUNDS else ""
        cells = (
            f"{each.correct}/{each.of} ({each.percent:.1f} %)" for each in (row, held_out[row.name], images[row.name])
        )
        print(f"| {row.name} | {' | '.join(cells)} | {bound} |")
    print(f"| autoencoder, unseen clips | {verdict.vae_psnr:.2f} dB | | | >= {PSNR_BOUND:.0f} dB |")
    print(f"| first frame against the input | | | {verdict.first_frame_psnr:.2f} dB | |")
    print(f"| compute per video, 2 threads | {verdict.seconds_per_video:.2f} s | | | < 1 s |")
    if missed := verdict.failures():
        print("missed: " + "; ".join(missed))
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
