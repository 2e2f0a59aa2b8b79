"""The built releases are the published ones: names, counts, files, sizes and what the files say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from diffusers.loaders.single_file_utils import (
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
)
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from benchmarks.releases import build_release, ltx, ltx_networks, ltx_releases, svd, svd_networks
from benchmarks.releases.ltx_names import VAE, Generation, transformer_name, vae_name
from benchmarks.releases.ltx_releases import RELEASES, LTXRelease
from benchmarks.releases.networks import Width
from benchmarks.releases.sizes import download_gb, gigabytes
from benchmarks.releases.t5 import NAMES, t5_tensors, write_t5, write_t5_files
from benchmarks.releases.tokenizer import sentencepiece_model, write_tokenizer
from pipelines.card import CheckpointCard
from pipelines.catalogue import load_catalogue
from pipelines.ltx.card import LTXCard

RELEASED = [id for id, card in load_catalogue().items() if isinstance(card, CheckpointCard) and card.source.repo]

LAYOUTS = {(release.size, release.vae): release for release in reversed(RELEASES)}
"""The first release of each layout of a single file."""
# What the hub shows, in 10^9 bytes.
PUBLISHED_GB = {
    "ltx-video-2b-v0.9.safetensors": 9.37,
    "ltx-video-2b-v0.9.1.safetensors": 5.72,
    "ltx-video-2b-v0.9.5.safetensors": 6.34,
    "ltxv-2b-0.9.8-distilled.safetensors": 6.34,
    "ltxv-2b-0.9.8-distilled-fp8.safetensors": 4.46,
    "ltxv-13b-0.9.8-distilled.safetensors": 28.6,
    "ltxv-13b-0.9.8-distilled-fp8.safetensors": 15.7,
}
# Pairs read off Lightricks' own `Transformer3DModel` and `CausalVideoAutoencoder`.
TRANSFORMER_NAMES = {
    "proj_in.weight": "patchify_proj.weight",
    "time_embed.emb.timestep_embedder.linear_1.bias": "adaln_single.emb.timestep_embedder.linear_1.bias",
    "transformer_blocks.27.attn1.norm_q.weight": "transformer_blocks.27.attn1.q_norm.weight",
    "transformer_blocks.0.attn2.norm_k.weight": "transformer_blocks.0.attn2.k_norm.weight",
    "transformer_blocks.0.ff.net.0.proj.weight": "transformer_blocks.0.ff.net.0.proj.weight",
    "scale_shift_table": "scale_shift_table",
}
AUTOENCODER_NAMES = {
    ("0.9.0", "encoder.down_blocks.1.conv_out.conv_shortcut.conv.weight"): "encoder.down_blocks.5.conv_shortcut.weight",
    ("0.9.0", "encoder.down_blocks.0.conv_out.norm3.bias"): "encoder.down_blocks.2.norm3.norm.bias",
    ("0.9.0", "encoder.down_blocks.2.downsamplers.0.conv.weight"): "encoder.down_blocks.7.conv.weight",
    ("0.9.0", "encoder.mid_block.resnets.3.conv1.conv.bias"): "encoder.down_blocks.9.res_blocks.3.conv1.conv.bias",
    ("0.9.0", "decoder.up_blocks.2.conv_in.conv2.conv.weight"): "decoder.up_blocks.4.conv2.conv.weight",
    ("0.9.0", "decoder.up_blocks.3.upsamplers.0.conv.conv.bias"): "decoder.up_blocks.8.conv.conv.bias",
    ("0.9.0", "latents_mean"): "per_channel_statistics.mean-of-means",
    ("0.9.1", "decoder.up_blocks.0.upsamplers.0.conv.conv.bias"): "decoder.up_blocks.1.conv.conv.bias",
    (
        "0.9.1",
        "decoder.up_blocks.2.resnets.4.per_channel_scale1",
    ): "decoder.up_blocks.6.res_blocks.4.per_channel_scale1",
    ("0.9.1", "decoder.mid_block.resnets.7.scale_shift_table"): "decoder.up_blocks.0.res_blocks.7.scale_shift_table",
    ("0.9.1", "decoder.up_blocks.1.time_embedder.timestep_embedder.linear_1.bias"): (
        "decoder.up_blocks.4.time_embedder.timestep_embedder.linear_1.bias"
    ),
    ("0.9.1", "decoder.scale_shift_table"): "decoder.last_scale_shift_table",
    ("0.9.5", "decoder.time_embedder.timestep_embedder.linear_2.weight"): (
        "decoder.last_time_embedder.timestep_embedder.linear_2.weight"
    ),
    ("0.9.5", "decoder.timestep_scale_multiplier"): "decoder.timestep_scale_multiplier",
    ("0.9.5", "encoder.down_blocks.2.downsamplers.0.conv.conv.weight"): "encoder.down_blocks.5.conv.conv.weight",
    ("0.9.5", "encoder.mid_block.resnets.1.conv2.conv.weight"): "encoder.down_blocks.8.res_blocks.1.conv2.conv.weight",
    ("0.9.5", "encoder.conv_out.conv.weight"): "encoder.conv_out.conv.weight",
}


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("generation", "name", "released"), [(*key, value) for key, value in AUTOENCODER_NAMES.items()]
)
def test_names_of_the_autoencoder(generation: Generation, name: str, released: str) -> None:
    assert vae_name(name, generation) == released


@pytest.mark.parametrize(("name", "released"), TRANSFORMER_NAMES.items())
def test_names_of_the_transformer(name: str, released: str) -> None:
    assert transformer_name(name) == released


@pytest.mark.parametrize("width", Width)
@pytest.mark.parametrize("release", LAYOUTS.values(), ids=lambda release: release.name)
def test_the_converters_bring_every_name_back(release: LTXRelease, width: Width) -> None:
    held = ltx.single_file(release, width)
    networks = {
        convert_ltx_transformer_checkpoint_to_diffusers: ltx.transformer_tensors(release, width),
        convert_ltx_vae_checkpoint_to_diffusers: ltx.vae_tensors(release, width),
    }
    for convert, wanted in networks.items():
        assert shapes(convert(dict(held))) == shapes(wanted)
    transformer = ltx.transformer_tensors(release, width)
    assert len(transformer) == {"2B": 715, "13B": 1215}[release.size]


def test_the_networks_count_what_the_originals_count() -> None:
    autoencoder = ltx_networks.vae("0.9.5", "0.9.5", Width.FULL)
    halves = [sum(each.numel() for each in half.parameters()) for half in (autoencoder.encoder, autoencoder.decoder)]
    assert halves == [694_098_881, 552_814_641]
    t5 = t5_tensors(Width.FULL)
    assert len(t5) == len(t5_tensors(Width.SMALL)) == NAMES
    assert round(gigabytes(t5), 2) == 19.05
    for width in Width:
        networks = (svd_networks.unet("svd", width), svd_networks.vae("svd", width), svd_networks.clip("svd", width))
        assert [len(network.state_dict()) for network in networks] == [1428, 374, 520]


@pytest.mark.parametrize(("name", "gb"), PUBLISHED_GB.items())
def test_the_single_files_weigh_what_the_hub_shows(name: str, gb: float) -> None:
    release = ltx.SINGLE_FILES[name]
    size = gigabytes(ltx.single_file(release, Width.FULL, fp8=name != release.file))
    assert size == pytest.approx(gb, abs=0.005 if gb < 10 else 0.05)


def test_stable_video_diffusions_single_files_weigh_what_the_hub_shows() -> None:
    sizes = [round(gigabytes(svd.single_file(release, Width.FULL)), 2) for release in svd.RELEASES]
    assert sizes == [9.56, 9.56, 4.78]


@pytest.mark.parametrize("model", RELEASED)
def test_a_card_says_how_much_is_fetched_for_it(model: str) -> None:
    card = load_catalogue()[model]
    assert isinstance(card, CheckpointCard)
    assert card.download_gb == round(download_gb(card), 2)


@pytest.mark.parametrize("model", [each for each in RELEASED if each.startswith("ltx-")])
def test_a_card_has_its_releases_schedule(model: str) -> None:
    card = load_catalogue()[model]
    assert isinstance(card, LTXCard)
    file, repository = card.source.file, card.source.repo
    release = ltx.SINGLE_FILES[file] if file else ltx.REPOSITORIES[repository or ""]
    assert card.defaults.causal_positions == release.causal
    assert card.defaults.schedule == ("linear-quadratic" if release.causal else "uniform")
    assert card.defaults.t5_attends_to_padding != release.causal
    assert card.defaults.max_sequence_length == (256 if release.causal else 128)
    levels = [timestep / 1000 for timestep in card.defaults.timesteps or ()]
    # 0.9.6 distilled does not list its levels, but was trained on those of its schedule's eight steps.
    trained = release.levels or (ltx_releases.DISTILLED_LEVELS if "distilled" in release.name else ())
    assert levels == pytest.approx(list(trained), abs=1e-4)
    if file:
        config = ltx.REPOSITORIES[card.source.config or ""]
        assert (config.size, config.vae) == (release.size, release.vae)


def test_every_card_names_what_a_release_has(tmp_path: Path) -> None:
    for model in RELEASED:
        build_release(model, tmp_path)
        card = load_catalogue()[model]
        assert isinstance(card, CheckpointCard)
        for component in {each for parts in card.STAGES.values() for each in parts}:
            source = card.component_source(component)
            place = tmp_path / (source.repo or "")
            if source.file is not None:
                assert (place / source.file).is_file()
                place = tmp_path / (source.config or "")
            assert (place / component).is_dir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for model in RELEASED:
        build_release(model, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "what is there stays"
    assert max(path.stat().st_size for path in before if path.is_file()) < 30e6


def test_a_diffusers_repository_has_the_published_files(tmp_path: Path) -> None:
    ltx.write_repository(tmp_path, "Lightricks/LTX-Video-0.9.7-dev")
    shards = [f"diffusion_pytorch_model-{number:05d}-of-00006.safetensors" for number in range(1, 7)]
    assert files(tmp_path) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"text_encoder/model-{number:05d}-of-00004.safetensors" for number in range(1, 5)),
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/added_tokens.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/spiece.model",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        *(f"transformer/{name}" for name in shards),
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    index = json.loads((tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    for shard in shards:
        with safe_open(tmp_path / "transformer" / shard, framework="pt") as tensors:
            names = list(tensors.keys())
            assert tensors.get_tensor(names[0]).dtype.itemsize == 2
            held |= dict.fromkeys(names, shard)
    assert held == index["weight_map"]
    assert set(held) == set(ltx.transformer_tensors(ltx.REPOSITORIES["Lightricks/LTX-Video-0.9.7-dev"], Width.SMALL))
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "LTXConditionPipeline"


def test_stable_video_diffusions_repository_has_a_variant(tmp_path: Path) -> None:
    release = svd.RELEASES[1]
    svd.write_repository(tmp_path, release.repository)
    svd.write_single_files(tmp_path, release.repository)
    networks = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
    assert files(tmp_path) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
        "svd_xt.safetensors",
        "svd_xt_image_decoder.safetensors",
        *(f"{component}/config.json" for component in networks),
        *(f"{component}/{stem}{each}.safetensors" for component, stem in networks.items() for each in ("", ".fp16")),
    }
    decoders = []
    for name in ("svd_xt.safetensors", "svd_xt_image_decoder.safetensors"):
        with safe_open(tmp_path / name, framework="pt") as tensors:
            names = [each for each in tensors.keys() if each.startswith("first_stage_model.decoder.conv_out.")]  # noqa: SIM118
            decoders.append(sorted(each.removeprefix("first_stage_model.decoder.conv_out.") for each in names))
    assert decoders == [["bias", "time_mix_conv.bias", "time_mix_conv.weight", "weight"], ["bias", "weight"]]


@pytest.mark.parametrize(
    ("name", "causal", "sampler", "levels"),
    [
        ("ltx-video-2b-v0.9.1.safetensors", None, None, None),
        ("ltx-video-2b-v0.9.5.safetensors", True, "LinearQuadratic", None),
        ("ltxv-2b-0.9.8-distilled-fp8.safetensors", True, "LinearQuadratic", 8),
    ],
)
def test_a_single_file_says_what_it_is(
    name: str, causal: bool | None, sampler: str | None, levels: int | None, tmp_path: Path
) -> None:
    ltx.write_single_file(tmp_path, name)
    with safe_open(tmp_path / name, framework="pt") as tensors:
        config = json.loads(tensors.metadata()["config"])
        dtypes = {tensors.get_slice(each).get_dtype() for each in tensors.keys()}  # noqa: SIM118 it is no mapping
        assert all(each.startswith(("model.diffusion_model.", VAE)) for each in tensors.keys())  # noqa: SIM118
    assert config["transformer"].get("causal_temporal_positioning") == causal
    assert config["scheduler"].get("sampler") == sampler
    assert config["transformer"]["num_layers"] == 28
    assert len(config.get("allowed_inference_steps", [])) == (levels or 0)
    assert dtypes == ({"BF16", "F8_E4M3"} if "fp8" in name else {"BF16"})


def test_the_tokenizers_ids_are_sentencepieces_own(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 128)
    assert not (tmp_path / "tokenizer.json").exists()
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert (added["<extra_id_0>"], added["<extra_id_99>"]) == (299, 200)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    for prompt in ("a red circle moves left", "Worst quality,  blurry … né", "", "A camera pans; it's 4K!"):
        assert tokenizer(prompt).input_ids == [*reference.encode(prompt), tokenizer.eos_token_id]
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [len(tokenizer) - 1, 200]


def test_t5_is_float32_in_four_shards_or_one_file(tmp_path: Path) -> None:
    write_t5(tmp_path / "text_encoder", Width.SMALL)
    network, report = T5EncoderModel.from_pretrained(tmp_path / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert network.config.is_gated_act
    assert network.shared.num_embeddings >= 300
    write_t5_files(tmp_path)
    layer = "encoder.block.23.layer.1.DenseReluDense.wi_0"
    with (
        safe_open(tmp_path / "t5xxl_fp16.safetensors", framework="pt") as half,
        safe_open(tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors", framework="pt") as scaled,
    ):
        assert len(half.keys()) == NAMES + 1, "the embedding has both its names"
        assert "scaled_fp8" in scaled.keys()  # noqa: SIM118
        restored = scaled.get_tensor(f"{layer}.weight").float() * scaled.get_tensor(f"{layer}.scale_weight")
        error = (restored - half.get_tensor(f"{layer}.weight").float()).norm() / restored.norm()
        assert 0 < error < 0.04
