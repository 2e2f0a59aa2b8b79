"""A T5 tokenizer for the synthetic world: whole words where the grammar has them, single characters elsewhere."""

from __future__ import annotations

import string

from transformers import T5Tokenizer

from training.world import vocabulary

# A unigram model picks the cheapest split; a word must cost less than its letters.
WORD_SCORE, CHARACTER_SCORE = -2.0, -10.0
SPACE = "▁"


def build_tokenizer() -> T5Tokenizer:
    """Pieces for every word, with and without a leading space and capital, and for every printable ASCII character."""
    words = vocabulary()
    pieces = [SPACE + word for word in words] + [SPACE + word.capitalize() for word in words] + words
    characters = [c for c in string.ascii_letters + string.digits + string.punctuation if c not in words] + [SPACE]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored = [(piece, WORD_SCORE) for piece in dict.fromkeys(pieces)]
    scored += [(character, CHARACTER_SCORE) for character in characters if character not in pieces]
    return T5Tokenizer(vocab=special + scored, extra_ids=0, model_max_length=512)
