"""A network that loads is the one that its library would load, whatever files it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, AutoencoderKLTemporalDecoder, LTXVideoTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection, T5EncoderModel

from benchmarks.fidelity import picture
from benchmarks.random_weights import build_ltx, build_svd, ltx_card, svd_card
from pipelines.card import CheckpointCard
from pipelines.catalogue import read_card
from pipelines.errors import WeightsUnavailable
from pipelines.local import LocalPipeline
from pipelines.ltx.card import LTXDefaults
from pipelines.ltx.release import contradiction
from pipelines.weights.check import check
from pipelines.weights.description import description_of
from pipelines.weights.header import read_header
from pipelines.weights.load import load_network
from pipelines.weights.revision import ENDS_BYTES, revision_of
from tests.harness.hub import run_hub, use_hub

CPU = torch.device("cpu")
VAE = "vae/diffusion_pytorch_model.safetensors"
NETWORKS = {
    "transformer": LTXVideoTransformer3DModel, "vae": AutoencoderKLLTXVideo, "text_encoder": T5EncoderModel,
    "svd-vae": AutoencoderKLTemporalDecoder, "image_encoder": CLIPVisionModelWithProjection,
}  # fmt: skip


@pytest.fixture(scope="module")
def ltx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ltx(tmp_path_factory.mktemp("ltx"))


@pytest.fixture(scope="module")
def svd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_svd(tmp_path_factory.mktemp("svd"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_what_the_library_loads(name: str, dtype: torch.dtype, ltx_folder: Path, svd_folder: Path) -> None:
    """In every number, dtype and flag; T5 keeps a layer in float32 beside float16."""
    is_svd = name in ("svd-vae", "image_encoder")
    folder, card = (svd_folder, svd_card(svd_folder)) if is_svd else (ltx_folder, ltx_card(ltx_folder))
    component = name.removeprefix("svd-")
    ours: Any = load_network(card, component, dtype=dtype, device=CPU)
    theirs: Any = NETWORKS[name].from_pretrained(folder, subfolder=component, dtype=dtype)
    state, expected = ours.state_dict(keep_vars=True), theirs.state_dict(keep_vars=True)
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert state[key].dtype == tensor.dtype, key
        assert torch.equal(state[key], tensor), key
        assert state[key].requires_grad == tensor.requires_grad, key
    assert not ours.training
    assert not [key for key, tensor in ours.named_buffers() if tensor.is_meta]


def test_a_tied_tensor_is_one(ltx_folder: Path) -> None:
    network = load_network(ltx_card(ltx_folder), "text_encoder", dtype=torch.bfloat16, device=CPU)
    assert network.shared.weight is network.encoder.embed_tokens.weight


def test_a_network_does_not_lie_in_its_file(ltx_folder: Path) -> None:
    """Where a tensor lies in a mapped file depends on the file's header, and a CPU's sums on where a tensor lies."""
    network = load_network(ltx_card(ltx_folder), "vae", dtype=torch.float32, device=CPU)
    assert {tensor.data_ptr() % 64 for tensor in network.parameters()} == {0}


def with_vae(card: CheckpointCard, file: Path) -> CheckpointCard:
    folder = str(card.source.folder)
    read = read_card({**card.model_dump(mode="json"), "components": {"vae": {"file": str(file), "config": folder}}})
    assert isinstance(read, CheckpointCard)
    return read


def test_a_single_file_may_have_diffusers_names(ltx_folder: Path) -> None:
    (file,) = (ltx_folder / "vae").glob("*.safetensors")
    card = ltx_card(ltx_folder)
    ours = load_network(with_vae(card, file), "vae", dtype=torch.float32, device=CPU)
    folder = load_network(card, "vae", dtype=torch.float32, device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), folder.parameters(), strict=True))


def test_positions_that_older_versions_stored_are_left_aside(tmp_path: Path) -> None:
    build_svd(tmp_path)
    (file,) = (tmp_path / "image_encoder").glob("*.safetensors")
    positions = {"vision_model.embeddings.position_ids": torch.arange(50).unsqueeze(0)}
    save_file({**load_file(file), **positions}, file, metadata={"format": "pt"})
    network = load_network(svd_card(tmp_path), "image_encoder", dtype=torch.float32, device=CPU)
    assert network.vision_model.embeddings.position_ids.tolist() == [list(range(50))]


def test_two_shards_may_not_have_the_same_tensor(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsUnavailable, match=r"b.safetensors has x, which a.safetensors has already"):
        read_header([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def distilled(**changes: object) -> LTXDefaults:
    return LTXDefaults.model_validate(
        {
            "width": 64, "height": 64, "num_frames": 9, "fps": 25, "num_inference_steps": 2, "guidance_scale": 1.0,
            "schedule": "linear-quadratic", "causal_positions": True, "t5_attends_to_padding": False,
            "timesteps": [1000, 725], **changes,
        }
    )  # fmt: skip


def test_a_distilled_card_is_held_to_its_levels_and_not_to_a_schedule() -> None:
    said = {"config": '{"scheduler": {"sampler": "Uniform"}, "allowed_inference_steps": [1.0, 0.7251]}'}
    assert contradiction(distilled(), said) is None
    assert contradiction(distilled(timesteps=[1000, 730]), said) is not None
    other = contradiction(distilled(timesteps=None), said)
    assert other == "sampler is Uniform, schedule is linear-quadratic"


@pytest.mark.parametrize("said", [{}, {"config": "not JSON"}, {"config": "[]"}, {"config": '{"transformer": null}'}])
def test_metadata_of_somebody_else_says_nothing(said: dict[str, str]) -> None:
    assert contradiction(distilled(), said) is None


def test_a_revision_tells_beginnings_ends_names_and_sizes_apart(ltx_folder: Path, tmp_path: Path) -> None:
    card = ltx_card(build_ltx(tmp_path))
    assert revision_of(card, "transformer") == revision_of(ltx_card(ltx_folder), "transformer")
    (file,) = (tmp_path / "transformer").glob("*.safetensors")
    content = file.read_bytes() + bytes(3 * ENDS_BYTES)  # long enough for a middle that is not read
    seen = set()
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        seen.add(revision_of(card, "transformer"))
    file.write_bytes(content)
    seen.add(revision_of(card, "transformer"))
    file.write_bytes(content + b"\0")
    seen.add(revision_of(card, "transformer"))
    config = tmp_path / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")
    seen.add(revision_of(card, "transformer"))
    assert len(seen) == 5
    assert revision_of(card, "scheduler") != revision_of(card, "tokenizer")


def test_the_revision_of_weights_from_the_hub_is_their_commit(
    ltx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_hub() as hub:
        use_hub(hub, tmp_path, monkeypatch)
        commit = hub.push_folder("someone/ltx", ltx_folder)
        source = {"repo": "someone/ltx", "revision": commit}
        card = read_card({**ltx_card(ltx_folder).model_dump(mode="json"), "source": source})
        assert isinstance(card, CheckpointCard)
        assert {revision_of(card, component) for component in card.all_components()} == {commit}
        source = {"repo": "someone/ltx", "revision": commit, "file": VAE, "config": str(ltx_folder)}
        single = read_card({**card.model_dump(mode="json"), "components": {"vae": source}})
        assert isinstance(single, CheckpointCard)
        assert re.fullmatch(rf"{commit}\+[0-9a-f]{{16}}", revision_of(single, "vae"))


def test_a_stage_reads_what_describes_a_component_or_says_why_not(tmp_path: Path) -> None:
    card = ltx_card(build_ltx(tmp_path))
    assert description_of(card, "scheduler") == tmp_path
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text("{")
    with pytest.raises(WeightsUnavailable, match=r"scheduler_config.json cannot be read .*: fetch it again"):
        check(card)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(WeightsUnavailable, match=r"scheduler_config.json is a Git LFS pointer"):
        LocalPipeline(card, gpu=False).denoiser  # noqa: B018


@pytest.mark.parametrize("spoiled", [b"version https://git-lfs.github.com/spec/v1", b"no model"])
def test_a_tokenizer_that_did_not_come_is_said_before_t5_loads(spoiled: bytes, tmp_path: Path) -> None:
    card = ltx_card(build_ltx(tmp_path))
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(spoiled)
    with pytest.raises(WeightsUnavailable, match=r"spiece.model (is a Git LFS pointer|cannot be read)"):
        check(card)


def test_the_half_that_a_stage_does_not_need_takes_no_memory(ltx_folder: Path, svd_folder: Path) -> None:
    for card in (ltx_card(ltx_folder), svd_card(svd_folder)):
        whole: Any = load_network(card, "vae", dtype=torch.float32, device=CPU)
        half: Any = load_network(card, "vae", dtype=torch.float32, device=CPU, without="encoder")
        names = {name for name in whole.state_dict() if not name.startswith("encoder.")}
        assert half.state_dict().keys() == names
        assert all(torch.equal(half.state_dict()[name], whole.state_dict()[name]) for name in names)


def test_stages_of_stable_video_diffusion_may_compute_in_different_dtypes(svd_folder: Path) -> None:
    """As on a CPU and a GPU: float32 for the image, float16 for the frames."""
    exact, half = (LocalPipeline(svd_card(svd_folder, dtype), gpu=False) for dtype in ("float32", "float16"))
    parameters = half.card.default_parameters().model_copy(update={"num_inference_steps": 1, "num_frames": 2})
    inputs = exact.condition("", parameters, picture())
    latents = half.denoise(parameters, inputs)
    assert torch.isfinite(exact.decode([latents], parameters)).all()
