"""GGUF files: what a header says, and a sentence for every file that cannot be loaded."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFEndian, GGUFWriter
from transformers import T5EncoderModel

from benchmarks.gguf_files import Kind, Stored, stored, t5_name, write_gguf
from pipelines.errors import WeightsUnavailable
from pipelines.ltx.gguf_t5 import T5_GGUF
from pipelines.weights.gguf_file import open_gguf, read_gguf_header
from pipelines.weights.gguf_network import load_gguf, make_gguf_recipe
from tests.unit.gguf_world import (
    CPU,
    T5_XXL,
    Checkpoint,
    ltx_checkpoint,
    ltx_tensors,
    random_t5,
    t5_checkpoint,
    t5_file,
    t5_tensors,
)


@pytest.fixture
def t5(tmp_path: Path) -> Checkpoint:
    return t5_checkpoint(tmp_path)


@pytest.fixture
def ltx(tmp_path: Path) -> Checkpoint:
    return ltx_checkpoint(tmp_path)


# --- The header


def test_the_header_says_what_is_in_the_file(tmp_path: Path) -> None:
    """Shapes are of the numbers, in torch's order."""
    path = t5_file(tmp_path, Kind.Q4_K)
    header = read_gguf_header(path)
    assert header.files == (path,)
    assert header.metadata["general.architecture"] == "t5encoder"
    assert len(header.entries) == 3 * 9 + 3
    assert (header.entries["enc.blk.1.ffn_down.weight"].dtype, header.entries["enc.blk.1.ffn_down.weight"].shape) == (
        "Q4_K",
        (256, 512),
    )
    assert header.entries["enc.blk.0.attn_rel_b.weight"].dtype == "F16"
    assert header.entries["enc.output_norm.weight"].shape == (256,)


def test_a_file_is_never_written_to(tmp_path: Path) -> None:
    path = t5_file(tmp_path, Kind.Q4_K)
    before = path.read_bytes()
    reader = open_gguf(path)
    reader.tensors[0].data[:] = 0
    reader.data.flush()
    assert path.read_bytes() == before


