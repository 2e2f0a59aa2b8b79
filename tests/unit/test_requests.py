"""What a request becomes, and what the catalogue allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.card import CheckpointCard, RequestFields, Source
from pipelines.catalogue import get_card, load_card, load_catalogue, read_card
from pipelines.errors import ConfigError, InvalidRequest
from pipelines.paths import ROOT
from pipelines.requests import GenerationRequest, resolve
from pipelines.shape import Asked
from pipelines.stages import Stage


def request(**fields: object) -> RequestFields:
    return GenerationRequest.model_validate({"prompt": "x", **fields})


def test_every_shipped_card_accepts_its_own_defaults() -> None:
    cards = load_catalogue()
    releases = ["0", "1", "5", "6-dev", "6-distilled", "7-13b-dev", "7-13b-distilled"]
    releases += ["8-13b-dev", "8-13b-distilled", "8-2b-distilled"]
    ltx = {f"ltx-video-0.9.{release}" for release in releases}
    assert set(cards) == ltx | {"svd", "svd-xt", "svd-xt-1.1", "ltx-tiny", "svd-tiny", "simulated"}
    for card in cards.values():
        said = request(width=card.defaults.width, height=card.defaults.height)
        parameters = resolve(said, card, has_image=card.NEEDS_IMAGE)
        assert parameters.num_frames == card.defaults.num_frames


def test_an_operator_adds_cards_and_changes_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = (ROOT / "configs/models/simulated.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(shipped.replace("id: simulated", "id: mine"))
    monkeypatch.setenv("KINORAY_MODELS", str(tmp_path))
    load_catalogue.cache_clear()
    try:
        assert {get_card("mine").id, get_card("simulated").id} == {"mine", "simulated"}
        (tmp_path / "simulated.yaml").write_text(shipped)
        load_catalogue.cache_clear()
        with pytest.raises(ConfigError, match="has a model 'simulated' already"):
            get_card("mine")
    finally:
        load_catalogue.cache_clear()


def test_real_ltx_models_take_8k_plus_1_frames() -> None:
    with pytest.raises(InvalidRequest, match="nearest are 97 and 105"):
        resolve(request(num_frames=100), get_card("ltx-video-0.9.5"))


LEVELS = (1000, 993.75, 987.5, 981.25, 975, 909.375, 725, 421.875)


def test_a_distilled_model_has_its_own_schedule() -> None:
    card = get_card("ltx-video-0.9.8-2b-distilled")
    assert resolve(request(), card).model_dump()["timesteps"] == LEVELS
    shorter = resolve(request(num_inference_steps=4), card).model_dump()
    assert shorter["timesteps"] == (1000, 987.5, 975, 725)
    with pytest.raises(InvalidRequest, match=r"must be 4 or 7 or 8: .* is distilled for these"):
        resolve(request(num_inference_steps=20), card)


def test_seconds_choose_a_number_of_frames_that_is_enough() -> None:
    card = get_card("ltx-video-0.9.5")
    assert resolve(request(), card, asked=Asked(seconds=4)).num_frames == 105
    assert resolve(request(fps=24), card, asked=Asked(seconds=0.01)).num_frames == 1
    with pytest.raises(InvalidRequest, match="seconds must be at most"):
        resolve(request(), card, asked=Asked(seconds=60))


def test_svd_needs_an_image_and_no_prompt() -> None:
    card = get_card("svd-tiny")
    with pytest.raises(InvalidRequest, match="input_reference is missing: svd-tiny makes a video from an image"):
        resolve(request(), card)
    assert resolve(GenerationRequest(), card, has_image=True).num_frames == 9
    assert resolve(request(width=72, num_frames=10), card, has_image=True).width == 72


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        ("svd-tiny", {"guidance_scale": 3}, "no guidance_scale; its settings are decode_chunk_size, fit, fps"),
        ("svd-tiny", {"negative_prompt": "x"}, "svd-tiny has no negative_prompt"),
        ("ltx-tiny", {"motion_bucket_id": 127}, "ltx-tiny has no motion_bucket_id"),
        ("svd-tiny", {"width": 100}, "nearest are 96 and 104"),
        (
            "svd-tiny",
            {"min_guidance_scale": 3, "max_guidance_scale": 2},
            "at most max_guidance_scale",
        ),
        ("svd-xt", {"num_frames": 26}, "between 1 and 25"),
    ],
)
def test_each_family_has_its_own_settings(model: str, fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        resolve(request(**fields), get_card(model), has_image=True)
    assert refused.value.param in fields


def test_a_low_maximum_turns_guidance_off() -> None:
    said = GenerationRequest.model_validate({"max_guidance_scale": 0.5})
    assert not resolve(said, get_card("svd"), has_image=True).guided


def test_the_released_svd_models_have_their_frame_counts() -> None:
    counts = {model: get_card(model).defaults.num_frames for model in ("svd", "svd-xt", "svd-xt-1.1")}
    assert counts == {"svd": 14, "svd-xt": 25, "svd-xt-1.1": 25}


def test_a_seed_is_drawn_when_none_is_given() -> None:
    card = get_card("ltx-tiny")
    assert resolve(request(seed=0), card).seed == 0
    assert len({resolve(request(), card).seed for _ in range(8)}) > 1


def test_a_misspelt_key_of_a_card_is_refused_at_every_level(tmp_path: Path) -> None:
    good = (Path("configs/models") / "ltx-tiny.yaml").read_text()
    path = tmp_path / "ltx-tiny.yaml"
    for wrong in (good + "extra: 1\n", good.replace("fps: 8", "fsp: 8"), good.replace("max_size:", "max_sise:")):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            load_card(path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "exactly one of folder, repo or file"),
        ({"folder": "a", "repo": "b"}, "exactly one of folder, repo or file"),
        ({"file": "x.safetensors"}, "file needs config"),
        ({"folder": "a", "config": "b"}, "config belongs to file"),
        ({"repo": "a/b", "config": "b"}, "config belongs to file"),
        ({"folder": "a", "revision": "main"}, "revision belongs to repo"),
        ({"repo": "a/b", "file": "x.safetensors", "config": "b", "variant": "fp16"}, "variant chooses among files"),
    ],
)
def test_a_source_is_one_place_and_says_nothing_in_vain(source: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Source.model_validate(source)


def test_a_card_names_only_components_of_its_family() -> None:
    data = get_card("svd-tiny").model_dump(mode="json", exclude_none=True)
    elsewhere = {"folder": "elsewhere"}
    with pytest.raises(ValidationError, match="no component 'transformer'; there are feature_extractor, image_encoder"):
        read_card({**data, "components": {"transformer": elsewhere}})
    assert read_card({**data, "components": {"unet": elsewhere}}).id == "svd-tiny"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("fps: 8", "fps: 0"),
        ("width: 64", "width: 70"),
        ("num_frames: 9", "num_frames: 999"),
        ("num_inference_steps: ", "num_inference_steps: 5000 # "),
    ],
)
def test_a_card_keeps_to_its_own_limits(tmp_path: Path, wrong: str, says: str) -> None:
    good = (ROOT / "configs/models/ltx-tiny.yaml").read_text()
    assert wrong in good, good
    path = tmp_path / "ltx-tiny.yaml"
    path.write_text(good.replace(wrong, says))
    with pytest.raises(ConfigError, match=r"ltx-tiny\.yaml: "):
        load_card(path)


def test_models_with_one_text_encoder_share_it_whatever_files_their_transformers_are() -> None:
    data = get_card("ltx-tiny").model_dump(mode="json")
    t5 = {"file": "/t5.safetensors", "config": "/ltx"}
    cards = [
        read_card({**data, "source": source, "components": {"text_encoder": t5}})
        for source in (
            {"folder": "/ltx"},
            {"file": "/one.safetensors", "config": "/ltx"},
            {"file": "/two.safetensors", "config": "/ltx"},
        )
    ]
    assert len({card.shared_by(Stage.TEXT_ENCODE) for card in cards}) == 1
    assert len({card.shared_by(Stage.DECODE) for card in cards}) == 3


def test_a_card_may_name_a_path_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Source.model_validate({"file": "~/x.safetensors", "config": "~/ltx"})
    assert (source.file, source.config) == (f"{tmp_path}/x.safetensors", f"{tmp_path}/ltx")


def test_a_wrong_card_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "ltx-tiny.yaml"
    good = (ROOT / "configs/models/ltx-tiny.yaml").read_text()
    path.write_text(good.replace("  schedule: linear-quadratic\n", ""))
    with pytest.raises(ConfigError) as refused:
        load_card(path)
    assert refused.value.message == f"{path}: defaults.schedule: is missing"


@pytest.mark.parametrize("size", ["1312x64", "64x1312", "100x64", "32x64", "1280x1280"])
def test_a_card_recommends_only_what_its_limits_allow(size: str) -> None:
    data = get_card("ltx-tiny").model_dump(mode="json")
    limits = {**data["limits"], "min_size": 64, "max_size": 1280, "max_pixels": 1280 * 1248 * 9}
    for sound in ("64x96", "1280x1248"):
        read_card({**data, "limits": limits, "recommended_sizes": [sound]})
    with pytest.raises(ValidationError, match=f"recommended_sizes has {size}, which limits do not allow for 9 frames"):
        read_card({**data, "limits": limits, "recommended_sizes": ["64x64", size]})


def test_a_recommended_size_is_written_as_a_request_writes_it() -> None:
    data = get_card("ltx-tiny").model_dump(mode="json")
    for wrong in ("64*64", "64x064", [64, 64], "x64"):
        with pytest.raises(ValidationError, match="recommended_sizes"):
            read_card({**data, "recommended_sizes": [wrong]})


def test_every_released_model_recommends_sizes_and_advises() -> None:
    for card in load_catalogue().values():
        if isinstance(card, CheckpointCard) and card.download_gb is not None:
            assert card.recommended_sizes[0] == f"{card.defaults.width}x{card.defaults.height}"
            assert card.advice
