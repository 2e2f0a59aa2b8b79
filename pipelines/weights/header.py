"""The header of a safetensors file: what it holds, read without its gigabytes. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import WeightsUnavailable
from pipelines.weights.foreign import BEGINNING, stand_in

LONGEST_HEADER = 100_000_000  # in bytes, as safetensors has it


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file."""

    dtype: str  # as safetensors names it: F32, BF16, F8_E4M3
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of one file, or of all shards of a component together."""

    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @property
    def title(self) -> str:
        """The files' name in a sentence."""
        first = self.files[0]
        return str(first) if len(self.files) == 1 else f"{first.parent} ({len(self.files)} files)"


def read_header(files: Iterable[Path]) -> Header:
    """Read the headers of the files that make up one component.

    Raises:
        WeightsUnavailable: a file is not whole or is no safetensors file; the sentence says what it is instead.
    """
    from safetensors import SafetensorError, safe_open

    files = tuple(files)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                metadata.update(tensors.metadata() or {})
                for name in tensors.keys():  # noqa: SIM118 it is no mapping
                    if name in entries:
                        raise WeightsUnavailable(f"{path} has {name}, which {entries[name].file.name} has already")
                    tensor = tensors.get_slice(name)
                    entries[name] = Entry(tensor.get_dtype(), tuple(tensor.get_shape()), path)
        except (SafetensorError, OSError) as error:
            raise WeightsUnavailable(f"{path} {_what_it_is(path, error)}") from error
    return Header(files, entries, metadata)


def _what_it_is(path: Path, error: Exception) -> str:
    """The rest of a sentence that begins with the file: what it is, and what to do."""
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
        size = path.stat().st_size
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror}"
    if (instead := stand_in(beginning)) is not None:
        return instead
    if beginning.startswith(b"GGUF"):
        return "is a GGUF file: name it so that it ends with .gguf, if this component can be read from one"
    if beginning.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            "is a pickle, which runs code when it is loaded: save its tensors with safetensors.torch.save_file and "
            "name that file"
        )
    if (whole := _whole_size(path, beginning)) is None:
        return f"is no safetensors file ({error}): fetch it again"
    if size < whole:
        return f"is cut short, at {size} of {whole} bytes: fetch it again"
    return f"has a header that cannot be read, or is too long ({error}): fetch it again"


def _whole_size(path: Path, beginning: bytes) -> int | None:
    """The bytes that a safetensors file should have by its own header; None if it has none."""
    length = int.from_bytes(beginning[:8], "little")
    if beginning[8:9] != b"{" or length > LONGEST_HEADER:
        return None
    with path.open("rb") as file:
        header = file.read(8 + length)[8:]
    if len(header) < length:
        return 8 + length + 1  # cut within the header: the whole file is larger than that
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return 8 + length + max(ends, default=0)
