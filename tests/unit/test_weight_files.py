"""Which files a component is made of, by their names alone."""

from __future__ import annotations

import pytest

from pipelines.errors import WeightsUnavailable
from pipelines.weights.files import description_files, weight_files

SHARDS = [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
NEW = [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
OLD = [f"diffusion_pytorch_model-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)]
DIFFUSION = "diffusion_pytorch_model"


def choose(names: list[str], variant: str | None = None) -> list[str]:
    return list(weight_files(names, variant=variant, where="m: repo: vae"))


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (["config.json", "model.safetensors"], None, ["model.safetensors"]),
        ([f"{DIFFUSION}.safetensors"], None, [f"{DIFFUSION}.safetensors"]),
        ([*reversed(SHARDS), "model.safetensors.index.json"], None, SHARDS),
        ([*NEW, "model.safetensors"], "fp16", NEW),
        ([*OLD, f"{DIFFUSION}.safetensors"], "fp16", OLD),
        (["model.fp16.safetensors", "model.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model.bf16.safetensors", "model.fp16.safetensors", *SHARDS], None, SHARDS),
        ([*NEW, "model.safetensors"], None, ["model.safetensors"]),
        ([*OLD, f"{DIFFUSION}.safetensors"], None, [f"{DIFFUSION}.safetensors"]),
        (["model.non_ema.safetensors", "model.safetensors"], "non_ema", ["model.non_ema.safetensors"]),
        # What else lies there is none of it: pickle, another program's file, a shard's remains.
        (["model.safetensors", "pytorch_model.bin", "model.msgpack", "lora.safetensors"], None, ["model.safetensors"]),
        (["model.safetensors", *SHARDS], None, ["model.safetensors"]),
        (["model.safetensors", SHARDS[2]], None, ["model.safetensors"]),
        ([*SHARDS, "model-00001-of-00002.safetensors"], None, SHARDS),
    ],
)  # fmt: skip
def test_the_files_of_one_variant(names: list[str], variant: str | None, chosen: list[str]) -> None:
    assert choose(names, variant) == chosen


@pytest.mark.parametrize(
    ("names", "variant", "sentence"),
    [
        (SHARDS[:1] + SHARDS[2:], None, r"has 3 of 4 shards: model-00002-of-00004\.safetensors is missing"),
        (NEW[1:], "fp16", r"has 1 of 2 shards: model\.fp16-00001-of-00002\.safetensors is missing"),
        (OLD[:1], "fp16", r"diffusion_pytorch_model-00002-of-00002\.fp16\.safetensors is missing"),
        (NEW, None, r"only the variant fp16 of its weights; set `variant: fp16`"),
        (["model.bf16.safetensors", *NEW], None, r"only the variant bf16 and fp16 .* set `variant: bf16`"),
        (["model.safetensors"], "fp16", r"no variant 'fp16' of its weights; there is the plain one"),
        (["model.bf16.safetensors", "model.safetensors"], "fp16", r"there is the plain one \(no `variant`\) and bf16"),
        (["pytorch_model.bin"], None, r"only as pickle \(pytorch_model\.bin\).*safe_serialization=True"),
        (["model.ckpt"], "fp16", r"only as pickle \(model\.ckpt\)"),
        (["weights.pt"], None, r"only as pickle \(weights\.pt\)"),
        (["config.json"], None, r"has no weights; copy model\.safetensors"),
        ([], "fp16", r"has no weights"),
        (["model.safetensors", f"{DIFFUSION}.safetensors"], None, r"more than one copy of the weights"),
        ([*SHARDS, *[f"{DIFFUSION}-0000{n}-of-00002.safetensors" for n in (1, 2)]], None, r"more than one copy"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_said(names: list[str], variant: str | None, sentence: str) -> None:
    with pytest.raises(WeightsUnavailable, match=rf"^m: repo: vae .*{sentence}") as raised:
        choose(names, variant)
    assert "\n" not in raised.value.message


def describe(names: list[str], component: str = "vae", variant: str | None = None) -> list[str]:
    return list(description_files(names, component=component, variant=variant, where="m: repo"))


def test_descriptions_come_without_other_variants_indices() -> None:
    names = [
        "config.json", "model.safetensors", "model.safetensors.index.json", "model.safetensors.index.fp16.json",
        "pytorch_model.bin.index.json", "README.md", "generation_config.json",
    ]  # fmt: skip
    assert describe(names) == ["config.json", "generation_config.json", "model.safetensors.index.json"]
    assert describe(names, variant="fp16") == [
        "config.json", "generation_config.json", "model.safetensors.index.fp16.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("component", "whole", "lacking"),
    [
        ("transformer", ["config.json"], "config.json"),
        ("scheduler", ["scheduler_config.json"], "scheduler_config.json"),
        ("feature_extractor", ["preprocessor_config.json"], "preprocessor_config.json"),
        ("tokenizer", ["spiece.model", "tokenizer_config.json"], "spiece.model"),
        ("tokenizer", ["tokenizer.json"], "tokenizer.json"),
        ("tokenizer", ["merges.txt", "vocab.json"], "vocab.json"),
    ],
)
def test_a_component_needs_its_configuration(component: str, whole: list[str], lacking: str) -> None:
    assert describe(whole, component) == whole
    missing = "vocabulary" if component == "tokenizer" else lacking
    with pytest.raises(WeightsUnavailable, match=f"^m: repo has no {missing}"):
        describe([name for name in whole if name != lacking], component)
