"""The files that a component is made of, chosen by name among those of its folder or repository.

The names are those that diffusers and transformers write: one file or shards, plain or of a variant, and the variant
before the shard's number (`model.fp16-00001-of-00004`) or, from older releases, after it (`...-00002.fp16`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import NoReturn

from pipelines.card import PICKLES
from pipelines.errors import WeightsUnavailable

DESCRIPTIONS = ("*.json", "*.model", "*.txt")
"""The patterns of the files without tensors: configurations, tokenizers, indices of shards."""

_STEM = r"(?P<stem>model|diffusion_pytorch_model)"
_SHARD = r"-(?P<number>\d{5})-of-(?P<count>\d{5})"
_NAMES = (
    re.compile(rf"{_STEM}(\.(?P<variant>[\w-]+?))?({_SHARD})?\.safetensors"),
    re.compile(rf"{_STEM}{_SHARD}\.(?P<variant>[\w-]+)\.safetensors"),
)
_INDEX = re.compile(r".*\.index(\.(?P<variant>[\w-]+))?\.json")
_CONFIGURATIONS = {
    "scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json", "tokenizer": None,
}  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*")


@dataclass(slots=True)
class _Set:
    """Files that hold one copy of the weights together: one, or `count` shards."""

    stem: str
    count: int | None
    files: dict[int, str] = field(default_factory=dict)

    def missing(self) -> list[int]:
        return [number for number in range(1, (self.count or 0) + 1) if number not in self.files]


def weight_files(names: Iterable[str], *, variant: str | None, where: str) -> tuple[str, ...]:
    """Choose the files with a component's tensors among the `names` of one folder; shards come in order.

    `where` is the beginning of the sentence that says what is wrong: the card's id and the folder.

    Raises:
        WeightsUnavailable: the weights are not there, not of this variant, not whole or not in safetensors.
    """
    names = sorted(names)
    variants = _sets(names)
    if variant not in variants:
        _refuse(names, variant, variants, where)
    found = variants[variant]
    # A single file is whole by itself; transformers prefers it too.
    whole = [each for each in found if not each.missing()]
    single = [each for each in whole if each.count is None]
    if not whole:
        first = found[0].missing()[0]
        shard = next(iter(found[0].files.values()))
        name = re.sub(r"-\d{5}-of-", f"-{first:05}-of-", shard)
        raise WeightsUnavailable(
            f"{where} has {len(found[0].files)} of {found[0].count} shards: {name} is missing; copy it there too"
        )
    if len(single or whole) > 1:
        several = " and ".join(next(iter(each.files.values())) for each in (single or whole))
        raise WeightsUnavailable(f"{where} has more than one copy of the weights, {several}; keep one of them")
    (chosen,) = single or whole
    return tuple(chosen.files[number] for number in sorted(chosen.files))


def description_files(names: Iterable[str], *, component: str, variant: str | None, where: str) -> tuple[str, ...]:
    """Choose a component's files without tensors among the `names` of its folder, without other variants' indices.

    Raises:
        WeightsUnavailable: the component's configuration, or a tokenizer's vocabulary, is not among them.
    """
    names = sorted(names)
    found = tuple(name for name in names if _describes(name, variant))
    configuration = _CONFIGURATIONS.get(component, "config.json")
    if configuration is not None and configuration not in found:
        raise WeightsUnavailable(
            f"{where} has no {configuration}; it must be a component's folder as diffusers writes it"
        )
    if component == "tokenizer" and not any(fnmatch(name, each) for name in found for each in _VOCABULARIES):
        raise WeightsUnavailable(
            f"{where} has no vocabulary (tokenizer.json, spiece.model or vocab.json); copy the tokenizer's whole folder"
        )
    return found


def component_files(
    paths: Iterable[str], *, component: str, variant: str | None, weights: bool, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose a component's files among all `paths` of a diffusers checkpoint.

    Args:
        weights: whether those with tensors are wanted too.

    Returns:
        The paths of its descriptions, and those of its weights.

    Raises:
        WeightsUnavailable: they are not all there; `where` begins the sentence.
    """
    folder = f"{component}/"
    names = [path.removeprefix(folder) for path in paths if path.startswith(folder) and "/" not in path[len(folder) :]]
    if not names:
        raise WeightsUnavailable(f"{where} has no folder {component}; it must be a diffusers checkpoint")
    where = f"{where}: {component}"
    descriptions = description_files(names, component=component, variant=variant, where=where)
    tensors = weight_files(names, variant=variant, where=where) if weights else ()
    return tuple(folder + name for name in descriptions), tuple(folder + name for name in tensors)


def _describes(name: str, variant: str | None) -> bool:
    if not any(fnmatch(name, pattern) for pattern in DESCRIPTIONS):
        return False
    index = _INDEX.fullmatch(name)
    return index is None or (".safetensors." in name and index["variant"] == variant)


def _sets(names: Iterable[str]) -> dict[str | None, list[_Set]]:
    """The copies of the weights that the names show, by their variant."""
    sets: dict[tuple[str | None, str, int | None, int], _Set] = {}
    for name in names:
        for style, pattern in enumerate(_NAMES):
            if match := pattern.fullmatch(name):
                count = int(match["count"]) if match["count"] else None
                number = int(match["number"]) if match["number"] else 1
                key = (match["variant"], match["stem"], count, style if count else 0)
                sets.setdefault(key, _Set(match["stem"], count)).files[number] = name
                break
    by_variant: dict[str | None, list[_Set]] = {}
    for (variant, *_), each in sets.items():
        by_variant.setdefault(variant, []).append(each)
    return by_variant


def _refuse(names: list[str], variant: str | None, there: dict[str | None, list[_Set]], where: str) -> NoReturn:
    """Say what stands in place of the wanted variant."""
    others = sorted(each for each in there if each)
    if variant is None and others:
        raise WeightsUnavailable(
            f"{where} has only the variant {' and '.join(others)} of its weights; set `variant: {others[0]}` for it"
        )
    if there:
        plain = ["the plain one (no `variant`)"] if None in there else []
        raise WeightsUnavailable(
            f"{where} has no variant {variant!r} of its weights; there is {' and '.join(plain + others)}"
        )
    if pickled := [name for name in names if name.endswith(tuple(PICKLES))]:
        raise WeightsUnavailable(
            f"{where} has its weights only as pickle ({pickled[0]}), which runs code when loaded; if you trust it, "
            "load it with diffusers or transformers and write it by `save_pretrained(FOLDER, safe_serialization=True)`"
        )
    raise WeightsUnavailable(
        f"{where} has no weights; copy model.safetensors or diffusion_pytorch_model.safetensors, or its shards, there"
    )
