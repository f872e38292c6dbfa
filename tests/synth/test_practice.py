from __future__ import annotations

import re

import pytest

from visual_arft import tags
from visual_arft.images import MemoryImages
from visual_arft.synth.coding import QUESTION
from visual_arft.synth.practice import Practice
from visual_arft.synth.splits import split_of
from visual_arft.types import Malformed, Trajectory

NAME = re.compile(r"\b(?:[A-Z][aeiou]){2}\b")
NUMBER = re.compile(r"\d{3} \d{3}")


@pytest.fixture(scope="module")
def practice() -> list[Trajectory]:
    return Practice(0, MemoryImages())(0, 600)


def kind(conversation: Trajectory) -> str:
    opening = conversation.turns[0].prompt.messages[0]
    if opening.images:
        return "read"
    return "recall" if opening.text.startswith("1. Content:") else "copy"


def written(conversation: Trajectory) -> str:
    """All that is said in a conversation, on both sides."""
    messages = [m.text for turn in conversation.turns for m in turn.prompt.messages]
    return "\n".join([*messages, *(turn.completion.text for turn in conversation.turns)])


def test_signs_and_facts_are_of_the_training_split(practice: list[Trajectory]):
    taught = [written(each) for each in practice if kind(each) != "copy"]
    said = {text for each in taught for pattern in (NAME, NUMBER) for text in pattern.findall(each)}
    assert len(said) > 500
    assert {split_of(text) for text in said} == {"train"}


def test_a_sign_is_asked_about_in_the_agents_own_words(practice: list[Trajectory]):
    for each in practice:
        if kind(each) == "read":
            assert all(turn.prompt.messages[-1].text == QUESTION for turn in each.turns)
            assert all(re.fullmatch(r"\w{4}|\d{3} \d{3}", t.completion.text) for t in each.turns)


def test_recalled_facts_are_those_that_were_told(practice: list[Trajectory]):
    for each in practice:
        if kind(each) == "recall":
            [turn] = each.turns
            told = re.findall(r"Content:([^.]*\.)", turn.prompt.messages[0].text)
            assert sorted(re.findall(r"\w+ \w+: \w+\.", turn.completion.text)) == sorted(told)


def test_a_copy_is_what_was_said(practice: list[Trajectory]):
    for each in practice:
        if kind(each) == "copy":
            [turn] = each.turns
            assert turn.completion.text == turn.prompt.messages[0].text


def test_no_reply_is_an_action(practice: list[Trajectory]):
    replies = [turn.completion.text for each in practice for turn in each.turns]
    assert all(isinstance(tags.parse(reply, tags.TAGS), Malformed) for reply in replies)


def test_a_conversation_is_the_same_for_its_number(practice: list[Trajectory]):
    assert Practice(0, MemoryImages())(17, 3) == practice[17:20]
