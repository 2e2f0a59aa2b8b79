"""`make bench-weights`: its files have the published sizes, and its figures are of what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES
from safetensors.torch import load_file

from benchmarks import weights
from benchmarks.gguf_files import Kind, mixed, t5_name
from benchmarks.t5_files import Q4_K, Q5_K, Q8_0, T5Files
from pipelines.card import Source
from pipelines.paths import ROOT
from pipelines.weights.header import read_header

PUBLISHED = {"Q8_0": 5.06, "Q5_K_M": 3.39, "Q4_K_M": 2.90}
"""Gigabytes of city96/t5-v1_1-xxl-encoder-gguf."""


@pytest.fixture
def small(tmp_path: Path) -> T5Files:
    return T5Files(tmp_path, layers=2, small=True)


def test_the_mixes_of_types_have_the_published_sizes(tmp_path: Path) -> None:
    shapes = T5Files(tmp_path, layers=24, small=False).shapes()
    assert sum(map(prod, shapes.values())) * 4 / 1e9 == pytest.approx(19.05, abs=0.01)
    sizes = dict.fromkeys(PUBLISHED, 0.0)
    for name, shape in shapes.items():
        other = t5_name(name) or ""
        for title, kind in (("Q8_0", Q8_0), ("Q5_K_M", mixed(other, Q5_K, 24)), ("Q4_K_M", mixed(other, Q4_K, 24))):
            block, size = GGML_QUANT_SIZES[kind if len(shape) == 2 else Kind.F32]
            sizes[title] += prod(shape) / block * size / 1e9
    assert sizes == pytest.approx(PUBLISHED, abs=0.01)


def test_the_shards_are_split_as_published_and_hold_the_drawn_numbers(small: T5Files) -> None:
    small.write_shards()
    paths = sorted(small.folder.glob("*.safetensors"))
    assert [path.name for path in paths] == [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    assert set(read_header(paths).entries) == set(small.shapes())
    state = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == small.shapes()
    assert state["shared.weight"].std() == pytest.approx(1.0, abs=0.01)
    assert state["encoder.block.1.layer.1.DenseReluDense.wo.weight"].std() == pytest.approx(512**-0.5, rel=0.02)
    small.remove_shards()
    assert [path.name for path in small.folder.iterdir()] == ["config.json"]


def test_every_row_is_the_same_network(small: T5Files, tmp_path: Path) -> None:
    """But for what bfloat16 and the quantisation lose."""
    small.write_shards()
    exact = weights._mapped(tmp_path)
    assert exact.weights == sum(map(prod, small.shapes().values())) * 4
    half = weights._product(Source(folder=tmp_path))
    assert half.weights * 2 == exact.weights
    assert 0.999 < weights._cosine(half.embeds, exact.embeds) < 1
    assert half.embeds.shape == (1, 256, 256)
    quantised = weights._product(Source(file=str(small.write_q8_0(tmp_path / "q8.gguf")), config=str(tmp_path)))
    assert 0.999 < weights._cosine(quantised.embeds, exact.embeds) < weights._cosine(half.embeds, exact.embeds)
    path = small.write_k_mix(tmp_path / "k.gguf", Q5_K)
    blocks = weights._product(Source(file=str(path), config=str(tmp_path)))
    assert weights._cosine(blocks.embeds, weights._dequantised(tmp_path, path).embeds) > 0.9999
    assert weights._cosine(blocks.embeds, exact.embeds) < 0.5  # other weights, so it is not compared with these
    assert blocks.weights < 0.42 * half.weights


def test_the_peak_is_of_memory_that_is_gone_again() -> None:
    with weights._peak_memory() as peak:
        before = peak[0]
        held = torch.ones(2**26)  # 256 MB
        while peak[0] < before + 2.5e8:  # until the watcher has looked
            held += 1
        del held
    assert before + 2.5e8 < peak[0] < before + 4e8


def test_a_file_on_the_disk_is_no_anonymous_memory(tmp_path: Path) -> None:
    np.ones(2**26, np.uint8).tofile(tmp_path / "file")
    with weights._peak_memory() as peak:
        before = peak[0]
        mapped = np.memmap(tmp_path / "file", np.uint8, "r")
        assert int(mapped.max()) == 1
    assert peak[0] < before + 2**25
    assert mapped[0] == 1  # it was still there when the watcher looked for the last time


def test_a_disk_that_is_too_small_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**10})())  # noqa: ARG005
    with pytest.raises(SystemExit, match=r"has 10\.0 GB free and 20\.0 GB are needed: name --folder"):
        weights._check_space(T5Files(tmp_path, layers=24, small=False))


@pytest.mark.long
def test_the_command_prints_a_table_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.weights", "--small", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == [
        "float32, mapped",
        "bfloat16",
        "GGUF Q8_0",
        "GGUF Q5_K_M",
        "GGUF Q4_K_M",
    ]
    for row in rows[1:]:
        assert re.fullmatch(r" \d+\.\d s ", row[2])
        assert float(row[7]) > 0.999
    assert list(tmp_path.iterdir()) == []
