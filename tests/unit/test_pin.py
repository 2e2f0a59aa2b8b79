"""Cards with commits in the place of branches, and what is shown of where their weights are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import paths
from pipelines.card import CheckpointCard, ModelCard
from pipelines.catalogue import get_card
from pipelines.weights import pin as pin_module
from pipelines.weights.origin import download_gb, origins
from pipelines.weights.pin import hub_config, is_commit, pin, pin_known, unpinned

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = {"repo": "maker/files", "revision": "main", "file": "model.safetensors", "config": "maker/model"}


def card(source: dict[str, Any], **components: dict[str, Any]) -> CheckpointCard:
    data = get_card("ltx-tiny").model_dump()
    made = type(get_card("ltx-tiny")).model_validate({**data, "source": source, "components": components})
    assert isinstance(made, CheckpointCard)
    return made


def commit_of(repo: str, revision: str | None) -> str:
    return (repo + "." + str(revision)).encode().hex()[:40].ljust(40, "0")


def test_a_branch_a_tag_and_no_revision_become_commits() -> None:
    before = card(
        {"repo": "maker/model"},
        text_encoder={"repo": "maker/t5", "revision": "v1.1"},
        tokenizer={"repo": "maker/t5", "revision": COMMIT},
    )
    pinned = pin(before, commit_of)
    assert isinstance(pinned, CheckpointCard)
    assert pinned.source.revision == commit_of("maker/model", None)
    assert pinned.components["text_encoder"].revision == commit_of("maker/t5", "v1.1")
    assert pinned.components["tokenizer"].revision == COMMIT
    assert before.source.revision is None, "a card is not changed"
    assert unpinned(before) == (("maker/t5", "v1.1"), ("maker/model", None))
    assert unpinned(pinned) == ()


def test_the_configuration_of_a_single_file_is_pinned_beside_it() -> None:
    before = card(FILE, text_encoder={"repo": "maker/model"}, tokenizer={"repo": "maker/model"})
    assert unpinned(before) == (("maker/model", None), ("maker/files", "main"))
    pinned = pin(before, commit_of)
    assert isinstance(pinned, CheckpointCard)
    assert pinned.source.revision == commit_of("maker/files", "main")
    assert pinned.source.config == f"maker/model@{commit_of('maker/model', None)}"
    assert hub_config(pinned.source.config) == ("maker/model", commit_of("maker/model", None))
    assert unpinned(pinned) == ()
    assert pin(pinned, commit_of) == pinned


def test_a_configuration_may_name_its_own_revision() -> None:
    text = {"repo": "maker/model", "revision": COMMIT}
    before = card({**FILE, "revision": COMMIT, "config": "maker/model@refs/pr/3"}, text_encoder=text, tokenizer=text)
    assert unpinned(before) == (("maker/model", "refs/pr/3"),)
    pinned = pin(before, commit_of)
    assert isinstance(pinned, CheckpointCard)
    assert pinned.source.config == f"maker/model@{commit_of('maker/model', 'refs/pr/3')}"


def test_only_the_components_that_a_stage_loads_are_pinned() -> None:
    """The node of another stage need not have them in its cache, nor reach the hub."""
    before = card({"repo": "maker/model"}, text_encoder={"repo": "maker/t5"}, tokenizer={"repo": "maker/t5"})
    assert unpinned(before, ("text_encoder", "tokenizer")) == (("maker/t5", None),)
    assert unpinned(before, ("vae",)) == (("maker/model", None),)
    pinned = pin(before, commit_of, ("vae",))
    assert isinstance(pinned, CheckpointCard)
    assert (pinned.source.revision, pinned.components) == (commit_of("maker/model", None), before.components)


@pytest.mark.parametrize("model", ["ltx-tiny", "svd-tiny", "simulated"])
def test_what_is_on_this_machine_has_no_commit(model: str) -> None:
    def never(*_: object) -> str:
        raise AssertionError("nothing is on the hub")

    assert unpinned(get_card(model)) == ()
    assert pin(get_card(model), never) == get_card(model)


def test_a_local_file_with_a_local_configuration_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_module, "ROOT", tmp_path)
    (tmp_path / "maker" / "model").mkdir(parents=True)
    local = {"file": "model.safetensors", "config": "maker/model"}
    text = {"folder": "maker/model"}
    assert unpinned(card(local, text_encoder=text, tokenizer=text)) == ()
    assert hub_config("maker/model") is None, "a folder of that name comes before the hub"
    assert hub_config("/no/such/folder") is None
    assert tmp_path != paths.ROOT


@pytest.mark.parametrize("revision", [None, "main", "v1", "0123456", COMMIT[:-1], COMMIT + "0", COMMIT.upper()])
def test_only_a_whole_commit_counts_as_one(revision: str | None) -> None:
    assert not is_commit(revision)
    assert is_commit(COMMIT)


def test_what_is_recorded_is_put_into_a_card_and_the_rest_stays() -> None:
    one = card({**FILE, "revision": "v2", "config": "maker/config@v1"}, text_encoder={"repo": "maker/t5"})
    known = pin_known(one, {("maker/t5", "main"): "c" * 40, ("maker/config", "v1"): "d" * 40})
    assert isinstance(known, CheckpointCard)
    assert (known.source.revision, known.source.config) == ("v2", f"maker/config@{'d' * 40}")
    assert known.components["text_encoder"].revision == "c" * 40
    bare = pin_known(one, {})
    assert isinstance(bare, CheckpointCard)
    assert (bare.source.config, bare.components["text_encoder"].revision) == ("maker/config@v1", "main")


def test_where_each_component_is_from() -> None:
    one = card(
        {**FILE, "revision": COMMIT},
        text_encoder={"repo": "maker/t5", "variant": "fp16"},
        tokenizer={"folder": "somewhere"},
    )
    assert origins(one, {("maker/t5", "main"): "c" * 40, ("maker/model", "main"): "d" * 40}) == {
        "transformer": {**FILE, "revision": COMMIT, "commit": COMMIT},
        "vae": {**FILE, "revision": COMMIT, "commit": COMMIT},
        "scheduler": {"repo": "maker/model", "commit": "d" * 40},
        "text_encoder": {"repo": "maker/t5", "variant": "fp16", "commit": "c" * 40},
        "tokenizer": {"folder": "somewhere"},
    }
    assert "commit" not in origins(one, {("maker/t5", "other"): "c" * 40})["text_encoder"]
    local = card({**FILE, "config": "models/ltx-tiny"}, text_encoder={"folder": "t5"}, tokenizer={"folder": "t5"})
    assert origins(local, {})["scheduler"] == {"folder": "models/ltx-tiny"}
    assert origins(get_card("simulated"), {}) == {}


def test_how_large_it_is_where_the_card_says_it() -> None:
    def sized(model: ModelCard, **update: float) -> float | None:
        return download_gb(model.model_copy(update=update))

    assert sized(get_card("ltx-tiny"), download_gb=9.5) == 9.5
    assert sized(get_card("simulated")) is None
