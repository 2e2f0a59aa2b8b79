"""What T5-XXL, LTX-Video's text encoder, costs on this machine's CPU, in bfloat16 and from GGUF: `make bench-weights`.

The weights are random and of the real size, 19 GB, made here and removed afterwards. Each row is measured in a process
of its own, so that no memory is carried over. `--small` tries it with tiny widths, `--layers` with fewer layers.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, ParamSpec, TypeVar

import torch
from gguf.quants import dequantize
from safetensors import safe_open
from torch import Tensor

from benchmarks.gguf_files import t5_name
from benchmarks.t5_files import COMPONENT, Q4_K, Q5_K, T5Files
from pipelines.card import Source
from pipelines.catalogue import get_card
from pipelines.devices import Placement, place
from pipelines.ltx.card import LTXCard
from pipelines.ltx.networks import NETWORKS
from pipelines.protocols import Resources
from pipelines.weights.gguf_file import open_gguf
from pipelines.weights.load import load_network
from pipelines.weights.network import build_on_meta

P = ParamSpec("P")
T = TypeVar("T")

MODEL = "ltx-video-0.9.5"  # of whose card only the source of the text encoder is another
TOKENS = (256, 128)  # of a prompt: LTX-Video 0.9.5 and later, and before
ROUNDS = 2  # of which the faster counts
LAYERS = 24
MEMORY_BOUND = 1.15  # times the weights in their dtype
DISK_FACTOR = 1.05  # the float32 shards, and some room: a GGUF file is made when they are gone
GB = 1e9


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one way to load the encoder, in seconds and bytes."""

    load_s: float
    peak: int  # the process's anonymous memory while it loaded
    weights: int
    encode_s: dict[int, float]  # by the number of tokens
    embeds: Tensor  # [1, 256, d_model] float32

    @property
    def ratio(self) -> float:
        return self.peak / self.weights


