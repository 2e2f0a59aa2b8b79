"""The verbs of `kinoray`. Each imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cli.keys import keys_app
from pipelines.errors import KinorayError
from pipelines.version import VERSION

app = typer.Typer(name="kinoray", no_args_is_help=True, add_completion=False, help="Video generation on a Ray cluster.")
config_app = typer.Typer(no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")
console = Console(stderr=True, highlight=False)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kinoray {VERSION}")
        raise typer.Exit


@app.callback()
def kinoray(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """Video generation on a Ray cluster."""


INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


@app.command()
def demo(
    prompt: Annotated[str | None, typer.Option(help="What to show, for a model that reads it.")] = None,
    model: Annotated[str, typer.Option(help="A model of the catalogue that is on this machine.")] = "ltx-tiny",
    image: Annotated[
        Path | None, typer.Option(help="The first frame; a model that needs one has its own to try.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat a video; random when absent.")] = None,
    out: Annotated[Path, typer.Option(help="Where the video goes.")] = Path("out/demo.mp4"),
) -> None:
    """Start a service of its own, make one video with it, stop it again."""
    from cli.demo import run_demo

    run_demo(console, prompt=prompt, model=model, image=image, seed=seed, out=out)


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option(help="A Serve config file; by default the one for this machine.")
    ] = None,
) -> None:
    """Run the service in the foreground until SIGINT or SIGTERM."""
    from cli.serve import run_forever

    run_forever(console, config)


@app.command()
def prefetch(
    model: Annotated[str | None, typer.Argument(help="A model of the catalogue.")] = None,
    config: Annotated[
        Path | None, typer.Option("--all", metavar="CONFIG", help="Every model that a Serve config file serves.")
    ] = None,
) -> None:
    """Fetch a model's weights onto this machine, with progress bars; an interrupted fetch goes on where it stopped."""
    from cli.prefetch import run_prefetch

    if (model is None) == (config is None):
        raise typer.BadParameter("name a model, or a config file with --all CONFIG")
    run_prefetch(console, model, config)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with everything that is known.")] = False,
    update: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Pin a model's weights to the newest commit of their branch.")
    ] = None,
) -> None:
    """List the catalogue: where each model's weights are from, how large they are, and what is missing here."""
    from cli.models import run_models

    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 200  # for a pipe, which has no width of its own
    run_models(console, out, as_json=as_json, update=update)


@app.command()
def migrate() -> None:
    """Bring the job store's tables to this version. A SQLite store does so by itself."""
    from cli.job_store import migrate_job_store

    before, after = migrate_job_store()
    console.print(f"the job store was at revision {before or 'none'} and is at {after}")


@app.command()
def jobs(
    dead: Annotated[bool, typer.Option("--dead", help="Only those whose every attempt ended in a fault.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the latest first.")] = 50,
) -> None:
    """List jobs of the store, one line each: id, model, state, attempts and what went wrong."""
    from cli.job_store import dead_jobs, latest_jobs

    for job in dead_jobs(limit) if dead else latest_jobs(limit):
        state = f"{job.stage} {job.progress}%" if job.stage is not None and not job.ended else job.status.value
        typer.echo(f"{job.id}  {job.model}  {state}  {job.attempts}  {job.error_message or ''}".rstrip())


@app.command()
def retry(job_id: Annotated[str, typer.Argument(help="A dead job, as `jobs --dead` lists it.")]) -> None:
    """Queue a dead job again, as if it were new."""
    from cli.job_store import redrive

    redrive(job_id)
    console.print(f"{job_id} is queued again")


@app.command()
def plan(
    rate: Annotated[str, typer.Option(help="Videos per time, such as 2/min.")],
    model: Annotated[str, typer.Option(help="A model that the config file serves.")],
    config: Annotated[Path, typer.Option(help="A Serve config file: what each replica asks for.")] = Path(
        "configs/cluster.yaml"
    ),
    gpu: Annotated[
        str | None, typer.Option(help="A GPU of configs/gpus, instead of what the job store has measured.")
    ] = None,
    seconds: Annotated[list[str] | None, typer.Option(help="STAGE=SECONDS, instead of what was measured.")] = None,
    busy: Annotated[float, typer.Option(min=0.05, max=0.99, help="The share of its time a replica may work.")] = 0.8,
    within: Annotated[float | None, typer.Option(help="Seconds that 95 % of the videos may take.")] = None,
    gpu_hour: Annotated[float | None, typer.Option(help="What a GPU costs an hour, in any currency.")] = None,
) -> None:
    """How many replicas and GPUs a rate of videos needs, how long each video takes, what it costs."""
    from cli.plan import run_plan

    run_plan(
        Console(highlight=False), rate=rate, model=model, config=config, gpu=gpu, seconds=seconds or [], busy=busy,
        within_s=within, gpu_hour=gpu_hour,
    )  # fmt: skip


@app.command()
def bucket(
    config: Annotated[Path, typer.Option(help="A Serve config file with a bucket.")],
    init: Annotated[bool, typer.Option("--init", help="Make it, with lifecycle and CORS rules.")] = False,
) -> None:
    """Try everything that the service does in its bucket, and say what it may not do."""
    from cli.bucket import check, set_up

    for done in set_up(config) if init else ():
        console.print(done)
    check(console, config)


@app.command()
def adopt(
    config: Annotated[Path | None, typer.Option(help="A Serve config file; default: the one of `serve`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take over the artifacts of a job store that is gone: what this one has no job for will be deleted."""
    from cli.adopt import adopt_artifacts
    from cli.service import default_config

    adopt_artifacts(console, config or default_config(), lambda question: yes or typer.confirm(question))


@config_app.callback()
def config_files() -> None:
    """Serve config files."""


@config_app.command()
def check(config: Annotated[Path, typer.Argument(help="A Serve config file.")]) -> None:
    """Read a config file strictly, and its models' weights that are here, and say what is wrong with them."""
    from cli.checking import check_config_file

    check_config_file(console, config)


def main() -> None:
    """Run a verb; a known error is one sentence and exit code 1."""
    # SIGINT too: a shell starts background jobs with SIGINT ignored, and then they could not be stopped cleanly.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _terminate)
    try:
        code = app(prog_name="kinoray", standalone_mode=False) or 0
    except KinorayError as error:
        console.print(f"[red]error:[/] {escape(error.message)}", emoji=False)
        code = 1
    except Exception as error:
        # Usage errors have a `show` method; every other exception is a bug and keeps its traceback.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = 2
    if code == INTERRUPTED:
        console.print("stopped")
    raise SystemExit(code)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
