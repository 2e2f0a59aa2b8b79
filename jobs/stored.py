"""A job's checkpoints and result metadata: frozen values in JSON columns, written and read in this one place.

Old and new code read the same rows, after a rollback too. A key that this version does not know stays with the value
and is written back with it. A value that this version cannot read is left out, with a log line: one row must not keep
the others from being read. A format that has changed says so in its `version`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import JSON, Dialect
from sqlalchemy.types import TypeDecorator

V = TypeVar("V", bound="StoredValue")

log = logging.getLogger(__name__)


class StoredValue(BaseModel):
    """A frozen value. A field that is None is not written."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    def written(self) -> dict[str, object]:
        """The value as plain JSON."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def read(cls, data: Mapping[str, object]) -> Self:
        """The value of plain JSON that this or another version has written. Leaves out what it cannot read."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = {str(each["loc"][0]) for each in error.errors()}
            log.warning("%s: this version cannot read %s", cls.__name__, ", ".join(sorted(wrong)))
            return cls.model_validate({name: value for name, value in data.items() if name not in wrong})


class Fingerprint(StoredValue):
    """What a checkpoint was made from. A denoise continues only from its own."""

    input: str
    """A digest of the job's prompt, of the parameters and of the graph up to this node."""
    revision: str
    """Of the denoiser's weights."""
    state: str
    """The format of the state."""

    def differences(self, other: Fingerprint) -> list[str]:
        """The names of the parts that differ."""
        return [name for name in Fingerprint.model_fields if getattr(self, name) != getattr(other, name)]


class ResultMetadata(StoredValue):
    """What was measured and decided while a video was made; a client sees all of it."""

    prompt_used: bool | None = None
    """False where the model takes no prompt but the request had one."""
    prompt_truncated: bool | None = None
    image_notes: tuple[str, ...] | None = None
    """What of the input image was left out of account, such as a color profile that is broken."""
    resumed_at_step: int | None = None
    """The step at which the last denoise continued from a checkpoint."""
    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    model_revision: str | None = None
    """Which weights made the video: one commit or digest, or that of each component where they differ."""
    revisions: dict[str, str] | None = None
    """The commit or digest of each component of the checkpoint that a stage has used."""
    kinoray_version: str | None = None
    frames: int | None = None
    bytes: int | None = None
    """The size of the mp4."""
    degradations: tuple[str, ...] | None = None
    """What was done worse than asked, such as smaller tiles after the memory ran out."""
    warnings: tuple[str, ...] | None = None
    """What looks wrong with the video although it was made as asked."""

    def updated(self, newer: ResultMetadata) -> ResultMetadata:
        """These values, replaced by those that `newer` sets; each stage adds what it says of itself alone."""
        values = {**self.model_dump(), **newer.model_dump(exclude_none=True)}
        for name, old, new in (
            ("degradations", self.degradations, newer.degradations),
            ("warnings", self.warnings, newer.warnings),
        ):
            values[name] = tuple(dict.fromkeys([*(old or ()), *(new or ())])) or None
        if revisions := {**(self.revisions or {}), **(newer.revisions or {})}:
            values.update(revisions=revisions, model_revision=composed(revisions))
        return ResultMetadata(**values)


def composed(revisions: Mapping[str, str]) -> str:
    """One revision for those of all components: theirs if they agree, else each beside its component's name."""
    if len(set(revisions.values())) == 1:
        return next(iter(revisions.values()))
    return ",".join(f"{component}={revision}" for component, revision in sorted(revisions.items()))


class Checkpoint(StoredValue):
    """The last commit of one denoise, from which a retry or another replica continues."""

    key: str
    """Of the latents in the artifact store."""
    step: int
    """Denoising steps done."""
    final: bool
    """Whether the denoise is finished: these are its latents, and no state."""
    seconds: float
    """Of denoising, over all replicas and attempts that led to it."""
    fingerprint: Fingerprint
    result_metadata: ResultMetadata = ResultMetadata()
    """Of the denoise, once it is finished."""


FORMAT = 1
"""The version of the format of `Checkpoints`."""


class Checkpoints(StoredValue):
    """The last commit of each denoise of a job, by the name of its node in the stage graph."""

    version: int = FORMAT
    final: bool = False
    """Whether all latents that the rest of the job needs are finished, so that it needs no denoiser. The claim reads
    it."""
    nodes: dict[str, Checkpoint] = {}

    @classmethod
    def read(cls, data: Mapping[str, object]) -> Self:
        """The checkpoints of plain JSON; none where another format was written: those denoises begin anew."""
        if data.get("version") != FORMAT:
            return cls()
        found = super().read(data)
        return found if "nodes" in found.model_fields_set else cls()

    def with_commit(self, node: str, checkpoint: Checkpoint, needed: Collection[str]) -> Checkpoints:
        """These, with the commit of one node. `needed` are the denoises whose latents the rest of the job takes."""
        nodes = {**self.nodes, node: checkpoint}
        final = all(name in nodes and nodes[name].final for name in needed)
        return self.model_copy(update={"nodes": nodes, "final": final})

    def without(self, node: str) -> Checkpoints:
        """These, without the commit of one node, which is of no use any more."""
        nodes = {name: each for name, each in self.nodes.items() if name != node}
        return self.model_copy(update={"nodes": nodes, "final": False})


class Stored(TypeDecorator[V], Generic[V]):
    """A JSON column that holds one kind of value; SQL NULL for None."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def __init__(self, kind: type[V]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: V | None, dialect: Dialect) -> dict[str, object] | None:  # noqa: ARG002
        return None if value is None else value.written()

    def process_result_value(self, value: Mapping[str, object] | None, dialect: Dialect) -> V | None:  # noqa: ARG002
        return None if value is None else self.kind.read(value)