def main(arguments: list[str] | None = None) -> None:
    """Print the table; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    parser.add_argument("--layers", type=int, default=None, help=f"of the encoder; {LAYERS} is the real number")
    parser.add_argument("--small", action="store_true", help="tiny widths and two layers, which takes a minute")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made; it needs 20 GB")
    options = parser.parse_args(arguments)
    _placed()  # before anything imports diffusers
    layers = options.layers or (2 if options.small else LAYERS)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = T5Files(Path(folder), layers=layers, small=options.small)
        _check_space(files)
        worst = _print_table(files)
    real = layers == LAYERS and not options.small  # beside a smaller network, Python's own memory counts
    if worst > MEMORY_BOUND and real:
        raise SystemExit(f"loading took {worst:.2f} times the weights' memory, beyond the bound {MEMORY_BOUND}")


def _print_table(files: T5Files) -> float:
    """Make the files and measure them one after the other; returns the largest ratio of memory."""
    folder, exact = files.folder.parent, "float32, mapped"
    files.write_shards()
    print(
        f"| text encoder, {files.config['num_layers']} layers of {files.config['d_model']} | weights | load | peak "
        f"RssAnon | of the weights | {TOKENS[0]} tokens | {TOKENS[1]} tokens | cosine | to |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    reference = _alone(_mapped, folder)
    _print_row(exact, reference, None, "")
    costs = [cost := _alone(_product, Source(folder=folder))]
    _print_row("bfloat16", cost, reference, exact)
    files.remove_shards()
    source = files.write_q8_0(folder / "t5-v1_1-xxl-encoder-Q8_0.gguf")
    costs.append(cost := _alone(_product, Source(file=str(source), config=str(folder))))
    _print_row("GGUF Q8_0", cost, reference, exact)
    source.unlink()
    for kind in (Q5_K, Q4_K):
        source = files.write_k_mix(folder / f"t5-v1_1-xxl-encoder-{kind.name}_M.gguf", kind)
        costs.append(cost := _alone(_product, Source(file=str(source), config=str(folder))))
        numbers = _alone(_dequantised, folder, source)
        _print_row(f"GGUF {kind.name}_M", cost, numbers, "its own numbers")
        source.unlink()
    print(
        f"All compute in bfloat16 on {torch.get_num_threads()} threads but the first, which reads the shards where "
        "they lie. Q8_0 was quantised from the first row's numbers. Nothing here can quantise to the K types, so those "
        "files are valid blocks of random bytes: their cosine compares the packed network with one in bfloat16 of the "
        "numbers that the gguf package makes of the same blocks; it says that the arithmetic is right, not what the "
        "quantisation loses."
    )
    return max(cost.ratio for cost in costs)


def _print_row(title: str, cost: Cost, other: Cost | None, to: str) -> None:
    load = f"{cost.load_s:.1f} s | {cost.peak / GB:.2f} GB | {cost.ratio:.2f}" if other else "| |"
    cosine = f"{_cosine(cost.embeds, other.embeds):.5f}" if other else ""
    encode = " | ".join(f"{cost.encode_s[tokens]:.1f} s" for tokens in TOKENS)
    print(f"| {title} | {cost.weights / GB:.2f} GB | {load} | {encode} | {cosine} | {to} |", flush=True)


def _placed() -> tuple[LTXCard, Placement]:
    card = get_card(MODEL)
    assert isinstance(card, LTXCard)
    card = card.model_copy(update={"dtype": {"cpu": "bfloat16"}})
    return card, place(card, Resources(gpu=False))


# --- In a process of its own


def _product(source: Source) -> Cost:
    """Load the encoder as a replica does."""
    card, placement = _placed()
    card = card.model_copy(update={"components": {COMPONENT: source}})
    with _peak_memory() as peak:
        started = time.perf_counter()
        network = load_network(card, COMPONENT, dtype=placement.dtype, device=placement.device)
        load_s = time.perf_counter() - started
    return _cost(network, load_s, peak[0])


def _mapped(folder: Path) -> Cost:
    """The float32 encoder without memory of its own: the weights are read from the shards each time they are used."""
    state: dict[str, Tensor] = {}
    for path in sorted((folder / COMPONENT).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    return _cost(_filled(folder, state), 0.0, 0)


def _dequantised(folder: Path, path: Path) -> Cost:
    """The encoder in bfloat16 of the numbers that the gguf package itself makes of a file."""
    stored = {tensor.name: tensor for tensor in open_gguf(path).tensors}
    state = {}
    for name in build_on_meta(NETWORKS[COMPONENT], folder, COMPONENT).expected:
        tensor = stored[t5_name(name) or ""]
        state[name] = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16, copy=True)
    return _cost(_filled(folder, state), 0.0, 0)


def _filled(folder: Path, state: dict[str, Tensor]) -> Any:
    empty = build_on_meta(NETWORKS[COMPONENT], folder, COMPONENT)
    network: Any = empty.network
    ties = {name: state[first] for name, first in empty.tied.items()}
    network.load_state_dict({**state, **ties}, strict=True, assign=True)
    network.tie_weights()
    return network.eval()


@torch.no_grad()
def _cost(network: Any, load_s: float, peak: int) -> Cost:
    weights = sum(each.nbytes for each in network.parameters())
    torch.manual_seed(0)
    ids = torch.randint(3, network.config.vocab_size - 100, (1, max(TOKENS)))
    network(ids[:, :16])
    encode_s, embeds = {}, {}
    for tokens in TOKENS:
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            embeds[tokens] = network(ids[:, :tokens])[0]
            seconds.append(time.perf_counter() - started)
        encode_s[tokens] = min(seconds)
    return Cost(load_s, peak, weights, encode_s, embeds[max(TOKENS)].float())


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Watch this process's anonymous memory; the list's one number is the most that was seen, in bytes."""
    peak, stop = [_anonymous()], Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], _anonymous())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
        peak[0] = max(peak[0], _anonymous())


def _anonymous() -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


# --- Around it


def _alone(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do a piece of work in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *args, **kwargs).result()


def _check_space(files: T5Files) -> None:
    needed = DISK_FACTOR * 4 * sum(tensor.numel() for tensor in files.expected.values())
    free = shutil.disk_usage(files.folder).free
    if free < needed:
        raise SystemExit(
            f"{files.folder} has {free / GB:.1f} GB free and {needed / GB:.1f} GB are needed: name --folder"
        )


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


if __name__ == "__main__":
    main()
