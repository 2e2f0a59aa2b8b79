"""A demo model says which words of a prompt it was never taught."""

from __future__ import annotations

import random

import pytest

from pipelines.catalogue import get_card, load_catalogue
from pipelines.vocabulary import MOST_NAMED, unknown_words
from training.world import COMBINATIONS, describe, judged_prompts, sample_scene, vocabulary


def test_the_card_has_the_words_that_were_taught() -> None:
    assert sorted(get_card("ltx-tiny").vocabulary) == sorted(vocabulary())
    assert [each.id for each in load_catalogue().values() if each.vocabulary] == ["ltx-tiny"]


def test_every_sentence_of_its_world_is_known() -> None:
    card, dice = get_card("ltx-tiny"), random.Random(1)
    for _ in range(100):
        scene = sample_scene(dice, COMBINATIONS)
        for prompt in (describe(scene, dice), describe(scene, dice).upper(), *judged_prompts(scene)):
            assert unknown_words(prompt, card) == ()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a cat playing piano", "cat, playing, piano"),
        ("A red circle moves left, isn't it? A red CAT", "isn't, it, cat"),
        ("猫 moves", "猫"),
        ("7 circles", "circles"),
    ],
)
def test_words_of_another_world_are_named_with_what_it_can_do(prompt: str, words: str) -> None:
    (warning,) = unknown_words(prompt, get_card("ltx-tiny"))
    assert warning.startswith(f"unknown_words: ltx-tiny does not know {words}. It draws one circle")


def test_a_long_prompt_is_not_named_whole() -> None:
    many = " ".join(f"word{chr(97 + n)}" for n in range(26))
    (warning,) = unknown_words(many, get_card("ltx-tiny"))
    assert warning.count("word") == MOST_NAMED + 1  # and unknown_words itself
    assert "and more. It draws" in warning


def test_a_model_that_was_trained_on_language_knows_every_word() -> None:
    assert unknown_words("a cat playing piano", get_card("ltx-video-0.9.5")) == ()
