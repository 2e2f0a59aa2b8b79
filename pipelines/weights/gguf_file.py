"""The header of a GGUF file: what it holds and how it is quantised, read without its gigabytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import WeightsUnavailable
from pipelines.weights.foreign import BEGINNING, stand_in
from pipelines.weights.header import Entry, Header

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
PLAIN = frozenset({"F32", "F16", "BF16"})
"""The types that are numbers as torch has them; all others are blocks of quantised ones."""
UNKNOWN_KIND = re.compile(r"(\d+)\W* is not a valid GGMLQuantizationType")
INSTEAD = "take Q8_0, or Q5_K_M or Q4_K_M where memory is short"


def read_gguf_header(path: Path) -> Header:
    """Read what a GGUF file holds: the shapes are of the numbers, in torch's order; the dtypes are ggml's types.

    `metadata` has the file's own single values as text, such as `general.architecture`; lists are left out.

    Raises:
        WeightsUnavailable: the file is not a whole GGUF file, or it has a quantisation that cannot be read here.
    """
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES
    from gguf import GGMLQuantizationType, GGUFValueType

    readable = PLAIN | {GGMLQuantizationType(each).name for each in SUPPORTED_GGUF_QUANT_TYPES}
    entries = {}
    reader = open_gguf(path)
    metadata = {
        name: str(field.contents())
        for name, field in reader.fields.items()
        if field.types and field.types[0] != GGUFValueType.ARRAY
    }
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        if kind not in readable:
            raise WeightsUnavailable(f"{path}: {tensor.name} is {kind}, which cannot be read here; {INSTEAD}")
        entries[tensor.name] = Entry(kind, tuple(reversed(tensor.shape.tolist())), path)
    if int(metadata.get("split.count", "0")) > 1:
        raise WeightsUnavailable(
            f"{path} is one of {metadata['split.count']} parts: join them with `llama-gguf-split --merge`, and name "
            f"the file that it makes"
        )
    return Header((path,), entries, metadata)


def open_gguf(path: Path) -> GGUFReader:
    """Map a GGUF file into memory: its tensors are read when they are used, and a write to them is not saved.

    Raises:
        WeightsUnavailable: the file is not a whole GGUF file.
    """
    from gguf import GGUFReader

    try:
        if (problem := _foreign(path)) is not None:
            raise WeightsUnavailable(f"{path} {problem}")
        return GGUFReader(path, "c")
    except OSError as error:
        raise WeightsUnavailable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        if (unknown := UNKNOWN_KIND.search(str(error))) is not None:
            problem = f"has a quantisation that is not known here ({unknown[1]}); {INSTEAD}"
        else:
            problem = f"is cut short at {path.stat().st_size / 1e6:.0f} MB, or damaged: fetch it again"
        raise WeightsUnavailable(f"{path} {problem}") from error


def _foreign(path: Path) -> str | None:
    """The rest of a sentence that begins with the file, if it does not begin as a GGUF file that can be read here."""
    from gguf.gguf_reader import READER_SUPPORTED_VERSIONS

    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if (instead := stand_in(beginning)) is not None:
        return instead
    if not beginning.startswith(MAGIC):
        if beginning[8:9] == b"{":
            return "is a safetensors file: name it so that it ends with .safetensors"
        return "is no GGUF file: fetch it again"
    version = int.from_bytes(beginning[4:8], "little")
    if version and version % 2**16 == 0:
        return "is a big-endian GGUF file: take one for ordinary machines, which are little-endian"
    if version < min(READER_SUPPORTED_VERSIONS):
        return f"is a GGUF file of version {version}, from 2023: take a newer file of the same weights"
    if version > max(READER_SUPPORTED_VERSIONS):
        return f"is a GGUF file of version {version}, too new for the gguf package here: `pip install --upgrade gguf`"
    return None