def test_a_text_encoder_of_the_real_size_is_judged_without_reading_it(tmp_path: Path) -> None:
    """The file is a header and five gigabytes of nothing, which take no room on the disk."""
    t5 = Checkpoint(tmp_path, "text_encoder", T5EncoderModel, T5_XXL, T5_GGUF)
    writer = GGUFWriter(tmp_path / "t5.gguf", "t5encoder")
    size = 0
    for name, tensor in t5.empty().expected.items():
        kind, shape = (Kind.F32, tuple(tensor.shape)) if tensor.ndim == 1 else (Kind.Q8_0, tuple(tensor.shape))
        count = tensor.numel() * 4 if tensor.ndim == 1 else tensor.numel() // 32 * 34
        writer.add_tensor_info(
            t5_name(name) or "", (*shape[:-1], shape[-1] // 32 * 34) if kind == Kind.Q8_0 else shape,
            np.dtype(np.float32 if kind == Kind.F32 else np.uint8), count,
            raw_dtype=kind if kind == Kind.Q8_0 else None,
        )  # fmt: skip
        size += count
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header_size = (tmp_path / "t5.gguf").stat().st_size
    os.truncate(tmp_path / "t5.gguf", header_size + size + 32)
    before = _resident()
    recipe = t5.recipe(tmp_path / "t5.gguf")
    assert len(recipe) == 219
    assert 5.0e9 < (tmp_path / "t5.gguf").stat().st_size < 5.1e9
    assert _resident() - before < 2e8

    os.truncate(tmp_path / "t5.gguf", header_size + size // 2)
    assert t5.refusal(tmp_path / "t5.gguf").startswith("is cut short at 2530 MB, or damaged: fetch it again")


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- What is refused, from the header alone


def test_files_of_another_kind(t5: Checkpoint, tmp_path: Path) -> None:
    def named(content: bytes) -> Path:
        (tmp_path / "file.gguf").write_bytes(content)
        return tmp_path / "file.gguf"

    assert t5.refusal(named(b"")) == "is empty: fetch it again"
    assert t5.refusal(named(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")) == (
        "is a Git LFS pointer, not the file: run `git lfs pull` where it was cloned, or fetch it again"
    )
    assert t5.refusal(named(b"\n<!DOCTYPE html><html></html>")) == (
        "is a web page, perhaps one that asks to log in: fetch the file itself, with `./kinoray prefetch`"
    )
    assert t5.refusal(named(struct.pack("<Q", 2) + b"{}")) == (
        "is a safetensors file: name it so that it ends with .safetensors"
    )
    assert t5.refusal(named(b"PK\x03\x04 and more")) == "is no GGUF file: fetch it again"
    assert t5.refusal(named(b"GGUF" + struct.pack("<I", 1) + bytes(100))) == (
        "is a GGUF file of version 1, from 2023: take a newer file of the same weights"
    )
    assert t5.refusal(named(b"GGUF" + struct.pack("<I", 4) + bytes(100))) == (
        "is a GGUF file of version 4, too new for the gguf package here: `pip install --upgrade gguf`"
    )
    assert t5.refusal(tmp_path / "none.gguf") == "cannot be read: No such file or directory"


def test_a_big_endian_file(t5: Checkpoint, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "t5encoder", endianess=GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert t5.refusal(tmp_path / "big.gguf") == (
        "is a big-endian GGUF file: take one for ordinary machines, which are little-endian"
    )


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.003, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short(t5: Checkpoint, tmp_path: Path, share: float) -> None:
    path = t5_file(tmp_path, Kind.Q4_K)
    os.truncate(path, int(path.stat().st_size * share))
    size = path.stat().st_size / 1e6
    assert t5.refusal(path) == f"is cut short at {size:.0f} MB, or damaged: fetch it again"


def test_a_quantisation_that_cannot_be_read(t5: Checkpoint, tmp_path: Path) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    shape = tensors["enc.blk.0.ffn_up.weight"].shape
    tensors["enc.blk.0.ffn_up.weight"] = Stored(
        shape, Kind.IQ2_XXS, lambda: np.zeros((shape[0], shape[1] // 256 * 66), np.uint8)
    )
    path = write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors)
    assert t5.refusal(path) == (
        ": enc.blk.0.ffn_up.weight is IQ2_XXS, which cannot be read here; take Q8_0, or Q5_K_M or Q4_K_M where memory "
        "is short"
    )
    content = bytearray(path.read_bytes())
    at = content.index(b"enc.blk.0.ffn_up.weight") + len(b"enc.blk.0.ffn_up.weight") + 4 + 16
    assert struct.unpack_from("<I", content, at) == (int(Kind.IQ2_XXS),)
    struct.pack_into("<I", content, at, 99)
    path.write_bytes(content)
    assert t5.refusal(path) == (
        "has a quantisation that is not known here (99); take Q8_0, or Q5_K_M or Q4_K_M where memory is short"
    )


def test_one_part_of_a_file(t5: Checkpoint, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t5-00001-of-00003.gguf", "t5encoder", {}, {"split.count": 3})
    assert t5.refusal(path) == (
        "is one of 3 parts: join them with `llama-gguf-split --merge`, and name the file that it makes"
    )


def test_another_architecture(t5: Checkpoint, ltx: Checkpoint, tmp_path: Path) -> None:
    text = t5_file(tmp_path, Kind.Q8_0)
    video = write_gguf(tmp_path / "ltx.gguf", "ltxv", ltx_tensors(Kind.Q8_0))
    unknown = write_gguf(tmp_path / "gpt.gguf", "gpt2", {})
    assert t5.refusal(video) == (
        "holds an LTX-Video transformer, not a T5 encoder: name a file such as t5-v1_1-xxl-encoder-Q8_0.gguf for "
        "text_encoder"
    )
    assert ltx.refusal(text) == (
        "holds a T5 encoder, not an LTX-Video transformer: name a file such as ltx-video-2b-v0.9-Q8_0.gguf for "
        "transformer"
    )
    assert t5.refusal(unknown).startswith("holds a model of the architecture 'gpt2', not a T5 encoder")
    disguised = write_gguf(tmp_path / "disguised.gguf", "pig", t5_tensors(random_t5(), Kind.Q8_0))
    assert ltx.refusal(disguised).startswith("holds no transformer")


@pytest.mark.parametrize(
    ("name", "network_name"),
    [
        ("enc.blk.1.ffn_gate.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"),
        ("token_embd.weight", "shared.weight"),
        ("enc.blk.0.attn_rel_b.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
)
def test_a_tensor_is_missing(t5: Checkpoint, tmp_path: Path, name: str, network_name: str) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    del tensors[name]
    refusal = t5.refusal(write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors))
    assert f"such as {network_name}:" in refusal


def test_a_tensor_is_left_over(t5: Checkpoint, ltx: Checkpoint, tmp_path: Path) -> None:
    tensors = t5_tensors(random_t5(), Kind.Q8_0)
    tensors["enc.blk.3.attn_q.weight"] = tensors["enc.blk.2.attn_q.weight"]
    refusal = t5.refusal(write_gguf(tmp_path / "t5.gguf", "t5encoder", tensors))
    assert "such as enc.blk.3.attn_q.weight:" in refusal
    tensors = ltx_tensors(Kind.Q8_0)
    tensors["transformer_blocks.2.attn1.to_q.bias"] = tensors["transformer_blocks.1.attn1.to_q.bias"]
    refusal = ltx.refusal(write_gguf(tmp_path / "ltx.gguf", "ltxv", tensors))
    assert "such as transformer_blocks.2.attn1.to_q.bias:" in refusal


def test_a_tensor_of_another_shape(t5: Checkpoint, tmp_path: Path) -> None:
    """Packed bytes are counted as the numbers that they make."""
    wide = random_t5(d_ff=768)
    path = write_gguf(tmp_path / "t5.gguf", "t5encoder", t5_tensors(wide, Kind.Q4_K))
    refusal = t5.refusal(path)
    assert "enc.blk.0.ffn_gate.weight has the shape [768, 256], not [512, 256]" in refusal


def test_an_autoencoder_in_the_same_file(ltx: Checkpoint, tmp_path: Path) -> None:
    tensors = {**ltx_tensors(Kind.Q8_0), "vae.decoder.conv_in.conv.bias": stored(np.zeros(32, np.float32))}
    assert ltx.refusal(write_gguf(tmp_path / "ltx.gguf", "ltxv", tensors)) == (
        "has the autoencoder in it (vae.decoder.conv_in.conv.bias), which cannot be read from a GGUF file: take a "
        "file of the transformer alone, and the autoencoder from a safetensors file or a diffusers folder"
    )


def test_a_file_that_changes_between_check_and_load(t5: Checkpoint, tmp_path: Path) -> None:
    path = t5_file(tmp_path, Kind.Q8_0)
    header, empty = read_gguf_header(path), t5.empty()
    recipe = make_gguf_recipe(T5_GGUF, header, empty, t5.target)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(WeightsUnavailable, match="is cut short at 1 MB, or damaged"):
        load_gguf(T5_GGUF, replace(header), empty, recipe, dtype=torch.float32, device=CPU)
