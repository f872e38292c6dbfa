from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.synth.signs import FONTS, SIDE, draw_scene, draw_sign

seeds = st.integers(0, 10_000)
signs = st.one_of(
    st.lists(st.from_regex(r"[0-9]{3}", fullmatch=True), min_size=2, max_size=2),
    st.lists(st.from_regex(r"[A-Z]{2}", fullmatch=True), min_size=2, max_size=2),
)


@given(signs, seeds)
def test_a_sign_is_dark_text_on_light_ground(rows: list[str], seed: int):
    sign = draw_sign(rows, random.Random(seed))
    assert (sign.shape, sign.dtype) == ((SIDE, SIDE, 3), np.uint8)
    light, dark = np.percentile(sign.mean(axis=2), [90, 0])
    assert light > 185
    assert dark < 65
    ink = (sign.mean(axis=2) < (light + dark) / 2).mean()
    assert 0.04 < ink < 0.5


@given(signs, seeds)
def test_the_same_generator_draws_the_same_pixels(rows: list[str], seed: int):
    one, other = (draw_sign(rows, random.Random(seed)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("alphabet", ["0123456789", "BDFGKLMNPRSTVZAEIOU"])
def test_no_two_characters_look_alike_in_any_font(alphabet: str):
    for seed in range(4 * FONTS):  # a few signs in each font
        drawn = {
            character: draw_sign([character * 2] * 2, random.Random(seed)).astype(int)
            for character in alphabet
        }
        for one in alphabet:
            for other in alphabet[: alphabet.index(one)]:
                differing = np.abs(drawn[one] - drawn[other]).max(axis=2) > 60
                assert differing.mean() > 0.01, (one, other, seed)


@given(seeds)
def test_a_scene_holds_its_sign_in_its_box(seed: int):
    rng = random.Random(seed)
    sign = draw_sign(["123", "456"], rng)
    scene, box = draw_scene(sign, rng, scale=3)
    x, y, right, bottom = (round(each * 3 * SIDE / 1000) for each in box)
    assert scene.shape == (3 * SIDE, 3 * SIDE, 3)
    np.testing.assert_array_equal(scene[y:bottom, x:right], sign)


@given(seeds)
def test_a_sign_is_a_ninth_of_its_scene(seed: int):
    rng = random.Random(seed)
    _, (left, top, right, bottom) = draw_scene(draw_sign(["1"], rng), rng, scale=3)
    # Where the whole scene is seen at 84 pixels, the sign has 28 and a digit of it about 9.
    assert 332 <= right - left <= 334
    assert 332 <= bottom - top <= 334
    assert 0 <= left < right <= 1000
    assert 0 <= top < bottom <= 1000
