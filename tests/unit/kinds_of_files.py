"""The kinds of files that people have, each written as a checkpoint, for the table in docs/models.md."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.gguf_files import Kind as GGUFKind
from benchmarks.gguf_files import Stored, stored, t5_name, write_gguf
from benchmarks.random_weights import ltx_card, svd_card
from benchmarks.releases import ltx, svd, t5
from benchmarks.releases.files import cast_to, write_file, write_weights
from benchmarks.releases.networks import Width
from pipelines.card import CheckpointCard, Component
from pipelines.catalogue import read_card

RELEASE = ltx.REPOSITORIES["Lightricks/LTX-Video-0.9.5"]
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
SMALL = Width.SMALL
FP8 = torch.float8_e4m3fn
CONFIG = {"transformer": {"causal_temporal_positioning": True}, "scheduler": {"sampler": "LinearQuadratic"}}


class Shelf:
    """A folder with the released checkpoints, from which each kind is made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ltx, self.svd = root / "LTX-Video-0.9.5", root / "stable-video-diffusion-img2vid-xt"
        ltx.write_repository(self.ltx, "Lightricks/LTX-Video-0.9.5")
        svd.write_repository(self.svd, SVD)

    def copy(self, name: str, *, of: Path | None = None) -> Path:
        """A checkpoint's copy, to be spoiled."""
        return Path(shutil.copytree(of or self.ltx, self.root / name))

    def file(self, name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Path:
        write_file(self.root / name, dict(tensors), {"config": json.dumps(config)} if config else None)
        return self.root / name

    def raw(self, name: str, content: bytes) -> Path:
        (self.root / name).write_bytes(content)
        return self.root / name

    def card(self, folder: Path | None = None, /, **sources: Mapping[str, str]) -> CheckpointCard:
        """The card of a folder, with components from other places."""
        card = ltx_card(folder or self.ltx, schedule="linear-quadratic", causal_positions=True)
        return self._with(card, sources)

    def single(self, path: Path, **defaults: object) -> CheckpointCard:
        """The card of a single file of transformer and autoencoder."""
        card = ltx_card(self.ltx, **{"schedule": "linear-quadratic", "causal_positions": True, **defaults})
        source = {"file": str(path), "config": str(self.ltx)}
        return self._with(card, {"text_encoder": {"folder": str(self.ltx)}}, source)

    def part(self, component: Component, path: Path) -> CheckpointCard:
        """The card of a folder with one component from a single file."""
        return self.card(**{component: {"file": str(path), "config": str(self.ltx)}})

    def svd_card(self, path: Path | None = None, **source: str) -> CheckpointCard:
        """The card of Stable Video Diffusion's folder, or of its single file."""
        place = {"file": str(path), "config": str(self.svd)} if path else {"folder": str(self.svd), **source}
        return self._with(svd_card(self.svd), {}, place)

    @staticmethod
    def _with(
        card: CheckpointCard, components: Mapping[str, Mapping[str, str]], source: Mapping[str, str] | None = None
    ) -> CheckpointCard:
        data = {**card.model_dump(mode="json"), "components": components}
        read = read_card({**data, "source": source} if source else data)
        assert isinstance(read, CheckpointCard)
        return read


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file, as a row of the table."""

    what: str
    make: Callable[[Shelf], CheckpointCard]
    """Writes it; returns a card that names it. A card may be refused while it is made."""
    loads: Component | None = None
    """The component that loads whole from it; None if it is refused."""
    within: float = 0.0
    """How far the numbers may be from those of the release, as a share of their size."""


@cache
def _svd_tensors() -> dict[str, Tensor]:
    return svd.single_file(svd.REPOSITORIES[SVD], SMALL)


@cache
def _tensors() -> dict[str, Tensor]:
    return ltx.single_file(RELEASE, SMALL)


def _without(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def _t5(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Shelf], CheckpointCard]:
    def make(shelf: Shelf) -> CheckpointCard:
        return shelf.part("text_encoder", shelf.file("t5xxl.safetensors", change(t5.t5_tensors(SMALL))))

    return make


def _spoiled(name: str, spoil: Callable[[Path], None]) -> Callable[[Shelf], CheckpointCard]:
    def make(shelf: Shelf) -> CheckpointCard:
        folder = shelf.copy(name)
        spoil(folder)
        return shelf.card(folder)

    return make


def _config(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "transformer" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def _shards(folder: Path, *, variant: str | None = None, dtype: torch.dtype = torch.float32) -> None:
    for path in (folder / "transformer").glob("*.safetensors"):
        path.unlink()
    tensors = cast_to(dtype, ltx.transformer_tensors(RELEASE, SMALL))
    write_weights(folder / "transformer", "diffusion_pytorch_model", tensors, shards=3, variant=variant)


def _old_variant(folder: Path) -> None:
    _shards(folder, dtype=torch.float16)
    for path in (folder / "transformer").glob("*-of-*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))


def _variant(name: str, spoil: Callable[[Path], None]) -> Callable[[Shelf], CheckpointCard]:
    def make(shelf: Shelf) -> CheckpointCard:
        folder = shelf.copy(name)
        spoil(folder)
        return shelf.card(transformer={"folder": str(folder), "variant": "fp16"})

    return make


def _scaled(scale_name: Callable[[str], str], shape: tuple[int, ...] = ()) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors().items():
        if "transformer_blocks" in name and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max().float() / torch.finfo(FP8).max
            tensors[name] = (tensor.float() / scale).to(FP8)
            tensors[scale_name(name)] = scale.expand(shape).clone()
        else:
            tensors[name] = tensor
    return tensors


def _truncated(shelf: Shelf) -> CheckpointCard:
    whole = shelf.file("whole.safetensors", _tensors()).read_bytes()
    return shelf.single(shelf.raw("ltxv-2b.safetensors", whole[: len(whole) // 2]))


def _pickle(shelf: Shelf) -> CheckpointCard:
    torch.save(_tensors(), shelf.root / "pickle.safetensors")
    return shelf.single(shelf.root / "pickle.safetensors")


def _only_pickle(folder: Path) -> None:
    (path,) = (folder / "vae").glob("*.safetensors")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def _pointer(folder: Path) -> None:
    (path,) = (folder / "vae").glob("*.safetensors")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n")


def _drop_block(folder: Path) -> None:
    (path,) = (folder / "transformer").glob("*.safetensors")
    save_file(_without(load_file(path), "transformer_blocks.7."), path)


def _quantised(tensor: Tensor) -> Stored:
    fits = tensor.ndim == 2 and tensor.shape[-1] % 32 == 0
    return stored(tensor.float().numpy(), GGUFKind.Q8_0 if fits else GGUFKind.F32)


def _t5_gguf(path: Path) -> Path:
    tensors = {str(t5_name(name)): _quantised(tensor) for name, tensor in t5.t5_tensors(SMALL).items()}
    return write_gguf(path, "t5encoder", tensors)


def _ltx_gguf(path: Path) -> Path:
    tensors = _without(ltx.single_file(RELEASE, SMALL, prefix=""), "vae.")
    return write_gguf(path, "ltxv", {name: _quantised(tensor) for name, tensor in tensors.items()})


def _t5_in_one() -> dict[str, Tensor]:
    return {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.t5_tensors(SMALL).items()}


LOADS = (
    Kind("diffusers folder", lambda shelf: shelf.card(), "transformer"),
    Kind("diffusers folder, in shards with their index", _spoiled("shards", _shards), "transformer"),
    Kind(
        "variant, shards named `model.fp16-00001-of-00003`",
        _variant("fp16", lambda folder: _shards(folder, variant="fp16", dtype=torch.float16)), "transformer", 2e-3,
    ),
    Kind("variant, shards named `model-00001-of-00003.fp16`", _variant("old-fp16", _old_variant), "transformer", 2e-3),
    Kind(
        "LTX-Video's single file",
        lambda shelf: shelf.single(shelf.file("ltxv-2b-0.9.5.safetensors", _tensors(), CONFIG)), "transformer",
    ),
    Kind(
        "the same in an all-in-one file, beside a text encoder",
        lambda shelf: shelf.single(shelf.file("all-in-one.safetensors", {**_tensors(), **_t5_in_one()}, CONFIG)),
        "transformer",
    ),
    Kind(
        "LTX-Video's single file: its autoencoder",
        lambda shelf: shelf.single(shelf.file("ltxv-2b-0.9.5-vae.safetensors", _tensors(), CONFIG)), "vae",
    ),
    Kind(
        "transformer alone, names without `model.diffusion_model.`",
        lambda shelf: shelf.part(
            "transformer", shelf.file("dit.safetensors", _without(ltx.single_file(RELEASE, SMALL, prefix=""), "vae."))
        ), "transformer",
    ),
    Kind(
        "autoencoder in a file of its own",
        lambda shelf: shelf.part("vae", shelf.file("vae.safetensors", ltx.vae_file(RELEASE, SMALL))), "vae",
    ),
    Kind(
        "the same, names without `vae.`",
        lambda shelf: shelf.part("vae", shelf.file("vae-bare.safetensors", ltx.vae_file(RELEASE, SMALL, prefix=""))),
        "vae",
    ),
    Kind(
        "fp8 without scales, as LTX-Video's own `-fp8` files",
        lambda shelf: shelf.single(shelf.file("fp8.safetensors", ltx.single_file(RELEASE, SMALL, fp8=True))),
        "transformer", 0.07,
    ),
    Kind(
        "fp8 with `.scale_weight`",
        lambda shelf: shelf.single(
            shelf.file("scaled.safetensors", _scaled(lambda name: name.replace(".weight", ".scale_weight")))
        ), "transformer", 0.07,
    ),
    Kind(
        "fp8 with `.weight_scale`",
        lambda shelf: shelf.single(shelf.file("scaled-too.safetensors", _scaled(lambda name: f"{name}_scale"))),
        "transformer", 0.07,
    ),
    Kind("T5 in one file (`t5xxl_fp16.safetensors`)", _t5(lambda t: cast_to(torch.float16, t)), "text_encoder", 2e-3),
    Kind(
        "T5 whose embedding is named `encoder.embed_tokens.weight`",
        _t5(lambda t: {t5.TOKENS if name == t5.SHARED else name: tensor for name, tensor in t.items()}),
        "text_encoder",
    ),
    Kind(
        "whole T5, with its decoder",
        _t5(lambda t: {**t, "decoder.embed_tokens.weight": t[t5.SHARED], "lm_head.weight": t[t5.SHARED].clone()}),
        "text_encoder",
    ),
    Kind("scaled fp8 T5 (`t5xxl_fp8_e4m3fn_scaled`)", _t5(lambda t: t5._scaled(t)), "text_encoder", 0.07),
    Kind(
        "T5 as GGUF", lambda shelf: shelf.part("text_encoder", _t5_gguf(shelf.root / "t5.gguf")), "text_encoder",
        0.02,
    ),
    Kind(
        "LTX-Video's transformer as GGUF",
        lambda shelf: shelf.part("transformer", _ltx_gguf(shelf.root / "ltx.gguf")), "transformer", 0.02,
    ),
    Kind("Stable Video Diffusion's folder", lambda shelf: shelf.svd_card(), "unet"),
    Kind("Stable Video Diffusion's variant fp16", lambda shelf: shelf.svd_card(variant="fp16"), "unet", 2e-3),
    Kind(
        "Stable Video Diffusion's single file",
        lambda shelf: shelf.svd_card(shelf.file("svd_xt.safetensors", _svd_tensors())),
        "unet",
    ),
)  # fmt: skip


def _padded(shelf: Shelf) -> CheckpointCard:
    whole = shelf.file("some.safetensors", {"x": torch.zeros(2)}).read_bytes()
    return shelf.single(shelf.raw("padded.safetensors", whole + bytes(8)))


def _header(shelf: Shelf) -> CheckpointCard:
    head = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return shelf.single(shelf.raw("short.safetensors", struct.pack("<Q", len(head)) + head))


REFUSED = (
    Kind("cut short", _truncated),
    Kind("cut short within its first tensor", _header),
    Kind("longer than its header says", _padded),
    Kind("empty", lambda shelf: shelf.single(shelf.raw("empty.safetensors", b""))),
    Kind("Git LFS pointer, from a clone without git-lfs", _spoiled("lfs", _pointer)),
    Kind(
        "web page saved under the file's name",
        lambda shelf: shelf.single(shelf.raw("page.safetensors", b"<!DOCTYPE html><title>Sign in</title>")),
    ),
    Kind("pickle named .safetensors", _pickle),
    Kind("`.ckpt`", lambda shelf: shelf.single(shelf.raw("model.ckpt", b"PK"))),
    Kind("folder with `.bin` only", _spoiled("bin", _only_pickle)),
    Kind("GGUF named .safetensors", lambda shelf: shelf.single(shelf.raw("model.safetensors", b"GGUF" + b"\3" * 99))),
    Kind("GGUF for the autoencoder", lambda shelf: shelf.part("vae", shelf.raw("vae.gguf", b"GGUF"))),
    Kind(
        "GGUF of a transformer for T5",
        lambda shelf: shelf.part("text_encoder", _ltx_gguf(shelf.root / "not-t5.gguf")),
    ),
    Kind(
        "LoRA",
        lambda shelf: shelf.part(
            "transformer",
            shelf.file(
                "lora.safetensors",
                {f"blocks.{n}.{part}": torch.zeros(2, 2) for n in "01" for part in ("lora_A.weight", "diff", "diff_b")},
            ),
        ),
    ),
    Kind(
        "Stable Video Diffusion's file for LTX-Video",
        lambda shelf: shelf.single(shelf.file("svd.safetensors", _svd_tensors())),
    ),
    Kind(
        "`svd_xt_image_decoder.safetensors`",
        lambda shelf: shelf.svd_card(
            shelf.file(
                "svd_xt_image_decoder.safetensors",
                svd.single_file(svd.REPOSITORIES[SVD], SMALL, image_decoder=True),
            )
        ),
    ),
    Kind(
        "single file without the autoencoder",
        lambda shelf: shelf.single(shelf.file("dit-only.safetensors", _without(_tensors(), "vae."))),
    ),
    Kind("single file as the text encoder", lambda shelf: _no_text_encoder(shelf)),
    Kind("folder whose transformer lacks a block", _spoiled("block", _drop_block)),
    Kind("T5 that lacks a block", _t5(lambda t: _without(t, ".block.3."))),
    Kind(
        "T5 with a prefix, taken out of an all-in-one file",
        _t5(lambda _: _t5_in_one()),
    ),
    Kind(
        "tensors that the configuration does not know",
        lambda shelf: shelf.single(shelf.file("more.safetensors", {**_tensors(), "audio.proj": torch.zeros(2)})),
    ),
    Kind(
        "fp8 scaled by blocks",
        lambda shelf: shelf.single(shelf.file("blocks.safetensors", _scaled(lambda name: f"{name}_scale", (4,)))),
    ),
    Kind(
        "int8",
        lambda shelf: shelf.single(
            shelf.file("int8.safetensors", {n: t.to(torch.int8) if t.ndim == 2 else t for n, t in _tensors().items()})
        ),
    ),
    Kind("shard missing", _spoiled("hole", lambda folder: _hole(folder))),
    Kind("only another variant", _spoiled("only-fp16", lambda folder: _shards(folder, variant="fp16"))),
    Kind("configuration of another size", _spoiled("size", _config(num_attention_heads=8))),
    Kind("configuration with a key that diffusers does not know", _spoiled("key", _config(with_audio=True))),
    Kind("no configuration", _spoiled("none", lambda folder: (folder / "transformer" / "config.json").unlink())),
    Kind("no tokenizer", _spoiled("words", lambda folder: shutil.rmtree(folder / "tokenizer"))),
    Kind(
        "a card with the other positions in time",
        lambda shelf: shelf.single(shelf.file("causal.safetensors", _tensors(), CONFIG), causal_positions=False),
    ),
    Kind(
        "a card with the other schedule",
        lambda shelf: shelf.single(shelf.file("lq.safetensors", _tensors(), CONFIG), schedule="uniform"),
    ),
    Kind(
        "a sampler that is not here",
        lambda shelf: shelf.single(shelf.file("odd.safetensors", _tensors(), {"scheduler": {"sampler": "Constant"}})),
    ),
    Kind(
        "a distilled model without `timesteps` on its card",
        lambda shelf: shelf.single(
            shelf.file("distilled.safetensors", _tensors(), {"allowed_inference_steps": [1.0, 0.9937, 0.725]})
        ),
    ),
    Kind(
        "a distilled model with other noise levels",
        lambda shelf: shelf.single(
            shelf.file("levels.safetensors", _tensors(), {"allowed_inference_steps": [1.0, 0.9937, 0.725]}),
            timesteps=[1000, 900],
            num_inference_steps=2,
            guidance_scale=1.0,
        ),
    ),
)


def _hole(folder: Path) -> None:
    _shards(folder)
    sorted((folder / "transformer").glob("*.safetensors"))[1].unlink()


def _no_text_encoder(shelf: Shelf) -> CheckpointCard:
    source = {"file": str(shelf.file("all.safetensors", _tensors())), "config": str(shelf.ltx)}
    return Shelf._with(shelf.card(), {}, source)
