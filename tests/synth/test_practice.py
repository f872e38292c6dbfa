from __future__ import annotations

import re

import pytest

from visual_arft import tags
from visual_arft.envs.coding.grammar import PROBLEMS
from visual_arft.images import MemoryImages
from visual_arft.synth.coding import QUESTION
from visual_arft.synth.practice import LOOK_QUESTION, LOOKS, Practice, says_held_out
from visual_arft.synth.splits import split_of
from visual_arft.types import Malformed, Trajectory

HOLDABLE = re.compile(r"(?=((?:[A-Z][aeiou]){2}|\d{6}))")


@pytest.fixture(scope="module")
def practice() -> list[Trajectory]:
    return Practice(0, MemoryImages())(0, 600)


def kind(conversation: Trajectory) -> str:
    opening = conversation.turns[0].prompt.messages[0]
    if opening.images:
        return "look" if opening.text == LOOK_QUESTION else "read"
    if opening.text.startswith("1. Content:"):
        return "recall"
    return "copy" if opening.text == conversation.turns[0].completion.text else "pick"


def written(conversation: Trajectory) -> list[str]:
    """All that is said in a conversation, on both sides."""
    messages = [m.text for turn in conversation.turns for m in turn.prompt.messages]
    return [*messages, *(turn.completion.text for turn in conversation.turns)]


def test_what_is_held_out_is_never_said(practice: list[Trajectory]):
    texts = [re.sub(r"\s", "", text) for each in practice for text in written(each)]
    said = {found for text in texts for found in HOLDABLE.findall(text)}
    names = {found for found in said if found[0].isalpha()}
    assert min(len(names), len(said - names)) > 200
    assert {split_of(found) for found in said} == {"train"}


@pytest.mark.parametrize(
    ("text", "held_out"),
    [("BaBa", False), ("BaBe", True), ("TaBaBeTa", True), ("Ba\nBe", True), ("baBe", False)],
)
def test_a_held_out_name_is_found_wherever_it_stands(text: str, held_out: bool):
    assert says_held_out(text) == held_out


def test_a_held_out_number_is_found_across_blanks():
    number = next(f"{n:06}" for n in range(10**6) if split_of(f"{n:06}") == "test")
    assert says_held_out(f"x {number[:3]} {number[3:]}7")
    assert not says_held_out(f"{number[:3]}, {number[3:]}")


def test_a_sign_is_asked_about_in_the_agents_own_words(practice: list[Trajectory]):
    for each in practice:
        if kind(each) == "read":
            assert all(turn.prompt.messages[-1].text == QUESTION for turn in each.turns)
            assert all(re.fullmatch(r"\w{4}|\d{3} \d{3}", t.completion.text) for t in each.turns)


def test_a_look_names_no_repair(practice: list[Trajectory]):
    said = {each.turns[0].completion.text for each in practice if kind(each) == "look"}
    assert said == set(LOOKS.values())
    assert not any(problem in text.lower() for text in said for problem in PROBLEMS)


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


def test_picked_are_the_numbers_in_brackets(practice: list[Trajectory]):
    picked = [each.turns[0] for each in practice if kind(each) == "pick"]
    assert picked
    for turn in picked:
        [inside] = re.findall(r"\[\d[\d, ]*\]", turn.prompt.messages[0].text)
        assert turn.completion.text == inside


def test_no_reply_is_an_action(practice: list[Trajectory]):
    replies = [turn.completion.text for each in practice for turn in each.turns]
    assert all(isinstance(tags.parse(reply, tags.TAGS), Malformed) for reply in replies)


def test_a_conversation_is_the_same_for_its_number(practice: list[Trajectory]):
    assert Practice(0, MemoryImages())(17, 3) == practice[17:20]
