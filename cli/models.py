"""`kinoray models`: the catalogue, as far as it is on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.pins import move_pins, recorded_commits
from pipelines.card import CheckpointCard, Component, ModelCard
from pipelines.catalogue import get_card, load_catalogue
from pipelines.weights.located import missing
from pipelines.weights.origin import download_gb, origins
from pipelines.weights.pin import Commits, pin_known


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue."""

    id: str
    name: str
    family: str
    license: str
    size: str
    """Of a video whose request says none, `WIDTHxHEIGHT`."""
    num_inference_steps: int
    """The same of its steps."""
    recommended_sizes: tuple[str, ...]
    advice: str | None
    download_gb: float | None
    """What is fetched for it, in 10^9 bytes, where the card says so."""
    source: dict[Component, dict[str, str]]
    """Where each component is from."""
    missing: dict[Component, str]
    """What of each component is not on this machine."""


def run_models(console: Console, out: Console, *, as_json: bool, update: str | None) -> None:
    """Print the catalogue, or move a model's pins first.

    Args:
        console: for what is said beside the table.

    Raises:
        ConfigError: the job store cannot be reached, and a pin is to be moved.
    """
    if update is not None:
        for sentence in move_pins(get_card(update)):
            console.print(sentence, markup=False, soft_wrap=True)
        return
    cards = load_catalogue().values()

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    commits = recorded_commits(cards, say)
    entries = [entry(card, commits) for card in cards]
    if as_json:
        out.print_json(json.dumps([asdict(each) for each in entries]))
    else:
        out.print(_table(entries))


def entry(card: ModelCard, commits: Commits) -> Entry:
    """A model, as far as it is on this machine. Does not use the network."""
    lacks = {}
    loaded = pin_known(card, commits)  # a prefetch of a commit leaves no branch in the hub's cache
    if isinstance(loaded, CheckpointCard):
        for component in loaded.all_components():
            if (lack := missing(loaded, component)) is not None:
                lacks[component] = f"{lack.place}: {lack.what}"
    return Entry(
        id=card.id,
        name=card.name,
        family=card.family,
        license=card.license,
        size=f"{card.defaults.width}x{card.defaults.height}",
        num_inference_steps=card.defaults.num_inference_steps,
        recommended_sizes=card.recommended_sizes,
        advice=card.advice,
        download_gb=download_gb(card),
        source=origins(card, commits),
        missing=lacks,
    )


def _table(entries: list[Entry]) -> Table:
    table = Table("model", "GB", "missing here", "from, and under which licence", box=box.SIMPLE_HEAD)
    table.columns[0].no_wrap = True
    table.columns[3].overflow = "fold"  # a path or a commit that is cut short is of no use
    for each in entries:
        size = "" if each.download_gb is None else f"{each.download_gb:g}"
        whole = "nothing" if each.source else ""
        lacks = "everything" if each.missing.keys() == each.source.keys() != set() else ", ".join(each.missing)
        places = dict.fromkeys(_place(source) for source in each.source.values())
        kind = f"{each.id}\n  {each.family}, {each.size}, {each.num_inference_steps} steps"
        row = (kind, size, lacks or whole, "\n".join([*places, each.license, ""]))
        table.add_row(*(Text(cell) for cell in row))
    return table


def _place(source: dict[str, str]) -> str:
    """A folder, a file or a repository, with its commit or branch."""
    where = "/".join(source[part] for part in ("folder", "repo", "file") if part in source)
    if "commit" in source:
        return f"{where} at {source['commit']}"
    return f"{where}, not pinned" if "repo" in source else where
