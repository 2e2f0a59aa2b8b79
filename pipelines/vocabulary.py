"""The words of a model that knows only some, and those of a prompt that are none of them. No torch."""

from __future__ import annotations

import re

from pipelines.card import ModelCard

MOST_NAMED = 8
"""How many words a warning names; a long prompt about something else has hundreds."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def unknown_words(prompt: str, card: ModelCard) -> tuple[str, ...]:
    """A sentence about the words of a prompt that the model does not know; nothing if it knows them all."""
    if not card.vocabulary:
        return ()
    said = dict.fromkeys(word.lower() for word in _WORD.findall(prompt))
    unknown = [word for word in said if word not in card.vocabulary]
    if not unknown:
        return ()
    named = ", ".join(unknown[:MOST_NAMED]) + (" and more" if len(unknown) > MOST_NAMED else "")
    return (f"unknown_words: {card.id} does not know {named}. {card.advice or ''}".strip(),)
