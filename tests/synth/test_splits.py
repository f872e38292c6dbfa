from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from visual_arft.synth.splits import TEST, split_of, stream
from visual_arft.synth.world import SYLLABLES, names

NUMBERS = [f"{n:06}"[:3] + " " + f"{n:06}"[3:] for n in range(0, 1_000_000, 97)]


def test_a_quarter_of_all_answers_is_held_out():
    held_out = sum(split_of(text) == TEST for text in NUMBERS)
    assert 0.235 < held_out / len(NUMBERS) < 0.265
    known, new = names("train"), names("test")
    assert not set(known) & set(new)
    assert len(known) + len(new) == len(SYLLABLES) ** 2
    assert 0.23 < len(new) / (len(known) + len(new)) < 0.27


def test_no_digit_and_no_syllable_tells_the_split():
    for place in range(7):
        for digit in {text[place] for text in NUMBERS}:
            alike = [split_of(text) for text in NUMBERS if text[place] == digit]
            assert 0.19 < alike.count(TEST) / len(alike) < 0.31
    for split in ("train", "test"):
        assert {name[:2] for name in names(split)} == set(SYLLABLES)
        assert {name[2:] for name in names(split)} == set(SYLLABLES)


@given(st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True), st.integers(0, 8))
def test_blanks_and_case_do_not_move_an_answer(text: str, at: int):
    # An answer that the scoring takes for the same must not be on the other side.
    assert split_of(text) == split_of(text.swapcase()) == split_of(f" {text[:at]}  {text[at:]}")


def test_a_stream_is_its_key_s_own():
    assert stream("coding", 1).random() == stream("coding", 1).random()
    keys = [("coding", 1), ("coding", 2), ("search", 1), ("coding", 1, 1), ("coding",)]
    assert len({stream(*key).random() for key in keys}) == len(keys)
