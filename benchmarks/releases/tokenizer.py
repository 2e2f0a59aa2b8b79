"""A T5 tokenizer as in the repositories: a real sentencepiece model, and no `tokenizer.json`."""

from __future__ import annotations

import io
import string
from functools import cache
from pathlib import Path

import sentencepiece

from benchmarks.releases.files import write_json
from training.world import JUDGED_FRAMES, MOVING_PHRASES, STILL_PHRASES, vocabulary

PIECES = 200
EXTRA = 100
"""The sentinels `<extra_id_0>` to `<extra_id_99>`, which follow the pieces from the last number down."""
SIZE = PIECES + EXTRA
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # their ids are 0, 1 and 2
MAKERS_PROMPTS = (
    "worst quality, inconsistent motion, blurry, jittery, distorted",
    "bright colors, symbols, graffiti, watermarks, worst quality, inconsistent motion, blurry, jittery, distorted",
    "A woman with long brown hair and light skin smiles at another woman with long blonde hair.",
    "The video depicts a winding mountain road covered in snow, with a single vehicle traveling along it.",
    "The camera pans over a snow-covered mountain range, revealing a vast expanse of snow-capped peaks and valleys.",
)


@cache
def sentencepiece_model() -> bytes:
    """Train a unigram model with the numbers of T5's special tokens on a few hundred words."""
    written = io.BytesIO()
    texts = [*MAKERS_PROMPTS, *MOVING_PHRASES, *STILL_PHRASES, *JUDGED_FRAMES, *vocabulary()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, *string.printable[:94]]),
        model_writer=written,
        model_type="unigram",
        vocab_size=PIECES,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=True,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def write_tokenizer(folder: Path, max_length: int) -> None:
    """Write the four files of the `tokenizer` folder.

    Args:
        max_length: what the tokenizer says of itself; 128 in every LTX-Video repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    sentinels = [f"<extra_id_{number}>" for number in range(EXTRA)]
    numbers = {token: SIZE - 1 - place for place, token in enumerate(sentinels)}
    write_json(folder / "added_tokens.json", numbers)
    write_json(
        folder / "special_tokens_map.json",
        {
            "additional_special_tokens": sentinels,
            **{name: _plain(token) for name, token in SPECIAL.items()},
        },
    )
    described = dict(enumerate(SPECIAL.values())) | {number: token for token, number in numbers.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": True,
            "added_tokens_decoder": {
                str(number): {**_plain(described[number]), "special": True} for number in sorted(described)
            },
            "additional_special_tokens": sentinels,
            "clean_up_tokenization_spaces": True,
            "extra_ids": EXTRA,
            "legacy": True,
            "model_max_length": max_length,
            "sp_model_kwargs": {},
            "tokenizer_class": "T5Tokenizer",
            **SPECIAL,
        },
    )


def _plain(token: str) -> dict[str, object]:
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
