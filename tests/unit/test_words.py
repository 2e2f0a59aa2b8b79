"""The words of the field, and none of the dialect that the first version spoke."""

from __future__ import annotations

import re

import pytest

from pipelines.paths import ROOT

DIALECT = {
    "a stage": r"(?<![a-z])legs?(?![a-z])",
    "a job run": r"\brelays?\b",
    "a denoise request": r"(?<![a-z])tickets?(?![a-z])",
    "the denoiser pool": r"waiting.?room",
    "to preempt": r"\bmak(e|es|ing)[ _]way\b|\bmade way\b",
    "to abort": r"let[ _]go",
    "to notify": r"\bnudg",
    "an authenticator": r"doorkeeper",
    "a write batcher": r"\btogether(\[|\.(put|written|py)\b)|class together",
    "a takeover guard": r"\bexpiries\b",
    "to migrate a job, a stage output": r"\bhand(s|ed|ing)?[ _-]?over|handover",
    "pending cleanup": r"leftover",
    "fail-fast": r"\bhurried",
    "result_metadata": r"(?<![a-z])facts(?![a-z])",
    "the architecture, a module": r"\bthe house\b|\brooms\b",
}
NOT_OURS = ("CHANGELOG.md", "jobs/migrations/versions/", "tests/unit/test_words.py", "tests/unit/test_database.py")
"""What was said in its time: the changelog, migrations and their tests name the columns of older versions."""


@pytest.mark.parametrize(("word", "pattern"), DIALECT.items())
def test_nothing_speaks_the_old_dialect(word: str, pattern: str) -> None:
    spoken = re.compile(pattern, re.IGNORECASE)
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if spoken.search(line) or spoken.search(path)
    ]
    assert found == [], f"say {word}"


def texts() -> dict[str, str]:
    """Everything that people read here, by path."""
    folders = ("benchmarks", "cli", "configs", "deployments", "docs", "jobs", "k8s", "pipelines", "scripts", "storage",
               "tests", "training")  # fmt: skip
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    paths += [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    named = {str(path.relative_to(ROOT)): path for path in paths if path.is_file() and is_read(path.name)}
    assert len(named) > 250
    return {name: path.read_text() for name, path in sorted(named.items()) if not name.startswith(NOT_OURS)}


def is_read(name: str) -> bool:
    return name.endswith((".py", ".md", ".yaml", ".toml", ".example", ".txt")) or name in ("Makefile", "Dockerfile")
